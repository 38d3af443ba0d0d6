"""What `config.data.source` and its fields open: phantoms, what is named, what is found, or a download."""

import pathlib
import shutil
import sys
import time

import numpy as np
import pytest

from bt_jax.common import waiting
from bt_jax.common.errors import UsageError
from bt_jax.data import class_labels, sources
from bt_jax.data.io import decode
from bt_jax.data.phantoms import phantom


def closed_environment(monkeypatch: pytest.MonkeyPatch, directory: pathlib.Path) -> None:
    """No data anywhere, and no key to download any."""
    monkeypatch.chdir(directory)
    for name in ("BT_DATA", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(directory / "no_kaggle"))
    monkeypatch.setattr(sources, "KAGGLE_INPUT", directory / "kaggle_input")


def test_phantoms_are_a_divided_source_of_readable_images_with_a_notice():
    source = sources.open_source("phantoms", directory=None, phantoms_per_class=(5, 2), seed=3)
    assert source.synthetic and source.notice == class_labels.SYNTHETIC_NOTICE
    assert source.class_names == class_labels.BRAIN_TUMOR_CLASSES
    counts = {split: len(source.select_split(split).records) for split in ("Training", "Testing")}
    assert counts == {"Training": 20, "Testing": 8}
    assert source.groups.keys() == {record.path for record in source.records}
    path = "Training/no_tumor/phantom_0002.png"
    drawn = phantom.render(1, label="no_tumor", seed=3).image
    np.testing.assert_array_equal(decode.decode_image(source.read(path), name=path), drawn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phantoms_per_class": (8,)}, r"config\.data\.phantoms_per_class is \(8,\): use two numbers"),
        ({"phantoms_per_class": (8, -1)}, r"config\.data\.phantoms_per_class is \(8, -1\)"),
        ({"seed": -1}, r"config\.seed is -1"),
        ({"directory": "a.zip"}, r"config\.data\.dir is 'a\.zip', but config\.data\.source is phantoms"),
    ],
)
def test_impossible_phantoms(options, message):
    with pytest.raises(UsageError, match=message):
        sources.open_source("phantoms", **{"directory": None} | options)


def test_unknown_source():
    with pytest.raises(UsageError, match=r"config\.data\.source is 'kaggle': use auto, folder or phantoms"):
        sources.open_source("kaggle", directory=None)


def test_folder_needs_a_directory():
    with pytest.raises(UsageError, match=r"set config\.data\.dir"):
        sources.open_source("folder", directory="")


def test_auto_takes_the_named_folder_then_the_environment_then_the_default(kaggle, tmp_path, monkeypatch):
    closed_environment(monkeypatch, tmp_path)
    named, environment, default = (tmp_path / name for name in ("named", "environment", sources.DEFAULT_DIRECTORY))
    default.parent.mkdir()
    for directory in (named, environment, default):
        directory.symlink_to(kaggle.path)
    monkeypatch.setenv("BT_DATA", str(environment))
    assert sources.open_source("auto", directory=str(named)).description == f"folder {named}"
    assert sources.open_source("auto", directory="").description == f"folder {environment}"
    monkeypatch.delenv("BT_DATA")
    source = sources.open_source("auto", directory="")
    assert source.description == f"folder {sources.DEFAULT_DIRECTORY}"
    assert not source.synthetic and source.warnings == ()


@pytest.mark.parametrize("place", ["brain-mri", "datasets/owner/brain-mri", "brain-mri/versions/1"])
def test_auto_finds_the_data_set_attached_to_a_kaggle_notebook(kaggle, tmp_path, monkeypatch, place):
    closed_environment(monkeypatch, tmp_path)
    shutil.copytree(kaggle.path, tmp_path / "kaggle_input" / place)
    (tmp_path / "kaggle_input" / "empty").mkdir()
    source = sources.open_source("auto", directory="")
    assert str(tmp_path / "kaggle_input" / place) in source.description and not source.synthetic
    shutil.copytree(kaggle.path, tmp_path / "kaggle_input" / "other")
    with pytest.raises(UsageError, match=r"several data sets are attached: name one .*brain-mri.*other"):
        sources.open_source("auto", directory="")


def test_auto_with_something_named_that_is_not_there_is_an_error(kaggle, tmp_path, monkeypatch):
    closed_environment(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match=r"config\.data\.dir is 'missing'"):
        sources.open_source("auto", directory="missing")
    monkeypatch.setenv("BT_DATA", "missing")
    with pytest.raises(UsageError, match=r"\$BT_DATA is 'missing'"):
        sources.open_source("auto", directory=None)


def test_auto_goes_on_with_phantoms_and_a_warning_nobody_can_miss(tmp_path, monkeypatch):
    closed_environment(monkeypatch, tmp_path)
    source = sources.open_source("auto", directory=None, phantoms_per_class=(1, 1))
    assert source.synthetic
    (warning,) = source.warnings
    assert warning.startswith("NO MRI DATA FOUND, USING SYNTHETIC PHANTOMS")
    assert "$BT_DATA" in warning and "no Kaggle key" in warning


def test_kaggle_key_without_kagglehub_says_what_to_install(tmp_path, monkeypatch):
    closed_environment(monkeypatch, tmp_path)
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    (tmp_path / "no_kaggle").mkdir()
    (tmp_path / "no_kaggle/kaggle.json").write_text("{}")
    source = sources.open_source("auto", directory=None, phantoms_per_class=(1, 1))
    assert source.synthetic and "pip install kagglehub" in source.warnings[0]


def test_kaggle_download_is_used_and_its_failure_reported(kaggle, tmp_path, monkeypatch):
    class Hub:
        def __init__(self) -> None:
            self.asked: list[str] = []
            self.error: Exception | None = None

        def dataset_download(self, name: str) -> str:
            self.asked.append(name)
            if self.error is not None:
                raise self.error
            return str(kaggle.path)

    closed_environment(monkeypatch, tmp_path)
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "key")
    hub = Hub()
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    source = sources.open_source("auto", directory=None)
    assert hub.asked == [sources.KAGGLE_DATASET]
    assert source.records == kaggle.open().records
    hub.error = ConnectionError("no network\nat all")
    source = sources.open_source("auto", directory=None, phantoms_per_class=(1, 1))
    assert source.synthetic and "the Kaggle download failed: no network at all" in source.warnings[0]


def test_a_long_download_says_that_it_goes_on(kaggle, tmp_path, monkeypatch, capsys):
    class Hub:
        @staticmethod
        def dataset_download(name: str) -> str:
            time.sleep(0.1)
            return str(kaggle.path)

    closed_environment(monkeypatch, tmp_path)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "key")
    monkeypatch.setitem(sys.modules, "kagglehub", Hub)
    monkeypatch.setattr(waiting, "_FIRST", 0.01)
    sources.open_source("auto", directory=None)
    assert f"downloading {sources.KAGGLE_DATASET} from Kaggle: 0 s so far" in capsys.readouterr().err

"""Workdirs in a bucket, with one in memory for it."""

import itertools
import json
import pathlib

import pytest
from etils import epath
from etils.epath.backend import fsspec_backend
from fsspec.implementations.memory import MemoryFileSystem

from bt_jax.common.errors import UsageError
from bt_jax.training import train
from bt_jax.workdir import checkpoint, remote
from bt_jax.workdir.remote import Mirror
from tests import runs

_NAMES = (f"gs://bucket-{number}/runs/first" for number in itertools.count())


class Bucket(MemoryFileSystem):
    """Files in memory under the names of a bucket."""

    protocol = ("gs", "gcs")

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("gs://").strip("/")


@pytest.fixture
def url(monkeypatch, tmp_path) -> str:
    monkeypatch.setenv("BT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fsspec_backend, "fs", lambda path: Bucket())
    return next(_NAMES)


def test_what_names_a_bucket():
    assert remote.is_remote("gs://bucket/run")
    assert not remote.is_remote(pathlib.Path("runs/first"))


def test_files_are_there_after_a_push_and_here_after_a_pull(url):
    copy = Mirror(url)
    folder = copy.pull()
    (folder / "config.json").write_text("{}")
    (folder / "report" / "validation").mkdir(parents=True)
    (folder / "report" / "validation" / "metrics.json").write_text("1")
    (folder / ".metrics.json.tmp").write_text("half")
    (folder / "lock").write_text("")
    (folder / "checkpoints" / "40").mkdir(parents=True)
    (folder / "checkpoints" / "40" / "array").write_text("")
    copy.push()
    bucket = epath.Path(url)
    assert (bucket / "report" / "validation" / "metrics.json").read_text() == "1"
    assert {path.name for path in bucket.iterdir()} == {"config.json", "report"}

    other = Mirror(url, process=1).pull()
    assert other != folder
    assert (other / "config.json").read_text() == "{}"
    assert (other / "report" / "validation" / "metrics.json").read_text() == "1"
    assert remote.get_bucket(other) == bucket


def test_only_what_has_changed_is_copied(url, monkeypatch):
    copy = Mirror(url)
    folder = copy.pull()
    for name in ("a", "b"):
        (folder / name).write_text(name)
    copy.push()
    (folder / "a").write_text("changed")
    (folder / "b").unlink()
    written: list[str] = []
    original = Bucket._open

    def noted(self, path, mode="rb", **options):
        if "w" in mode:
            written.append(path)
        return original(self, path, mode=mode, **options)

    monkeypatch.setattr(Bucket, "_open", noted)
    copy.push()
    assert [path.rpartition("/")[2] for path in written] == ["a"]
    assert [path.name for path in epath.Path(url).iterdir()] == ["a"]


def test_a_pull_forgets_what_another_run_left_here(url):
    folder = Mirror(url).pull()
    (folder / "left").write_text("")
    assert not (Mirror(url).pull() / "left").exists()


def test_checkpoints_of_the_copy_are_those_of_the_bucket(url, tmp_path):
    folder = Mirror(url).pull()
    assert checkpoint._get_folder(folder) == epath.Path(url) / "checkpoints"
    (folder / "fold_3").mkdir()
    assert checkpoint._get_folder(folder / "fold_3") == epath.Path(url) / "fold_3" / "checkpoints"
    assert checkpoint._get_folder(tmp_path) == epath.Path(tmp_path) / "checkpoints"


def test_a_bucket_that_cannot_be_read_is_one_line(url, monkeypatch):
    def refused(*_, **__):
        raise PermissionError("403\nno access")

    monkeypatch.setattr(Bucket, "exists", refused)
    with pytest.raises(UsageError, match=rf"^{url} cannot be read \(PermissionError: 403 no access\)$"):
        Mirror(url).pull()


@pytest.mark.slow
def test_a_run_in_a_bucket_goes_on_from_there(url, tmp_path, monkeypatch, capsys):
    """With its checkpoints in a folder, since TensorStore goes to buckets by itself."""
    monkeypatch.setattr(remote, "get_bucket", lambda folder: epath.Path(tmp_path / "checkpoints of the bucket"))
    config = runs.small_config(stages__count=1)
    for number in range(2):  # the second on another host, which finds a finished run and reports again
        copy = Mirror(url, process=number)
        assert train.train_and_evaluate(config, copy.pull(), publish=copy.push) == 0
    assert "resuming from step 10, in stage 1" in capsys.readouterr().out
    bucket = epath.Path(url)
    assert len((bucket / "metrics.jsonl").read_text().splitlines()) == len(runs.rows(copy.folder)) > 0
    for name in ("config.json", "split.csv", "report/model_card.md", "report/validation/metrics.json"):
        assert (bucket / name).exists(), name
    assert len(json.loads((bucket / "run.json").read_text())["starts"]) == 2

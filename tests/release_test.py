"""The command that makes a final model: from nothing to a file with a card, and from where it stopped."""

import json
import sys

import numpy as np
import pytest

from bt_jax.data import sources
from bt_jax.data.io.decode import decode_image
from bt_jax.inference import loading
from tests import runs

FIELDS = (
    "--config=configs/mlp.py:demo", "--config.data.phantoms_per_class=(20,4)", "--config.data.folds=2",
    "--config.data.fold=-1", "--config.preprocess.size=16", "--config.stages.head_epochs=1", "--config.stages.epochs=1",
    "--config.eval.examples=0",
)  # fmt: skip


def release(*flags: str):
    return runs.run([sys.executable, "-m", "bt_jax.release", *flags])


@pytest.mark.slow
def test_from_nothing_to_a_file_and_again(tmp_path):
    out = tmp_path / "model.safetensors"
    flags = (*FIELDS, f"--workdir={tmp_path / 'work'}", f"--out={out}", "--accuracy=0.1")
    ended = release(*flags)
    assert ended.returncode == 0, ended.stderr
    assert "compared on 80 images: probabilities differ by up to" in ended.stdout
    first, card = out.read_bytes(), out.with_suffix(".md").read_text()
    for said in (
        "# mlp, trained on all images", "**SYNTHETIC PHANTOMS", "| out_of_fold | 80 | 40 |", "training 80",
        "fitted on the 80 out-of-fold predictions of 2 folds", "## Answers without a warning",
    ):  # fmt: skip
        assert said in card
    again = release(*flags)  # finished runs are only reported again
    assert again.returncode == 0, again.stderr
    assert out.read_bytes() == first

    final = tmp_path / "work" / "final"
    assert {row.split(",")[4] for row in (final / "split.csv").read_text().splitlines()[1:]} == {"training", "testing"}
    assert not [row for row in runs.rows(final) if "val/loss" in row]
    whole, half = loading.load(final), loading.load(out)
    assert half.temperature == whole.temperature and half.confidence_limit == whole.confidence_limit
    told = (
        "An answer carries a warning if"
        if half.confidence_limit
        else "No limit of the confidence left 10% right answers"
    )
    assert told in card
    source = sources.open_phantoms(per_class=(4, 0), seed=3)
    images = np.stack([whole.preprocessing(decode_image(source.read(one.path), name="")) for one in source.records])
    np.testing.assert_allclose(half.predict_probabilities(images), whole.predict_probabilities(images), atol=1e-2)
    np.testing.assert_allclose(half.predict(images).ood_scores, whole.predict(images).ood_scores, rtol=1e-2)
    scores = json.loads((tmp_path / "work" / "folds" / "cross_validation.json").read_bytes())
    assert scores["pooled"]["n"] == whole.temperature.images == 80
    assert f"temperature {whole.temperature.value:.3f}, fitted on the 80" in again.stdout  # its report is calibrated


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--config is missing"),
        (("--config=configs/mlp.py:demo", "--workdir=W"), "--out is missing"),
        (("--config=configs/mlp.py:demo", "--workdir=W", "--out=W/a.onnx"), "use a name that ends in .safetensors"),
        ((*FIELDS, "--config.data.folds=0", "--config.data.fold=0", "--workdir=W", "--out=W/a.safetensors"),
         "config.data.folds is 0, so nothing would measure the final model"),
        ((*FIELDS, "--config.data.probe=no_tumor:web", "--workdir=W", "--out=W/a.safetensors"),
         "but a final model trains on all images"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path, flags, said):
    ended = release(*(flag.replace("=W", f"={tmp_path}") for flag in flags))
    assert ended.returncode == 2 and ended.stdout == ""
    assert said in ended.stderr and len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert list(tmp_path.iterdir()) == []

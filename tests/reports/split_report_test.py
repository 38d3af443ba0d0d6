import csv
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.metrics import classification
from bt_jax.metrics.by_patient import Patients
from bt_jax.metrics.calibration import Calibration
from bt_jax.reports import plots, score_text, split_report

NOTICE = "SYNTHETIC PHANTOMS - not medical data"
FILES = {
    "metrics.json", "predictions.csv", "classification_report.txt", "confusion_matrix.png", "roc_curves.png",
    "calibration.png", "images.csv",
}  # fmt: skip


def write(directory: pathlib.Path, n: int = 40, **options: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    labels = rng.integers(0, 4, n)
    logits = (rng.normal(size=(n, 4)) + np.eye(4)[labels]).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    result = split_report.write_split_report(
        directory,
        split=directory.name,
        paths=[f"Testing/x/image ({i}),a.jpg" for i in range(n)],
        labels=labels,
        probabilities=probabilities,
        class_names=BRAIN_TUMOR_CLASSES,
        **options,
    )
    return result, labels, probabilities


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """The options of every picture, which is then not drawn."""
    drawn: dict[str, list[dict[str, Any]]] = {"confusion_matrix": [], "roc_curves": [], "calibration": []}
    for name, options_of in drawn.items():
        monkeypatch.setattr(plots, f"draw_{name}", lambda path, _drawn=options_of, **options: _drawn.append(options))
    return drawn


def test_split_report_writes_the_agreed_files(tmp_path: pathlib.Path) -> None:
    leaked = np.arange(40) < 15
    result, labels, probabilities = write(tmp_path / "testing", leaked=leaked, notice=NOTICE)
    assert {file.name for file in (tmp_path / "testing").iterdir()} == FILES
    assert json.loads((tmp_path / "testing" / "metrics.json").read_text()) == result
    assert result == classification.score(
        split="testing", labels=labels, probabilities=probabilities, class_names=BRAIN_TUMOR_CLASSES, leaked=leaked
    )
    text = (tmp_path / "testing" / "classification_report.txt").read_text()
    assert text == f"{NOTICE}\n\n{score_text.format_classification_report(result)}"
    for name in FILES:
        if name.endswith(".png"):
            with Image.open(tmp_path / "testing" / name) as image:
                assert min(image.size) > 500


@pytest.mark.usefixtures("undrawn")
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


def test_empty_split_has_its_report(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "testing", n=0)
    assert {file.name for file in (tmp_path / "testing").iterdir()} == FILES
    assert (tmp_path / "testing" / "predictions.csv").read_text().count("\n") == 1
    assert json.loads((tmp_path / "testing" / "metrics.json").read_text())["accuracy"] is None


def test_split_report_refuses_paths_that_do_not_fit(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="1 paths for 2 labels"):
        split_report.write_split_report(
            tmp_path,
            split="testing",
            paths=["a.jpg"],
            labels=np.array([0, 1]),
            probabilities=np.eye(2),
            class_names=["a", "b"],
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("undrawn")
def test_every_image_has_its_patient_and_whether_it_is_leaked(tmp_path: pathlib.Path) -> None:
    known = Patients([f"p{i // 2}" for i in range(40)], "by a table")
    result, _, _ = write(tmp_path / "testing", leaked=np.arange(40) < 3, patients=known, known=np.arange(40) > 37)
    with (tmp_path / "testing" / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "patient", "leaked", "known_patient"]
    assert [row["patient"] for row in rows] == list(known.groups)
    assert [row["leaked"] for row in rows] == ["1"] * 3 + ["0"] * 37
    assert [row["known_patient"] for row in rows] == ["0"] * 38 + ["1"] * 2
    assert rows[5]["path"] == "Testing/x/image (5),a.jpg"
    assert result["patients"]["n"] == 20
    write(tmp_path / "unknown")
    assert (tmp_path / "unknown" / "images.csv").read_text().splitlines()[1].endswith(",,0,")


@pytest.mark.parametrize(
    ("leaked", "drawn", "said"),
    [
        (0, 40, None),
        (8, 32, "32 clean images"),
        (15, 40, "40 images, 15 of them leaked"),
        (40, 40, "40 images, 40 of them leaked"),
    ],
)
def test_pictures_are_of_the_clean_images_where_there_are_enough(
    tmp_path: pathlib.Path, undrawn: dict[str, list[dict[str, Any]]], leaked: int, drawn: int, said: str | None
) -> None:
    change = Calibration(np.full((40, 4), 0.25), temperature=1.5, fitted_on="others", biased=False)
    result, labels, probabilities = write(tmp_path / "testing", leaked=np.arange(40) < leaked, change=change)
    shown = {name: options[0] for name, options in undrawn.items()}
    assert np.sum(shown["confusion_matrix"]["metrics"]["confusion_matrix"]) == drawn
    for name in ("roc_curves", "calibration"):
        np.testing.assert_array_equal(shown[name]["labels"], labels[40 - drawn :])
        np.testing.assert_array_equal(shown[name]["probabilities"], probabilities[40 - drawn :])
    assert len(shown["calibration"]["uncalibrated"]) == drawn
    for options in shown.values():
        assert said is None or said in options["title"]
        assert (result["caution"] is None) or result["caution"] in options["title"]
    assert ("accuracy" in shown["confusion_matrix"]["title"]) == (leaked <= 10)
    assert "temperature 1.500, fitted on others" in shown["calibration"]["title"]


def test_the_picture_of_calibration_says_when_it_flatters(
    tmp_path: pathlib.Path, undrawn: dict[str, list[dict[str, Any]]]
) -> None:
    for temperature, biased in ((1.5, True), (None, False)):
        change = Calibration(np.full((40, 4), 0.25), temperature=temperature, fitted_on="the images", biased=biased)
        write(tmp_path / "validation", change=change)
    titles = [options["title"] for options in undrawn["calibration"]]
    assert "so the error after calibration is optimistic" in titles[0]
    assert "optimistic" not in titles[1]
    assert "one temperature per fold, fitted on the images" in titles[1]

import re
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.metrics import classification
from bt_jax.metrics.by_patient import Patients
from bt_jax.metrics.calibration import Calibration, softmax
from bt_jax.reports import score_text

COLUMNS = {
    "precision": "precision", "recall": "recall", "f1": "f1-score", "specificity": "specificity", "auc": "AUC",
    "average_precision": "PR-AUC", "sensitivity_at_specificity_90": "sens@sp.90",
    "sensitivity_at_specificity_95": "sens@sp.95",
}  # fmt: skip


def scored(n: int = 120, leaked: int = 0, present: tuple[int, ...] = (0, 1, 2, 3), **options: Any) -> dict[str, Any]:
    """The first images are leaked."""
    rng = np.random.default_rng(n)
    labels = rng.choice(np.array(present), n)
    logits = rng.normal(size=(n, 4)) + 1.5 * np.eye(4)[labels]
    return classification.score(
        split="testing", labels=labels, probabilities=softmax(logits), class_names=BRAIN_TUMOR_CLASSES,
        leaked=np.arange(n) < leaked, **options,
    )  # fmt: skip


def test_report_is_aligned_and_complete() -> None:
    result = scored(present=(0, 1, 3))
    lines = score_text.format_classification_report(result).splitlines()
    assert lines[0] == "testing: 120 images"
    header = next(line for line in lines if "precision" in line)
    assert header.split() == [*COLUMNS.values(), "support"]
    rows = {line.split()[0]: line for line in lines if line.startswith(" ") and line.strip()}
    row = result["per_class"]["pituitary_tumor"]
    assert rows["pituitary_tumor"].split()[1:] == [f"{row[column]:.3f}" for column in COLUMNS] + [str(row["support"])]
    assert rows["no_tumor"].split()[1:4] == ["-"] * 3
    assert {len(line) for line in rows.values()} == {len(header)}
    matrix = np.array(result["confusion_matrix"])
    true, predicted = np.indices((4, 4)).reshape(2, -1)
    expected = sklearn.metrics.precision_recall_fscore_support(
        true, predicted, sample_weight=matrix.ravel(), average="weighted", zero_division=0
    )
    assert rows["weighted"].split()[2:5] == [f"{value:.3f}" for value in expected[:3]]


@pytest.mark.parametrize(("leaked", "shown"), [(0, 120), (20, 100), (120, 120)])
def test_a_probe_is_told_by_its_recall_and_what_its_images_are_taken_for(leaked: int, shown: int) -> None:
    patients = Patients([str(i // 2) for i in range(120)], "by groups.csv")
    result = scored(leaked=leaked, present=(1,), patients=patients)
    text = score_text.describe_shift_probe(result, of="meningioma_tumor without a known patient")
    part = result["subsets"]["clean"] if shown != 120 else result
    right = part["confusion_matrix"][1][1]
    assert text.startswith(f"recall {right / shown:.3f} (95 % interval 0.")
    assert (
        f"{shown} images of meningioma_tumor without a known patient, which were excluded from training; predicted"
        in text
    )
    wrong = [int(number) for number in re.findall(r"_tumor (\d+)", text.split("predicted as")[1])]
    assert sum(wrong) == shown - right and wrong == sorted(wrong, reverse=True)
    assert ("; excludes 20 images with a near-duplicate" in text) == (leaked == 20)


def test_a_probe_that_is_all_recognised() -> None:
    labels, patients = np.ones(12, int), Patients([str(i) for i in range(12)], "by groups.csv")
    result = classification.score(
        split="source_probe", labels=labels, probabilities=np.eye(4)[labels], class_names=BRAIN_TUMOR_CLASSES,
        patients=patients,
    )  # fmt: skip
    text = score_text.describe_shift_probe(result, of="these")
    assert text.startswith("recall 1.000 (95 % interval ") and text.endswith("excluded from training")


def test_report_shows_the_subsets_only_where_images_leak_and_the_clean_ones_first() -> None:
    assert "leaked" not in score_text.format_classification_report(scored())
    text = score_text.format_classification_report(scored(leaked=20))
    places = [
        text.index(f"testing, {name} images") for name in ("clean: 100", "leaked: 20", "clean and leaked together: 120")
    ]
    assert places == sorted(places)
    assert places[0] == 0


def test_report_begins_with_the_caution() -> None:
    few = score_text.format_classification_report(scored(leaked=110))
    assert few.startswith("CAUTION: Only 10 of 120 images are clean: too few")
    assert "too few images" in few.split("testing, leaked")[0]
    none = score_text.format_classification_report(scored(leaked=120))
    assert none.startswith("CAUTION: No clean image is left")
    assert "testing, clean" not in none
    assert none.count("precision") == 1


def test_report_tells_of_patients_where_they_are_known() -> None:
    known = scored(patients=Patients([f"p{i // 3}" for i in range(120)], "120 images by groups.csv"))
    text = score_text.format_classification_report(known)
    patients = known["patients"]
    assert "from resampling 40 patients with all their images" in text
    assert f"accuracy {score_text.format_interval(patients['image_intervals']['accuracy'])}, macro-F1" in text
    assert (
        f"by patient, from the mean probabilities of the patient's images: accuracy {patients['accuracy']:.3f}" in text
    )
    assert "grouping by patient: 120 images by groups.csv; images of unknown patients are grouped by similarity" in text
    assert f"; {patients['several_labels']} have images of several classes and count for the most frequent" in text
    assert "patient" not in score_text.format_classification_report(scored())


@pytest.mark.parametrize(
    ("leaked", "patients", "expected"),
    [
        (0, False, r"testing: 120 images, accuracy 0\.\d{3} \(95 % interval 0\.\d{3} to 0\.\d{3}\), macro-F1 0\.\d{3}"),
        (0, True, r"testing: 120 images of 40 patients, accuracy 0\.\d{3} \(95 % interval over patients 0\.\d+ to 0.*"),
        (40, False, r"testing: clean: 80 images, accuracy .*; leaked: 40 images, accuracy [^:;]*"),
        (116, False, r"testing: Only 4 of 120 .* scores\. clean: 4 images, \d correct; leaked: 116 images, .*"),
        (120, False, r"testing: No clean image is left: .* leaked: 120 images, accuracy [^:;]*"),
    ],
)
def test_the_line_leads_with_the_clean_images(leaked: int, patients: bool, expected: str) -> None:
    known = Patients([f"p{i // 3}" for i in range(120)], "") if patients else None
    line = score_text.summarise_scores(scored(leaked=leaked, patients=known))
    assert "\n" not in line
    assert re.fullmatch(expected, line), line


def test_the_line_of_an_empty_split() -> None:
    assert score_text.summarise_scores(scored(n=0)) == "testing: There are no images: nothing was measured."


def test_the_right_ones_of_a_few_are_counted() -> None:
    result = classification.score(
        split="s", labels=np.array([0, 1, 1]), probabilities=np.eye(2)[[0, 1, 0]], class_names=["a", "b"]
    )
    assert score_text.summarise_scores(result).endswith("3 images, 2 correct")


@pytest.mark.parametrize("biased", [False, True])
def test_describe_calibration(biased: bool) -> None:
    change = Calibration(
        uncalibrated=np.full((120, 4), 0.25), temperature=1.25, fitted_on="the 9 images", biased=biased
    )
    text = score_text.describe_calibration(result := scored(change=change))
    before, after = result["calibration"]["ece_before"], result["calibration"]["ece_after"]
    assert f"{before:.3f} before and {after:.3f} after calibration (temperature 1.250, fitted on the 9 images)" in text
    assert ("the value after is optimistic" in text) == biased
    assert text.endswith(f"would show about {result['ece_if_calibrated']:.3f} by chance")


def test_describe_calibration_without_one_temperature_or_any() -> None:
    change = Calibration(uncalibrated=np.full((120, 4), 0.25), temperature=None, fitted_on="other folds", biased=False)
    assert "after calibration (fitted on other folds)" in score_text.describe_calibration(scored(change=change))
    assert "no temperature is stored" in score_text.describe_calibration(scored())


def test_numbers() -> None:
    assert (score_text.format_score(None), score_text.format_score(0.12345)) == ("-", "0.123")
    assert (score_text.format_image_count(1), score_text.format_image_count(1234)) == ("1 image", "1,234 images")
    assert score_text.format_interval((None, None)) == "-"


def test_too_few_patients_have_no_interval() -> None:
    few = Patients([f"p{i // 20}" for i in range(120)], "")
    text = score_text.format_classification_report(scored(patients=few))
    assert text.startswith("CAUTION: The 120 images are of only 6 patients: too few")
    assert "accuracy too few patients, macro-F1 too few patients" in text
    leaks = score_text.summarise_scores(scored(leaked=60, patients=few))
    assert leaks.startswith("testing: The 60 clean images are of only 3 patients: too few")
    assert re.search(r"leaked: 60 images of 3 patients, accuracy 0\.\d{3} \(too few patients\), ", leaks)

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.metrics import by_patient, classification
from bt_jax.metrics.by_patient import Patients
from bt_jax.metrics.calibration import Calibration, expected_calibration_error, softmax

COLUMNS = (
    "precision", "recall", "f1", "specificity", "auc", "average_precision", "sensitivity_at_specificity_90",
    "sensitivity_at_specificity_95",
)  # fmt: skip


def made_up(
    n: int,
    classes: int,
    seed: int = 0,
    *,
    present: Sequence[int] | None = None,
    decimals: int | None = None,
    dtype: type = np.float64,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of a model that is often right; `decimals` makes ties."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.arange(classes) if present is None else present, n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if decimals is not None:
        probabilities = np.round(probabilities, decimals) + 10.0**-decimals
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return labels, probabilities.astype(dtype)


def scored(labels: np.ndarray, probabilities: np.ndarray, **arguments: Any) -> dict[str, Any]:
    names = [f"class_{c}" for c in range(probabilities.shape[1])]
    return classification.score(
        split="testing", labels=labels, probabilities=probabilities, class_names=names, **arguments
    )


def check_against_sklearn(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    result = scored(labels, probabilities)
    n, classes = probabilities.shape
    predictions = probabilities.argmax(axis=1)
    present = np.unique(labels)
    matrix = sklearn.metrics.confusion_matrix(labels, predictions, labels=np.arange(classes))
    np.testing.assert_array_equal(result["confusion_matrix"], matrix)
    assert result["n"] == n
    assert result["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predictions))
    assert result["loss"] == pytest.approx(sklearn.metrics.log_loss(labels, probabilities, labels=np.arange(classes)))

    options = {"labels": np.arange(classes), "average": None, "zero_division": 0}
    expected = dict(
        zip(
            ("precision", "recall", "f1", "support"),
            sklearn.metrics.precision_recall_fscore_support(labels, predictions, **options),
            strict=True,
        )
    )
    macro: dict[str, list[float]] = {column: [] for column in COLUMNS}
    for c, row in enumerate(result["per_class"].values()):
        assert row["support"] == expected["support"][c]
        negatives = labels != c
        specificity = np.mean(predictions[negatives] != c) if negatives.any() else None
        assert row["specificity"] == (None if specificity is None else pytest.approx(specificity))
        if c not in present:
            assert {row[column] for column in COLUMNS if column != "specificity"} == {None}
            continue
        auc = sklearn.metrics.roc_auc_score(~negatives, probabilities[:, c]) if negatives.any() else None
        assert row["auc"] == (None if auc is None else pytest.approx(auc))
        precision = sklearn.metrics.average_precision_score(~negatives, probabilities[:, c])
        assert row["average_precision"] == pytest.approx(precision)
        for column, least in (("sensitivity_at_specificity_90", 0.9), ("sensitivity_at_specificity_95", 0.95)):
            if not negatives.any():
                assert row[column] is None
                continue
            false, true, _ = sklearn.metrics.roc_curve(~negatives, probabilities[:, c], drop_intermediate=False)
            assert row[column] == pytest.approx(
                max(t for f, t in zip(false, true, strict=True) if 1 - f >= least - 1e-9)
            )
        for column in ("precision", "recall", "f1"):
            assert row[column] == pytest.approx(expected[column][c])
        for column in COLUMNS:
            macro[column].append(row[column])
    for column, values in macro.items():
        wanted = None if None in values else pytest.approx(np.mean(values))
        assert result[f"macro_{column}"] == wanted
    low, high = result["accuracy_ci95"]
    assert 0 <= low <= high <= 1
    return result


@given(
    n=st.integers(1, 60),
    classes=st.integers(2, 6),
    seed=st.integers(0, 10_000),
    kinds=st.integers(1, 6),
    decimals=st.sampled_from([None, 1, 2]),
)
@settings(max_examples=100, deadline=None)
def test_agrees_with_scikit_learn(n: int, classes: int, seed: int, kinds: int, decimals: int | None) -> None:
    present = np.random.default_rng(seed).permutation(classes)[:kinds].tolist()
    check_against_sklearn(*made_up(n, classes, seed, present=present, decimals=decimals))


def test_agrees_with_scikit_learn_on_a_split_of_realistic_size() -> None:
    labels, probabilities = made_up(574, 4, seed=3)
    result = check_against_sklearn(labels, probabilities)
    predictions = probabilities.argmax(axis=1)
    assert result["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(labels, predictions, average="macro"))
    assert result["macro_recall"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, predictions))
    assert result["macro_auc"] == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )


def test_one_image() -> None:
    result = scored(np.array([1]), np.array([[0.2, 0.7, 0.1]]))
    assert (result["n"], result["accuracy"], result["accuracy_ci95"]) == (1, 1.0, [1.0, 1.0])
    assert result["loss"] == pytest.approx(-np.log(0.7))
    assert result["ece"] == pytest.approx(0.3)
    assert result["macro_f1"] == 1.0
    assert result["macro_auc"] is None
    assert result["macro_specificity"] is None
    assert result["per_class"]["class_1"]["specificity"] is None
    assert result["per_class"]["class_0"] == {
        **dict.fromkeys(COLUMNS), "specificity": 1.0, "support": 0,
    }  # fmt: skip


def test_empty_split_is_all_null() -> None:
    result = scored(np.zeros(0, int), np.zeros((0, 3)))
    assert result["n"] == 0
    assert result["confusion_matrix"] == [[0, 0, 0]] * 3
    assert result["accuracy_ci95"] == [None, None]
    for field in ("accuracy", "loss", "ece", "ece_if_calibrated", *(f"macro_{column}" for column in COLUMNS)):
        assert result[field] is None
    for row in result["per_class"].values():
        assert row == {**dict.fromkeys(COLUMNS), "support": 0}
    assert result["caution"] == "There are no images: nothing was measured."


def test_class_never_predicted_has_precision_zero_and_counts_in_the_average() -> None:
    result = scored(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]))
    assert result["per_class"]["class_1"]["precision"] == 0.0
    assert result["per_class"]["class_1"]["f1"] == 0.0
    assert result["macro_precision"] == pytest.approx(1 / 3)


def test_a_class_without_images_does_not_enter_the_macro_average() -> None:
    labels, probabilities = np.array([0, 0, 1, 1]), np.array([[0.1, 0.1, 0.8], [1, 0, 0], [0, 1, 0], [0, 1, 0]])
    result = scored(labels, probabilities)
    assert result["macro_recall"] == pytest.approx(0.75)
    assert result["per_class"]["class_2"]["specificity"] == pytest.approx(0.75)


def test_one_class_only() -> None:
    result = scored(np.zeros(4, int), np.ones((4, 1)))
    assert (result["accuracy"], result["macro_f1"], result["macro_auc"]) == (1.0, 1.0, None)


def test_subsets_are_the_scores_of_their_images() -> None:
    labels, probabilities = made_up(80, 4, seed=1)
    leaked = np.random.default_rng(0).random(80) < 0.6
    result = scored(labels, probabilities, leaked=leaked)
    for name, rows in (("clean", ~leaked), ("leaked", leaked)):
        alone = scored(labels[rows], probabilities[rows])
        del alone["subsets"], alone["caution"]
        assert result["subsets"][name] == alone
    assert set(result["subsets"]["clean"]) == set(result) - {"subsets", "caution"}


def test_without_leak_information_every_image_is_clean() -> None:
    result = scored(*made_up(30, 3))
    assert result["subsets"]["clean"]["n"] == 30
    assert result["subsets"]["clean"]["macro_f1"] == result["macro_f1"]
    assert result["subsets"]["leaked"]["n"] == 0
    assert result["subsets"]["leaked"]["accuracy"] is None


def test_interval_is_that_of_a_bootstrap_over_images() -> None:
    labels, probabilities = made_up(200, 4, seed=5)
    correct = probabilities.argmax(axis=1) == labels
    rng = np.random.default_rng(11)
    drawn = correct[rng.integers(0, 200, (20_000, 200))].mean(axis=1)
    low, high = scored(labels, probabilities)["accuracy_ci95"]
    assert low == pytest.approx(np.percentile(drawn, 2.5), abs=0.011)
    assert high == pytest.approx(np.percentile(drawn, 97.5), abs=0.011)


def test_interval_depends_on_the_seed_alone() -> None:
    labels, probabilities = made_up(1000, 4, seed=2)
    intervals = [scored(labels, probabilities, seed=seed)["accuracy_ci95"] for seed in (0, 0, 1, 2, 3)]
    assert intervals[0] == intervals[1]
    assert len({tuple(interval) for interval in intervals}) > 1


def test_result_is_plain_json_with_the_agreed_fields() -> None:
    labels, probabilities = made_up(25, 4, dtype=np.float32)
    result = classification.score(
        split="validation", labels=labels.astype(np.uint8), probabilities=probabilities, class_names=BRAIN_TUMOR_CLASSES
    )
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result) >= {
        "schema", "split", "n", "accuracy", "accuracy_ci95", "macro_f1", "macro_auc", "ece", "confusion_matrix",
        "per_class", "subsets",
    }  # fmt: skip
    assert (result["schema"], result["split"]) == (1, "validation")
    assert tuple(result["per_class"]) == BRAIN_TUMOR_CLASSES
    assert type(result["confusion_matrix"][0][0]) is int


def test_a_probability_of_zero_for_the_truth_costs_a_finite_loss() -> None:
    assert scored(np.array([0]), np.array([[0.0, 1.0]]))["loss"] == pytest.approx(36.04, abs=0.01)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [[0.5, 0.5]], r"\[N, C\]"),
        ([2], [[0.5, 0.5]], "between 0 and 1"),
        ([-1], [[0.5, 0.5]], "between 0 and 1"),
        ([0.0], [[0.5, 0.5]], "integers"),
        ([0], [[3.2, -2.2]], "sum to 1"),
        ([0], [[0.2, 0.2]], "sum to 1"),
        ([0], [[np.nan, 1.0]], "sum to 1"),
    ],
)
def test_refuses_what_is_no_scored_split(labels: list[float], probabilities: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scored(np.array(labels), np.array(probabilities))


def test_refuses_class_names_and_leak_flags_that_do_not_fit() -> None:
    labels, probabilities = made_up(5, 3)
    with pytest.raises(ValueError, match="class names"):
        classification.score(split="s", labels=labels, probabilities=probabilities, class_names=["a", "b"])
    with pytest.raises(ValueError, match="leaked"):
        scored(labels, probabilities, leaked=np.zeros(4, bool))


def test_patients_are_scored_in_each_subset() -> None:
    labels, probabilities = made_up(60, 3, seed=4)
    groups = [f"p{i // 4}" for i in range(60)]
    leaked = np.arange(60) < 24
    result = scored(labels, probabilities, leaked=leaked, patients=Patients(groups, "by a table"))
    assert [part["patients"]["n"] for part in (result, *result["subsets"].values())] == [15, 9, 6]
    assert result["patients"]["grouping"] == "by a table"
    low, high = result["patients"]["image_intervals"]["accuracy"]
    assert low < result["accuracy"] < high
    assert set(result["patients"]["image_intervals"]["recall"]) == set(result["per_class"])
    alone = by_patient.score(
        Patients(groups[24:], ""),
        labels=labels[24:],
        probabilities=probabilities[24:],
        class_names=["a", "b", "c"],
        seed=0,
    )
    assert result["subsets"]["clean"]["patients"]["macro_f1"] == pytest.approx(float(alone["macro_f1"]))


def test_nothing_is_said_of_patients_and_calibration_that_is_not_known() -> None:
    result = scored(*made_up(30, 3))
    assert result["patients"] is None
    assert result["calibration"] is None


def test_an_empty_subset_has_patients_and_calibration_without_values() -> None:
    labels, probabilities = made_up(40, 3)
    change = Calibration(uncalibrated=probabilities, temperature=1.0, fitted_on="others", biased=False)
    result = scored(labels, probabilities, patients=Patients(["p"] * 40, ""), change=change)
    leaked = result["subsets"]["leaked"]
    assert (leaked["patients"]["n"], leaked["patients"]["accuracy"]) == (0, None)
    assert leaked["patients"]["image_intervals"]["recall"]["class_0"] == [None, None]
    assert leaked["calibration"]["ece_before"] is None


def test_calibration_is_told_before_and_after_in_each_subset() -> None:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, 90), rng.normal(size=(90, 3)) * 5
    leaked = rng.random(90) < 0.5
    before, after = softmax(logits), softmax(logits, 4.0)
    change = Calibration(uncalibrated=before, temperature=4.0, fitted_on="40 other images", biased=False)
    result = scored(labels, after, leaked=leaked, change=change)
    for part, rows in ((result, leaked | True), (result["subsets"]["clean"], ~leaked)):
        told = part["calibration"]
        assert (told["temperature"], told["fitted_on"], told["biased"]) == (4.0, "40 other images", False)
        assert told["ece_before"] == pytest.approx(expected_calibration_error(labels[rows], before[rows]))
        assert told["ece_after"] == pytest.approx(part["ece"])
        assert told["loss_before"] == pytest.approx(sklearn.metrics.log_loss(labels[rows], before[rows]))
        assert told["loss_after"] == pytest.approx(part["loss"])


@pytest.mark.parametrize(
    ("n", "leaked", "words"),
    [
        (200, 0, None),
        (200, 100, None),
        (1, 0, "There is only 1 image: too few"),
        (29, 0, "There are only 29 images: too few"),
        (200, 196, "Only 4 of 200 images are clean: too few"),
        (200, 199, "Only 1 of 200 images is clean: too few"),
        (200, 200, "No clean image is left: all 200 images have a near-duplicate"),
        (1, 1, "No clean image is left: the only image has a near-duplicate"),
    ],
)
def test_caution_says_when_the_clean_images_are_too_few(n: int, leaked: int, words: str | None) -> None:
    caution = scored(*made_up(n, 3), leaked=np.arange(n) < leaked)["caution"]
    assert caution is None if words is None else caution is not None and caution.startswith(words)


def test_caution_names_the_classes_without_enough_clean_images() -> None:
    labels = np.repeat([0, 1, 2], 40)
    leaked = (labels == 1) | ((labels == 2) & (np.arange(120) < 114))
    caution = scored(labels, np.full((120, 4), 0.25), leaked=leaked)["caution"]
    assert caution.startswith("Of the 46 clean images none is of class_1, only 6 are of class_2: too few")
    assert "class_3" not in caution  # it has no images at all


def test_refuses_patients_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="4 images have a patient, 5 a label"):
        scored(*made_up(5, 3), patients=Patients(["p"] * 4, ""))

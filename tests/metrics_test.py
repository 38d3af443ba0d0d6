import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax import metrics
from bt_jax.labels import BRAIN_TUMOR_CLASSES

COLUMNS = ("precision", "recall", "f1", "specificity", "auc")


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
    return metrics.score(split="testing", labels=labels, probabilities=probabilities, class_names=names, **arguments)


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
            assert [row[column] for column in ("precision", "recall", "f1", "auc")] == [None] * 4
            continue
        auc = sklearn.metrics.roc_auc_score(~negatives, probabilities[:, c]) if negatives.any() else None
        assert row["auc"] == (None if auc is None else pytest.approx(auc))
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
        "precision": None, "recall": None, "f1": None, "specificity": 1.0, "auc": None, "support": 0,
    }  # fmt: skip


def test_empty_split_is_all_null() -> None:
    result = scored(np.zeros(0, int), np.zeros((0, 3)))
    assert result["n"] == 0
    assert result["confusion_matrix"] == [[0, 0, 0]] * 3
    assert result["accuracy_ci95"] == [None, None]
    for field in ("accuracy", "loss", "ece", *(f"macro_{column}" for column in COLUMNS)):
        assert result[field] is None
    for row in result["per_class"].values():
        assert row == {**dict.fromkeys(COLUMNS), "support": 0}
    assert "0 images" in metrics.classification_report(result)


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
        del alone["subsets"]
        assert result["subsets"][name] == alone
    assert set(result["subsets"]["clean"]) == set(result) - {"subsets"}


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
    result = metrics.score(
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


def test_calibration_error_by_hand() -> None:
    # Confidences .95 (right), .95 (wrong) and .6 (right): bins (14/15, 1] and (8/15, 9/15].
    labels = np.array([0, 1, 0])
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4]])
    confidence, accuracy, count = metrics.calibration_bins(labels, probabilities)
    assert count.tolist() == [0] * 8 + [1] + [0] * 5 + [2]
    assert (confidence[14], accuracy[14]) == (pytest.approx(0.95), 0.5)
    assert (confidence[8], accuracy[8]) == (pytest.approx(0.6), 1.0)
    assert np.isnan(confidence[0])
    assert np.isnan(accuracy[0])
    assert scored(labels, probabilities)["ece"] == pytest.approx((2 * 0.45 + 0.4) / 3)


@given(seed=st.integers(0, 1000), n=st.integers(1, 200), bins=st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_calibration_bins_lose_no_image(seed: int, n: int, bins: int) -> None:
    labels, probabilities = made_up(n, 3, seed, decimals=1)
    confidence, accuracy, count = metrics.calibration_bins(labels, probabilities, bins)
    filled = count > 0
    assert count.sum() == n
    np.testing.assert_array_equal(np.isnan(confidence), ~filled)
    assert (count * accuracy)[filled].sum() == pytest.approx((probabilities.argmax(axis=1) == labels).sum())
    # A bin's mean lies inside the bin, up to rounding.
    lower = np.arange(bins)[filled] / bins
    assert (confidence[filled] > lower - 1e-12).all()
    assert (confidence[filled] <= lower + 1 / bins + 1e-12).all()


@given(seed=st.integers(0, 1000), n=st.integers(2, 80), decimals=st.sampled_from([0, 1, 8]))
@settings(max_examples=60, deadline=None)
def test_roc_curve_agrees_with_scikit_learn(seed: int, n: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    is_positive = rng.permutation(np.arange(n) < rng.integers(1, n))
    scores = np.round(rng.random(n), decimals)
    false, true = metrics.roc_curve(is_positive, scores)
    expected_false, expected_true, _ = sklearn.metrics.roc_curve(is_positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(false, expected_false)
    np.testing.assert_allclose(true, expected_true)
    assert np.trapezoid(true, false) == pytest.approx(sklearn.metrics.roc_auc_score(is_positive, scores))


@pytest.mark.parametrize("is_positive", [[], [True, True], [False]])
def test_roc_curve_needs_both_kinds(is_positive: list[bool]) -> None:
    with pytest.raises(ValueError, match="positive and negative"):
        metrics.roc_curve(np.array(is_positive, bool), np.zeros(len(is_positive)))


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
        metrics.score(split="s", labels=labels, probabilities=probabilities, class_names=["a", "b"])
    with pytest.raises(ValueError, match="leaked"):
        scored(labels, probabilities, leaked=np.zeros(4, bool))


def test_report_is_aligned_and_complete() -> None:
    labels, probabilities = made_up(120, 4, present=[0, 1, 3])
    result = metrics.score(split="testing", labels=labels, probabilities=probabilities, class_names=BRAIN_TUMOR_CLASSES)
    lines = metrics.classification_report(result).splitlines()
    assert lines[0] == "testing: 120 images"
    header = next(line for line in lines if "precision" in line)
    assert header.split() == ["precision", "recall", "f1-score", "specificity", "AUC", "support"]
    rows = {line.split()[0]: line for line in lines if line.startswith(" ") and line.strip()}
    row = result["per_class"]["pituitary_tumor"]
    assert rows["pituitary_tumor"].split()[1:] == [f"{row[column]:.3f}" for column in COLUMNS] + [str(row["support"])]
    assert rows["no_tumor"].split()[1:4] == ["-"] * 3
    assert {len(line) for line in rows.values()} == {len(header)}
    average = rows["weighted"].split()[2:]
    expected = sklearn.metrics.precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), average="weighted", zero_division=0
    )
    assert average[:3] == [f"{value:.3f}" for value in expected[:3]]


def test_report_shows_the_subsets_only_where_images_leak() -> None:
    labels, probabilities = made_up(40, 3)
    without = metrics.classification_report(scored(labels, probabilities))
    leaked = np.arange(40) < 10
    text = metrics.classification_report(scored(labels, probabilities, leaked=leaked))
    assert "leaked" not in without
    assert "testing, clean: 30 images" in text
    assert "testing, leaked: 10 images" in text

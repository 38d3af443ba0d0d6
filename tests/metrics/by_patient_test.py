from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.common import files
from bt_jax.metrics import by_patient
from bt_jax.metrics.by_patient import Patients

NAMES = ["a", "b", "c"]


def made_up(groups: int, seed: int, largest: int = 6) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Groups of images of one class, with an error that a group's images share."""
    rng = np.random.default_rng(seed)
    number = np.repeat(np.arange(groups), rng.integers(1, largest + 1, groups))
    of_group = rng.integers(0, 3, groups)
    logits = 1.5 * np.eye(3)[of_group[number]] + rng.normal(size=(groups, 3))[number]
    logits += 0.3 * rng.normal(size=(len(number), 3))
    order = rng.permutation(len(number))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return [f"patient {i}" for i in number[order]], of_group[number][order], probabilities[order]


def scored(groups: list[str], labels: np.ndarray, probabilities: np.ndarray, seed: int = 0) -> dict[str, Any]:
    given_ = Patients(groups, "by a table")
    return dict(
        files.make_json_safe(
            by_patient.score(given_, labels=labels, probabilities=probabilities, class_names=NAMES, seed=seed)
        )
    )


@given(groups=st.integers(1, 40), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_patient_is_the_mean_of_its_images(groups: int, seed: int) -> None:
    names, labels, probabilities = made_up(groups, seed)
    result = scored(names, labels, probabilities)
    truth, answers = [], []
    for name in dict.fromkeys(names):
        rows = np.array([other == name for other in names])
        truth.append(labels[rows][0])
        answers.append(int(probabilities[rows].mean(axis=0).argmax()))
    assert (result["n"], result["several_labels"], result["grouping"]) == (groups, 0, "by a table")
    assert result["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, answers))
    expected = sklearn.metrics.f1_score(truth, answers, labels=np.unique(truth), average="macro", zero_division=0)
    assert result["macro_f1"] == pytest.approx(expected)
    for low, high in (result["accuracy_ci95"], result["image_intervals"]["macro_f1"]):
        assert (low is None) == (groups < 2)
        assert low is None or 0 <= low <= high <= 1


def test_the_interval_is_that_of_resampled_patients() -> None:
    names, labels, probabilities = made_up(40, seed=3)
    right = probabilities.argmax(axis=1) == labels
    kinds = list(dict.fromkeys(names))
    rows_of = [np.flatnonzero([name == kind for name in names]) for kind in kinds]
    rng = np.random.default_rng(11)
    accuracies, f1s, recalls = [], [], []
    for _ in range(500):
        rows = np.concatenate([rows_of[i] for i in rng.integers(0, 40, 40)])
        accuracies.append(right[rows].mean())
        f1s.append(_macro_f1(labels[rows], probabilities[rows].argmax(axis=1)))
        recalls.append(right[rows][labels[rows] == 1].mean())
    found = scored(names, labels, probabilities)["image_intervals"]
    assert found["accuracy"] == pytest.approx(np.percentile(accuracies, (2.5, 97.5)), abs=0.03)
    assert found["macro_f1"] == pytest.approx(np.percentile(f1s, (2.5, 97.5)), abs=0.03)
    assert found["recall"]["b"] == pytest.approx(np.percentile(recalls, (2.5, 97.5)), abs=0.03)


def _macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(
        sklearn.metrics.f1_score(labels, predictions, labels=np.unique(labels), average="macro", zero_division=0)
    )


def test_slices_that_err_together_widen_the_interval() -> None:
    """Thirty patients of ten equal slices each know as much as thirty images."""
    labels = np.arange(30) % 3
    answers = np.eye(3)[np.where(np.arange(30) % 4 == 0, (labels + 1) % 3, labels)]
    alone = scored([str(i) for i in range(30)], labels, answers)
    repeated = scored([str(i) for i in np.repeat(np.arange(30), 10)], np.repeat(labels, 10), np.repeat(answers, 10, 0))
    assert repeated["image_intervals"] == alone["image_intervals"]
    assert repeated["accuracy_ci95"] == alone["accuracy_ci95"]
    independent = scored([str(i) for i in range(300)], np.repeat(labels, 10), np.repeat(answers, 10, 0))
    width = [np.ptp(part["image_intervals"]["accuracy"]) for part in (repeated, independent)]
    assert width[0] > 2.5 * width[1]


def test_a_patient_of_several_classes_counts_for_the_most_frequent() -> None:
    labels = np.array([0, 0, 1, 2, 2])
    answers = np.eye(3)[[0, 0, 0, 2, 2]]
    result = scored(["p", "p", "p", "q", "q"], labels, answers)
    assert (result["n"], result["several_labels"], result["accuracy"]) == (2, 1, 1.0)


def test_a_class_without_images_has_no_interval() -> None:
    result = scored(["p", "q"], np.array([0, 1]), np.eye(3)[[0, 1]])
    assert result["image_intervals"]["recall"] == {"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [None, None]}


def test_intervals_depend_on_the_seed_alone() -> None:
    names, labels, probabilities = made_up(60, seed=1)
    found = [scored(names, labels, probabilities, seed=seed)["image_intervals"] for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_no_images() -> None:
    result = scored([], np.zeros(0, int), np.zeros((0, 3)))
    assert (result["n"], result["accuracy"], result["accuracy_ci95"]) == (0, None, [None, None])

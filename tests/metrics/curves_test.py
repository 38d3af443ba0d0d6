import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.metrics import curves


def made_up(seed: int, n: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    """Positives of both kinds, and scores with more ties the fewer decimals they have."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.arange(n) < rng.integers(1, n)), np.round(rng.random(n), decimals)


@given(seed=st.integers(0, 1000), n=st.integers(2, 80), decimals=st.sampled_from([0, 1, 8]))
@settings(max_examples=60, deadline=None)
def test_roc_curve_agrees_with_scikit_learn(seed: int, n: int, decimals: int) -> None:
    is_positive, scores = made_up(seed, n, decimals)
    false, true = curves.roc_curve(is_positive, scores)
    expected_false, expected_true, _ = sklearn.metrics.roc_curve(is_positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(false, expected_false)
    np.testing.assert_allclose(true, expected_true)
    assert np.trapezoid(true, false) == pytest.approx(sklearn.metrics.roc_auc_score(is_positive, scores))


@pytest.mark.parametrize("is_positive", [[], [True, True], [False]])
def test_roc_curve_needs_both_kinds(is_positive: list[bool]) -> None:
    with pytest.raises(ValueError, match="positive and negative"):
        curves.roc_curve(np.array(is_positive, bool), np.zeros(len(is_positive)))


@given(seed=st.integers(0, 1000), n=st.integers(2, 80), decimals=st.sampled_from([0, 1, 8]))
@settings(max_examples=60, deadline=None)
def test_areas_agree_with_scikit_learn(seed: int, n: int, decimals: int) -> None:
    is_positive, scores = made_up(seed, n, decimals)
    area = sklearn.metrics.roc_auc_score(is_positive, scores)
    assert curves.area_under_roc(is_positive, scores) == pytest.approx(area)
    precision = sklearn.metrics.average_precision_score(is_positive, scores)
    assert curves.average_precision(is_positive, scores) == pytest.approx(precision)


def test_average_precision_by_hand() -> None:
    # In order of the scores: right, wrong, right. Precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1.
    value = curves.average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]))
    assert value == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_average_precision_without_negatives_is_one_and_without_positives_undefined() -> None:
    assert curves.average_precision(np.array([True, True]), np.array([0.1, 0.2])) == 1.0
    assert np.isnan(curves.average_precision(np.array([False]), np.array([0.1])))
    assert np.isnan(curves.average_precision(np.zeros(0, bool), np.zeros(0)))


@pytest.mark.parametrize("is_positive", [[], [True, True], [False]])
def test_what_needs_both_kinds_is_undefined_without(is_positive: list[bool]) -> None:
    given_ = np.array(is_positive, bool), np.zeros(len(is_positive))
    assert np.isnan(curves.area_under_roc(*given_))
    assert np.isnan(curves.sensitivity_at_specificity(*given_, specificity=0.9))


def test_sensitivity_at_a_specificity_that_is_just_reached() -> None:
    # Ten negatives, one of them above two of four positives: specificity .9 is reached with two, or with it all four.
    scores = np.array([0.95, 0.94, 0.80, 0.79, 0.85, *np.linspace(0, 0.5, 9)])
    is_positive = np.arange(14) < 4
    assert curves.sensitivity_at_specificity(is_positive, scores, specificity=0.95) == 0.5
    assert curves.sensitivity_at_specificity(is_positive, scores, specificity=0.9) == 1.0


@given(seed=st.integers(0, 1000), n=st.integers(2, 80), decimals=st.sampled_from([0, 1, 8]), least=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_sensitivity_is_that_of_the_best_threshold(seed: int, n: int, decimals: int, least: float) -> None:
    is_positive, scores = made_up(seed, n, decimals)
    best = 0.0  # with a threshold above all scores
    for threshold in np.unique(scores):
        found = scores >= threshold
        if (~found[~is_positive]).mean() >= least - 1e-9:
            best = max(best, found[is_positive].mean())
    assert curves.sensitivity_at_specificity(is_positive, scores, specificity=least) == pytest.approx(best)

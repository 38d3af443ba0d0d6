import math

import hypothesis
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from bt_jax.metrics import significance

counts = st.integers(0, 400)


def test_mcnemar_of_a_published_table():
    """The example of statsmodels' documentation: 121 against 59, p = 4.4344e-06."""
    assert significance.mcnemar(59, 121) == pytest.approx(4.4344e-06, rel=2e-5)


@pytest.mark.parametrize(
    ("ours", "theirs", "p"), [(0, 0, 1.0), (3, 3, 1.0), (0, 1, 1.0), (0, 5, 2 / 32), (1, 9, 2 * 11 / 1024)]
)
def test_mcnemar_by_hand(ours, theirs, p):
    assert significance.mcnemar(ours, theirs) == p


@hypothesis.given(ours=counts, theirs=counts)
def test_mcnemar_is_the_binomial_test(ours, theirs):
    p = significance.mcnemar(ours, theirs)
    assert p == significance.mcnemar(theirs, ours)
    if ours + theirs:
        assert p == pytest.approx(scipy.stats.binomtest(ours, ours + theirs).pvalue, rel=1e-9)


def test_mcnemar_of_many_images():
    """2^-n is no number any more; the p still is."""
    assert significance.mcnemar(10_000, 10_100) == pytest.approx(scipy.stats.binomtest(10_000, 20_100).pvalue, rel=1e-6)
    assert 0 <= significance.mcnemar(0, 5_000) < 1e-300


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_combined(p_values):
    p = significance.combine_p_values(p_values)
    assert p == (p_values[0] if len(p_values) == 1 else min(1.0, 2 * float(np.median(p_values))))
    assert 0 <= p <= 1


def test_combined_of_nothing():
    with pytest.raises(ValueError, match="no p"):
        significance.combine_p_values([])


def test_combined_holds_its_level():
    """Of dependent uniform p values it is at most 0.05 in at most a twentieth of all cases."""
    generator = np.random.default_rng(0)
    shared, own = generator.standard_normal((4000, 1)), generator.standard_normal((4000, 3))
    for weight in (0.0, 0.7, 1.0):
        p_values = scipy.stats.norm.cdf(math.sqrt(weight) * shared + math.sqrt(1 - weight) * own)
        assert np.mean([significance.combine_p_values(list(row)) <= 0.05 for row in p_values]) <= 0.056


def test_by_group_of_single_images_is_the_sign_test():
    """Every image its own group: the randomisation test is McNemar's, up to the number of draws."""
    differences = [1.0] * 14 + [-1.0] * 5 + [0.0] * 100
    p = significance.sign_flip_test(differences, list(range(len(differences))))
    assert p == pytest.approx(significance.mcnemar(5, 14), abs=0.02)


def test_by_group_counts_a_patient_once():
    """A hundred images of one patient tell as much as one of his images does."""
    assert significance.sign_flip_test([1.0] * 100, ["patient"] * 100) == 1.0
    differences, groups = [1.0] * 40, [f"patient {i // 10}" for i in range(40)]
    assert significance.sign_flip_test(differences, groups) == pytest.approx(2 / 16, abs=0.02)
    assert significance.mcnemar(0, 40) < 1e-10


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 1 / 3, 1.0]), st.integers(0, 5)), min_size=1, max_size=30),
    st.randoms(),
)
def test_by_group_does_not_look_at_order_or_direction(rows, random):
    p = significance.sign_flip_test(*zip(*rows, strict=True))
    assert 0 < p <= 1
    turned = [(-difference, group) for difference, group in rows]
    assert significance.sign_flip_test(*zip(*turned, strict=True)) == p
    random.shuffle(rows)
    assert significance.sign_flip_test(*zip(*rows, strict=True)) == pytest.approx(p, abs=0.03)


def test_by_group_of_no_difference():
    assert significance.sign_flip_test([0.0, 0.0], ["a", "b"]) == 1.0

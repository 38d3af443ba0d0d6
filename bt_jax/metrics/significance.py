"""Tests of whether the difference between two classifiers on the same images is due to chance."""

from collections.abc import Hashable, Sequence

import numpy as np

_DRAWS = 9999  # random sign patterns; the smallest p-value is 1 / (1 + draws)


def mcnemar(ours: int, theirs: int) -> float:
    """Computes the two-sided p-value of McNemar's exact test (doi:10.1007/BF02295996).

    Under the null hypothesis, each image that only one classifier got right is either's with probability 1/2.

    Args:
      ours: number of images that only the first classifier got right.
      theirs: number of images that only the second classifier got right.

    Returns:
      Twice the probability of a division at least as uneven, at most 1; 1 if the classifiers never differ.
    """
    n = ours + theirs
    below, term = 0, 1  # integers: exact even if 2^-n underflows
    for k in range(min(ours, theirs) + 1):
        below += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * below / 2**n)


def combine_p_values(p_values: Sequence[float]) -> float:
    """Combines the p-values of dependent tests of one hypothesis into twice their median, at most 1.

    This is valid under any dependence (Rueger's inequality; see Vovk and Wang, 2020, doi:10.1093/biomet/asaa027). A
    single p-value is returned as it is.
    """
    if not p_values:
        raise ValueError("no p-values to combine")
    return p_values[0] if len(p_values) == 1 else min(1.0, 2 * float(np.median(p_values)))


def sign_flip_test(differences: Sequence[float], groups: Sequence[Hashable]) -> float:
    """Computes the two-sided p-value of the mean difference of grouped images, such as the slices of a patient.

    Slices of a patient are not independent, so each group counts once. Under the null hypothesis the sign of a group's
    sum is random, so the test compares with random signs (a randomisation test, Fisher 1935).

    Args:
      differences: [N], for each image how much more often the other classifier was correct.
      groups: [N].

    Returns:
      The fraction of random sign patterns with a sum at least as far from 0 as the observed one, which is included.
    """
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    rows = np.array([numbers[group] for group in groups], np.intp)
    sums = np.bincount(rows, np.asarray(differences, np.float64), minlength=len(numbers))
    sums = sums[sums != 0]
    signs = np.random.default_rng(0).integers(0, 2, (_DRAWS, len(sums)), dtype=np.int8) * 2 - 1
    # The sums are multiples of 1 / (number of seeds), so distinct sums differ by more than the rounding error.
    extreme = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9
    return (1 + int(extreme.sum())) / (1 + _DRAWS)

"""Whether one classifier is better than another on the same images, or only luckier."""

from collections.abc import Hashable, Sequence

import numpy as np

_DRAWS = 9999  # random divisions; the smallest p is 1 / (1 + draws)


def mcnemar(ours: int, theirs: int) -> float:
    """McNemar's test in its exact form (doi:10.1007/BF02295996): two-sided p of the images that one alone got right.

    If both were equally good, each of these images would be either's with probability 1/2: a binomial distribution.

    Args:
      ours: images that one classifier got right and the other wrong.
      theirs: the other way round.

    Returns:
      Twice the probability of so uneven a division or a more uneven one, at most 1; 1 where they never differ.
    """
    n = ours + theirs
    below, term = 0, 1  # whole numbers: exact also where 2^-n underflows
    for k in range(min(ours, theirs) + 1):
        below += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * below / 2**n)


def combine_p_values(p_values: Sequence[float]) -> float:
    """One p of several tests of the same hypothesis that may depend on each other: twice their median, at most 1.

    Valid under any dependence (Rueger's inequality; see Vovk and Wang, 2020, doi:10.1093/biomet/asaa027). One p stays.
    """
    if not p_values:
        raise ValueError("no p to combine")
    return p_values[0] if len(p_values) == 1 else min(1.0, 2 * float(np.median(p_values)))


def sign_flip_test(differences: Sequence[float], groups: Sequence[Hashable]) -> float:
    """Two-sided p of the mean difference where images come in groups, such as the slices of a patient.

    Slices of a patient are right or wrong together, so they count as one: the signs of the groups' sums are drawn at
    random (a randomisation test, Fisher 1935), which the null hypothesis makes as likely as the signs seen.

    Args:
      differences: [N], for each image how much more often the other classifier was right.
      groups: [N].

    Returns:
      The share of random signs with a sum as far from 0 as the one seen, which counts itself.
    """
    numbers = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    rows = np.array([numbers[group] for group in groups], np.intp)
    sums = np.bincount(rows, np.asarray(differences, np.float64), minlength=len(numbers))
    sums = sums[sums != 0]
    signs = np.random.default_rng(0).integers(0, 2, (_DRAWS, len(sums)), dtype=np.int8) * 2 - 1
    # Sums of whole differences divided by a number of seeds differ by more than rounding.
    extreme = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9
    return (1 + int(extreme.sum())) / (1 + _DRAWS)

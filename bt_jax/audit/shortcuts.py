"""Shortcuts: how well size, aspect ratio, border and brightness alone predict the class."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from bt_jax.audit.inspection import CUE_UNITS, CUES

_FOLDS = 5
_DEPTH = 4  # of the tree on all cues or for all classes
_RULE_DEPTH = 2  # of the tree for one class by one cue; two levels can express an interval
_FEWEST_IN_LEAF = 5


@dataclasses.dataclass(frozen=True)
class ShortcutRule:
    """A decision rule for one class against the rest by one cue.

    Attributes:
      cue: one of `CUES`.
      class_name: the predicted class.
      balanced_accuracy: cross-validated by group; chance is 0.5.
      description: the rule that a tree learns from all images, such as `height from 511.5 to 512.5 pixels`.
    """

    cue: str
    class_name: str
    balanced_accuracy: float
    description: str


@dataclasses.dataclass(frozen=True)
class Shortcuts:
    """The accuracy of small decision trees on the cues.

    Attributes:
      images: number of images.
      folds: number of cross-validation folds, by group.
      chance: balanced accuracy of guessing among all classes.
      by_all: balanced accuracy of a tree on all cues.
      by_cue: balanced accuracy of a tree on each cue alone.
      rules: one rule for each class and cue, the most accurate first.
    """

    images: int
    folds: int
    chance: float
    by_all: float
    by_cue: dict[str, float]
    rules: tuple[ShortcutRule, ...]

    @property
    def strongest(self) -> str:
        """A sentence about the most accurate rule."""
        rule = self.rules[0]
        return (
            f"{rule.class_name} is distinguished from the rest by {rule.cue} alone: balanced accuracy "
            f"{rule.balanced_accuracy:.2f}, chance 0.50 ({rule.description})"
        )


def find_shortcuts(
    cues: np.ndarray, *, labels: np.ndarray, groups: Sequence[str], class_names: Sequence[str]
) -> Shortcuts | str:
    """Fits small decision trees to the cues, cross-validated so that no group is in both training and test folds.

    Args:
      cues: [N, 5], see `inspection.CUES`.
      labels: [N] class numbers.
      groups: [N]; images of one group are not independent of each other.
      class_names: by class number.

    Returns:
      The shortcuts, or the reason why they cannot be measured.
    """
    present = np.unique(labels)
    if len(present) < 2:
        return "there are images of fewer than two classes"
    group_numbers = np.unique(np.asarray(groups), return_inverse=True)[1]
    fewest = min(len(np.unique(group_numbers[labels == label])) for label in present)
    folds = min(_FOLDS, fewest)
    if folds < 2:
        return "a class has images of only one patient or group"

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    divisions = list(splitter.split(cues, labels, group_numbers))

    def score(columns: list[int], y: np.ndarray, depth: int) -> float:
        predicted = cross_val_predict(_make_tree(depth), cues[:, columns], y, cv=divisions)
        return float(balanced_accuracy_score(y, predicted))

    by_cue = {cue: score([column], labels, _DEPTH) for column, cue in enumerate(CUES)}
    rules = []
    for column, cue in enumerate(CUES):
        for label in present:
            of_class = labels == label
            accuracy = score([column], of_class, _RULE_DEPTH)
            rules.append(
                ShortcutRule(cue, class_names[label], accuracy, _describe_rule(cue, cues[:, column], of_class))
            )
    rules.sort(key=lambda rule: (-rule.balanced_accuracy, CUES.index(rule.cue), rule.class_name))
    return Shortcuts(
        images=len(labels),
        folds=folds,
        chance=1 / len(present),
        by_all=score(list(range(len(CUES))), labels, _DEPTH),
        by_cue=by_cue,
        rules=tuple(rules),
    )


def _make_tree(depth: int) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(
        max_depth=depth, min_samples_leaf=_FEWEST_IN_LEAF, class_weight="balanced", random_state=0
    )


def _describe_rule(cue: str, values: np.ndarray, positive: np.ndarray) -> str:
    """Describes where a tree on all images predicts the class, such as `height up to 400 or above 512 pixels`."""
    fitted = _make_tree(_RULE_DEPTH).fit(values[:, None], positive)
    edges = np.sort(fitted.tree_.threshold[fitted.tree_.feature == 0])
    if not len(edges):
        return f"{cue}: no rule"
    middles = np.concatenate([edges[:1] - 1, (edges[:-1] + edges[1:]) / 2, edges[-1:] + 1])
    answers = fitted.predict(middles[:, None].astype(np.float32))
    places = [None, *edges.tolist(), None]
    parts: list[list[float | None]] = []
    for number, answer in enumerate(answers):
        if not answer:
            continue
        if parts and parts[-1][1] == places[number] and number:
            parts[-1][1] = places[number + 1]
        else:
            parts.append([places[number], places[number + 1]])
    if not parts:
        return f"{cue}: no rule"
    return f"{cue} {' or '.join(_describe_interval(low, high) for low, high in parts)} {CUE_UNITS[cue]}"


def _describe_interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "of any value, in" if low is high else (f"up to {high:.4g}" if low is None else f"above {low:.4g}")
    return f"from {low:.4g} to {high:.4g}"

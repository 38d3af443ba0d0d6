import numpy as np
import pytest

from bt_jax.audit import shortcuts
from bt_jax.audit.inspection import CUES
from bt_jax.audit.shortcuts import Shortcuts, find_shortcuts

NAMES = ("glioma", "meningioma", "none")


def data(count: int = 240, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Cues that say nothing, labels, and groups of four images of one class."""
    generator = np.random.default_rng(seed)
    cues = generator.normal(size=(count, len(CUES))).astype(np.float32)
    group = np.arange(count) // 4
    return cues, group % 3, [f"patient {g}" for g in group]


def find(cues, labels, groups) -> Shortcuts:
    found = find_shortcuts(cues, labels=labels, groups=groups, class_names=NAMES)
    assert isinstance(found, Shortcuts)
    return found


def test_a_planted_cue_is_named_with_its_rule():
    cues, labels, groups = data()
    cues[:, CUES.index("height")] = np.where(labels == 2, 512, np.where(np.arange(240) % 2, 300, 900))
    found = find(cues, labels, groups)
    assert (found.rules[0].cue, found.rules[0].class_name) == ("height", "none")
    assert found.rules[0].balanced_accuracy == 1
    assert found.rules[0].description == "height from 406 to 706 pixels"
    assert found.strongest == (
        "none is distinguished from the rest by height alone: balanced accuracy 1.00, chance 0.50 "
        "(height from 406 to 706 pixels)"
    )
    assert found.by_cue["height"] > 0.6 > 0.5 > found.by_cue["brightness"]
    assert found.by_all > 0.6
    assert found.chance == pytest.approx(1 / 3)
    assert found.folds == 5 and found.images == 240


def test_cues_that_say_nothing_are_no_better_than_chance():
    found = find(*data())
    assert max(found.by_cue.values()) < 0.48
    assert found.rules[0].balanced_accuracy < 0.68


def test_what_only_a_patient_has_does_not_count():
    """A tree could learn each patient's brightness by heart; groups keep that out."""
    cues, labels, groups = data()
    of_patient = np.random.default_rng(1).normal(size=240).astype(np.float32)
    cues[:] = of_patient[np.arange(240) // 4][:, None]
    assert find(cues, labels, groups).by_all < 0.5
    alone = find(cues, labels, [str(i) for i in range(240)])
    assert alone.by_cue["width"] >= find(cues, labels, groups).by_cue["width"]


def test_rules_cover_every_class_and_cue_and_fall():
    found = find(*data())
    assert {(rule.cue, rule.class_name) for rule in found.rules} == {(cue, name) for cue in CUES for name in NAMES}
    accuracies = [rule.balanced_accuracy for rule in found.rules]
    assert accuracies == sorted(accuracies, reverse=True)


def test_the_same_again():
    assert find(*data()) == find(*data())


def test_few_groups_give_few_folds():
    cues, labels, _ = data(48)
    groups = [f"{label} {k % 3}" for k, label in enumerate(labels)]
    assert find(cues, labels, groups).folds == 3


@pytest.mark.parametrize(
    ("labels", "groups", "why"),
    [
        ([0] * 8, list("abcdefgh"), "fewer than two classes"),
        ([0, 0, 0, 0, 1, 1, 1, 1], list("abcdeeee"), "only one patient or group"),
        ([], [], "fewer than two classes"),
    ],
)
def test_what_cannot_be_measured(labels, groups, why):
    cues = np.zeros((len(labels), len(CUES)), np.float32)
    found = find_shortcuts(cues, labels=np.array(labels, np.int64), groups=groups, class_names=NAMES)
    assert isinstance(found, str) and why in found


@pytest.mark.parametrize(
    ("yes", "words"),
    [
        (lambda v: v < 3, "width up to 2.5 pixels"),
        (lambda v: v >= 6, "width above 5.5 pixels"),
        (lambda v: (v >= 3) & (v < 6), "width from 2.5 to 5.5 pixels"),
        (lambda v: (v < 3) | (v >= 6), "width up to 2.5 or above 5.5 pixels"),
        (lambda v: v < 0, "width: no rule"),
    ],
)
def test_rules_in_words(yes, words):
    values = np.repeat(np.arange(10), 20).astype(np.float32)
    assert shortcuts._describe_rule("width", values, yes(values)) == words

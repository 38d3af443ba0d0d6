"""Answers without a warning: how many, and how many of them are right."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_jax.common.errors import UsageError
from bt_jax.metrics import selective
from bt_jax.metrics.selective import ConfidenceLimit, Selection

LIMIT = ConfidenceLimit(0.8, accuracy=0.97, coverage=0.9, fitted_on="the 10 images", images=10, step=5)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=30),
    st.sampled_from(selective.LIMITS),
)
def test_shares_are_counted(images, limit):
    confidences, correct, accepted = (np.array(column) for column in zip(*images, strict=True))
    found = selective.select(limit, confidences=confidences, correct=correct, accepted=accepted)
    kept = [right for confidence, right, fine in images if fine and confidence >= limit]
    assert (found.images, found.answered, found.right) == (len(images), len(kept), sum(kept))
    assert found.coverage == len(kept) / len(images)
    assert math.isnan(found.accuracy) if not kept else found.accuracy == sum(kept) / len(kept)


def test_the_largest_coverage_that_is_good_enough_is_chosen():
    some = [
        Selection(0.5, images=1000, answered=1000, right=900),
        Selection(0.6, images=1000, answered=800, right=780),
        Selection(0.7, images=1000, answered=500, right=495),
        Selection(0.9, images=1000, answered=29, right=29),
        Selection(0.95, images=1000, answered=0, right=0),
    ]
    assert selective.choose(some, accuracy=0.97) == some[1]
    assert selective.choose(some, accuracy=0.98) == some[2]
    assert selective.choose(some, accuracy=1.0) is None  # too few answers to speak of a share
    assert selective.choose(some, accuracy=0.0) == some[0]
    assert selective.choose([], accuracy=0.5) is None


def test_limits_to_choose_from_ask_for_a_majority():
    assert selective.LIMITS[0] == 0.5 and selective.LIMITS[-1] == 0.99 and len(set(selective.LIMITS)) == 50


def test_a_limit_is_that_of_its_checkpoint(tmp_path):
    assert selective.read(tmp_path, step=5) is None
    selective.write(tmp_path, LIMIT)
    assert selective.read(tmp_path, step=5) == LIMIT
    assert selective.read(tmp_path, step=6) is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", json.dumps({"schema": 1, **dataclasses.asdict(LIMIT), "value": 1.5})]
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / selective.FILE).write_text(content)
    with pytest.raises(UsageError, match=r"confidence\.json is damaged \(.*\): remove it"):
        selective.read(tmp_path, step=5)

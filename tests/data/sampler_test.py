import collections
import random

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bt_jax.common.errors import UsageError
from bt_jax.data import sampler
from bt_jax.data.sampler import Sampler

sizes = st.integers(1, 40).flatmap(lambda records: st.tuples(st.just(records), st.integers(1, records)))


@hypothesis.settings(deadline=None)
@hypothesis.given(size=sizes, seed=st.integers(0, 2**32), epoch=st.integers(0, 50))
def test_an_epoch_holds_whole_batches_and_every_record_at_most_once(size, seed, epoch):
    records, batch_size = size
    stream = Sampler(records=records, batch_size=batch_size, seed=seed)
    length = stream.steps_per_epoch * batch_size
    assert records - batch_size < length <= records
    examples = [stream(epoch * length + i) for i in range(length)]
    assert {example.epoch for example in examples} == {epoch}
    seen = [example.record for example in examples]
    assert len(set(seen)) == length and set(seen) <= set(range(records))


def test_a_position_gives_the_same_whatever_was_asked_before():
    stream = Sampler(records=37, batch_size=5, seed=1)
    positions = list(range(400))
    in_order = {position: stream(position) for position in positions}
    random.Random(0).shuffle(positions)
    sampler._permute.cache_clear()
    assert {position: Sampler(records=37, batch_size=5, seed=1)(position) for position in positions} == in_order


def test_epochs_and_seeds_are_shuffled_differently():
    def epoch(number: int, seed: int) -> list[int]:
        return [Sampler(records=50, batch_size=50, seed=seed)(number * 50 + i).record for i in range(50)]

    permutations = [epoch(0, 0), epoch(1, 0), epoch(2, 0), epoch(0, 1)]
    assert list(range(50)) not in permutations
    assert len({tuple(permutation) for permutation in permutations}) == 4


def test_no_record_is_left_out_for_good():
    stream = Sampler(records=10, batch_size=4, seed=0)
    count = collections.Counter(stream(position).record for position in range(8 * 100))
    assert set(count) == set(range(10))
    # Each is in 8 of 10 epochs: binomial with a standard deviation of 4.
    assert np.abs(np.array(list(count.values())) - 80).max() < 20


def test_the_order_of_a_seed_stays_as_it_is():
    """Runs that were begun with an earlier version go on with the same images."""
    assert [Sampler(records=9, batch_size=3, seed=7)(i).record for i in range(9)] == [8, 0, 7, 1, 3, 6, 2, 4, 5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 11}, r"config\.train\.batch_size is 11, but there are only 10 training images"),
        ({"batch_size": 0}, r"config\.train\.batch_size is 0"),
        ({"batch_size": -1}, r"config\.train\.batch_size is -1"),
        ({"seed": -1}, r"config\.seed is -1"),
    ],
)
def test_impossible_values(values, message):
    with pytest.raises(UsageError, match=message):
        Sampler(**{"records": 10, "batch_size": 2, "seed": 0} | values)

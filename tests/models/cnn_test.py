import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.common.errors import UsageError
from bt_jax.models import cnn, registry, summary


@settings(deadline=None, max_examples=15)
@given(
    size=st.integers(8, 21),
    channels=st.sampled_from([1, 3]),
    filters=st.lists(st.integers(1, 6), max_size=3).map(tuple),
    hidden=st.lists(st.integers(1, 6), max_size=2).map(tuple),
)
def test_parameters(size: int, channels: int, filters: tuple[int, ...], hidden: tuple[int, ...]) -> None:
    options = {"filters": filters, "hidden": hidden, "channels": channels}
    network, params, batch_stats = registry.create("cnn", classes=4, size=size, **options)
    maps = (channels, *filters)
    features = (size // 2 ** len(filters)) ** 2 * maps[-1]
    expected = sum((9 * a + 1) * b for a, b in itertools.pairwise(maps))
    expected += sum((a + 1) * b for a, b in itertools.pairwise((features, *hidden, 4)))
    assert summary.count_parameters(params) == expected
    convolutions = (f"conv_{i + 1}" for i in range(len(filters)))
    assert network.segment_names == (*convolutions, *(f"dense_{i + 1}" for i in range(len(hidden))), "head")
    assert batch_stats == {}
    assert (network.size, network.pooled_head) == (size, False)


def test_shapes_between_the_segments() -> None:
    network, *trees = registry.create("cnn", classes=4, size=21, filters=(4, 6), hidden=(5,))
    x = jnp.ones((2, 21, 21, 3))
    shapes = [network.apply(*trees, x, stop=name)[0].shape for name in network.segment_names]
    assert shapes == [(2, 21, 21, 3), (2, 10, 10, 4), (2, 5, 5, 6), (2, 5)]
    assert network.apply(*trees, x)[0].shape == (2, 4)


def test_grey_images_have_one_channel_and_three_if_asked_for() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    other = x.at[..., 1:].set(0)
    for channels, same in ((1, True), (3, False)):
        network, *trees = registry.create("cnn", classes=3, size=8, filters=(4,), channels=channels)
        assert np.array_equal(network.apply(*trees, x)[0], network.apply(*trees, other)[0]) == same


def test_weights_keep_the_variance_through_relu() -> None:
    """Of the convolutions 2 / fan in, where a 3x3 kernel counts nine times, cut at two deviations; biases are zero."""
    _, params, _ = registry.create("cnn", classes=4, filters=(64, 128))
    kernel = np.asarray(params["conv_2"]["conv_1"]["kernel"])
    deviation = np.sqrt(2 / (9 * 64))
    np.testing.assert_allclose(kernel.std(), deviation, rtol=0.02)
    assert np.abs(kernel).max() <= 2 * deviation / 0.8796
    assert not np.any(params["conv_2"]["conv_1"]["bias"])


def test_dropout_comes_after_each_block() -> None:
    model = cnn.cnn(classes=3, size=16, filters=(4, 4), hidden=(5,), dropout_rate=0.4)
    assert [getattr(model, name).dropout_rate for name in model.segment_names[:-1]] == [0.4] * 3


def test_images_too_small_for_the_poolings() -> None:
    with pytest.raises(UsageError, match="images of 7 pixels are too small for the 3 poolings of cnn"):
        registry.create("cnn", classes=3, size=7, filters=(2, 2, 2))

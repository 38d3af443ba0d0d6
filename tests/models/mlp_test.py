import itertools

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.models import mlp, registry, summary


@settings(deadline=None, max_examples=15)
@given(
    size=st.integers(1, 12),
    channels=st.sampled_from([1, 3]),
    hidden=st.lists(st.integers(1, 20), max_size=3).map(tuple),
    classes=st.integers(2, 5),
)
def test_parameters(size: int, channels: int, hidden: tuple[int, ...], classes: int) -> None:
    network, params, batch_stats = registry.create("mlp", classes=classes, size=size, hidden=hidden, channels=channels)
    sizes = (size * size * channels, *hidden, classes)
    assert summary.count_parameters(params) == sum((a + 1) * b for a, b in itertools.pairwise(sizes))
    assert network.segment_names == (*(f"dense_{i + 1}" for i in range(len(hidden))), "head")
    assert set(params) == set(network.segment_names)
    assert batch_stats == {}
    assert (network.size, network.pooled_head) == (size, False)


def test_it_is_a_row_of_dense_layers() -> None:
    network, params, _ = registry.create("mlp", classes=3, size=4, hidden=(6, 5), channels=1)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    expected = x[..., 0].reshape(2, 16)
    for i in (1, 2):
        layer = params[f"dense_{i}"]["dense"]
        expected = np.maximum(expected @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
    expected = expected @ np.asarray(params["head"]["output"]["kernel"])
    np.testing.assert_allclose(network.apply(params, {}, jnp.asarray(x))[0], expected, rtol=1e-4, atol=1e-5)


def test_grey_images_have_one_channel_and_three_if_asked_for() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 3)), jnp.float32)
    other = x.at[..., 1:].set(0)
    for channels, same in ((1, True), (3, False)):
        network, *trees = registry.create("mlp", classes=3, size=4, channels=channels)
        assert np.array_equal(network.apply(*trees, x)[0], network.apply(*trees, other)[0]) == same


def test_dropout_comes_after_each_block_and_not_before_the_logits() -> None:
    model = mlp.mlp(classes=3, size=4, hidden=(6, 5), dropout_rate=0.4)
    assert [getattr(model, name).dropout_rate for name in ("dense_1", "dense_2")] == [0.4, 0.4]
    assert not hasattr(model.head, "dropout_rate")

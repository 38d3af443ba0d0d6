"""Segments: where the values of a map lie in the image, computed and measured with gradients, and exchanged styles."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.models import registry
from bt_jax.models.registry import Tree
from bt_jax.models.segments import Grid


def test_by_hand():
    image = Grid(0.5, 1.0, 96)
    # Pixels 0 to 2 and 2 to 4 are seen: TensorFlow puts the one zero behind.
    assert image.convolve(kernel_size=3, stride=2, padding=(0, 1)) == Grid(1.5, 2.0, 48)
    assert image.convolve(kernel_size=3, stride=2, padding=(1, 1)) == Grid(0.5, 2.0, 48)
    assert image.convolve(kernel_size=5, stride=1, padding=(2, 2)) == image
    assert image.convolve(kernel_size=2, stride=2, padding=(0, 0)) == Grid(1.0, 2.0, 48)


def test_last_maps():
    network, _, _ = registry.create_abstract("efficientnet_nano", classes=4, size=96)
    assert network.grids[0] == Grid(0.5, 1.0, 96)
    assert network.grids[-1] == Grid(31.5, 32.0, 3)
    network, _, _ = registry.create_abstract("efficientnet_nano", classes=4, size=96, padding="symmetric")
    assert network.grids[-1] == Grid(0.5, 32.0, 3)
    network, _, _ = registry.create_abstract("vgg_nano", classes=4, size=64)
    assert network.grids[-1] == Grid(16.0, 32.0, 2)
    network, _, _ = registry.create_abstract("cnn", classes=4, size=20, filters=(2, 3), hidden=(4,))
    assert network.grids == (Grid(0.5, 1.0, 20), Grid(1.0, 2.0, 10), Grid(2.0, 4.0, 5), None)
    network, _, _ = registry.create_abstract("mlp", classes=4, size=20, hidden=(4,))
    assert network.grids == (Grid(0.5, 1.0, 20), None)


def test_styles_are_exchanged_after_the_named_segments_only():
    network, params, batch_stats = registry.create("efficientnet_nano", classes=2, size=32)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(8, 32, 32, 3)), jnp.float32)
    first, second, third = network.segment_names[:3]
    run = functools.partial(network.apply, params, batch_stats, dropout_key=jax.random.key(0))
    plain, _ = run(images, stop=third)
    mixed, _ = run(images, stop=third, mixed=(first,))
    assert np.any(mixed != plain)
    np.testing.assert_array_equal(run(images, stop=third, mixed=(third,))[0], plain)
    np.testing.assert_array_equal(run(run(images, stop=second, mixed=(first,))[0], start=second, stop=third)[0], mixed)
    with pytest.raises(ValueError, match="needs dropout_key"):
        network.apply(params, batch_stats, images, mixed=(first,))


@pytest.mark.parametrize(
    ("start", "first_trained", "rows"), [(None, "conv_3", 6), (None, "head", 5), ("conv_2", "conv_3", 4)]
)
def test_pairs_of_images_give_what_the_batch_gives(start, first_trained, rows):
    """The outputs, and the gradients of what trains, with dropout and styles exchanged below and above the cut."""
    network, params, batch_stats = registry.create("cnn", classes=2, size=32, filters=(4, 5, 6), hidden=(7,))
    names = network.segment_names
    x = jnp.asarray(np.random.default_rng(0).normal(size=(rows, 32, 32, 3)), jnp.float32)
    x, _ = network.apply(params, batch_stats, x, stop=start) if start else (x, None)
    trained = tuple(number >= names.index(first_trained) for number in range(len(names)))

    def compute(params: Tree, *, by_pairs: bool) -> tuple[jax.Array, jax.Array]:
        frozen = params | {name: jax.lax.stop_gradient(params[name]) for name in names[: names.index(first_trained)]}
        logits, _ = network.apply(
            frozen,
            batch_stats,
            x,
            start=start,
            trained=trained,
            dropout_key=jax.random.key(0),
            mixed=("conv_2", "conv_3"),
            by_pairs=by_pairs,
        )
        return jnp.square(logits).sum(), logits

    results = [
        jax.jit(jax.grad(functools.partial(compute, by_pairs=by_pairs), has_aux=True))(params)
        for by_pairs in (False, True)
    ]
    assert np.any(results[0][0]["head"]["output"]["kernel"])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *results)


def test_frozen_segments_below_the_first_trained_one_run_by_pairs():
    network, params, batch_stats = registry.create("efficientnet_nano", classes=2, size=32)
    x = jnp.zeros((6, 32, 32, 3))

    def count_loops(rows: int, trained: tuple[bool, ...]) -> int:
        def run(x: jax.Array) -> jax.Array:
            key = jax.random.key(0)
            return network.apply(params, batch_stats, x, trained=trained, dropout_key=key, by_pairs=True)[0]

        return str(jax.make_jaxpr(run)(x[:rows])).count("length=3")

    count = len(network.segment_names)
    assert count_loops(6, (False,) * count) == 1
    assert count_loops(6, (False, True) + (False,) * (count - 2)) == 1
    assert count_loops(6, (True,) * count) == 0
    assert count_loops(5, (False,) * count) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("size", "padding"), [(128, "same"), (97, "same"), (128, "symmetric")])
def test_values_lie_in_the_middle_of_what_they_see(size, padding):
    """With kernels of ones a value sees all of its field alike: the rows it answers to have it as their centroid."""
    network, params, batch_stats = registry.create("efficientnet_nano", classes=2, size=size, padding=padding)
    params = jax.tree_util.tree_map_with_path(
        # Divided by what a value sums over, so that values stay far from those too small for floats.
        lambda path, leaf: jnp.full_like(leaf, leaf.shape[-1] / leaf.size) if path[-1].key == "kernel" else leaf,
        params,
    )
    names = network.segment_names[:6]

    @jax.jit
    def middles(params: Tree, batch_stats: Tree, x: jax.Array) -> list[jax.Array]:
        """The middle value of what goes into each segment but the first, of every image."""
        found = []
        for name, following in itertools.pairwise(names):
            x, _ = network.apply(params, batch_stats, x, start=name, stop=following)
            found.append(x[:, x.shape[1] // 2, x.shape[2] // 2].sum(-1))
        return found

    rows = np.zeros((size, size, 3, 3), np.float32)  # as many images, three pixels wide, with one row each
    rows[np.arange(size), np.arange(size)] = 1e-2
    checked = 0
    for answers, grid, name in zip(middles(params, batch_stats, rows), network.grids[1:], names[1:], strict=False):
        seen = np.asarray(answers)
        if abs(seen[[0, -1]]).max() > 1e-6 * abs(seen).max():  # it sees beyond the image
            break
        centroid = (seen * (np.arange(size) + 0.5)).sum() / seen.sum()
        assert centroid == pytest.approx(grid.first + grid.step * (grid.side // 2), abs=0.02), name
        checked += 1
    assert checked >= 4

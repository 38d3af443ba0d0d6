"""A tree as a few vectors: nothing is lost, what decays is apart, and sizes suit many devices."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.models import registry
from bt_jax.training import flat_layout
from bt_jax.training.flat_layout import FlatLayout

TREE = {
    "stem": {"conv": {"kernel": np.arange(6.0).reshape(2, 3)}, "norm": {"bias": np.ones(2), "scale": np.full(2, 3.0)}},
    "pool": {},
    "head": {"kernel": np.full((2, 2), 7.0)},
}


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_kernels_are_apart_and_sizes_are_rounded_up_by_zeros():
    vectors = FlatLayout.of(TREE).flatten(TREE)
    assert {segment: set(found) for segment, found in vectors.items()} == {
        "stem": {"kernel", "others"}, "pool": set(), "head": {"kernel"},
    }  # fmt: skip
    for leaf in jax.tree.leaves(vectors):
        assert leaf.shape == (flat_layout.MULTIPLE,)
    np.testing.assert_array_equal(vectors["stem"]["kernel"][:7], [0, 1, 2, 3, 4, 5, 0])
    np.testing.assert_array_equal(vectors["stem"]["others"][:5], [1, 1, 3, 3, 0])


SHAPES = st.lists(st.lists(st.integers(1, 40), max_size=3).map(tuple), max_size=4)
SEGMENTS = st.dictionaries(st.sampled_from(["kernel", "bias"]), SHAPES)


@pytest.mark.slow  # each example compiles for its shapes
@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), SEGMENTS, max_size=3))
def test_any_tree_comes_back(shapes):
    generator = np.random.default_rng(0)
    tree = {
        segment: {
            name: {str(i): {name: generator.random(shape, np.float32)} for i, shape in enumerate(found)}
            for name, found in by_name.items()
        }
        for segment, by_name in shapes.items()
    }
    layout = FlatLayout.of(tree)
    assert same(layout.unflatten(layout.flatten(tree)), tree)
    for segment in tree:
        assert same(layout.flatten({segment: tree[segment]}), {segment: layout.flatten(tree)[segment]})


@pytest.mark.parametrize("name", ["efficientnet_b1", "vgg16", "mlp"])
def test_every_network_is_a_few_vectors_of_its_size(name):
    _, params, _ = registry.create_abstract(name, classes=4, size=64)
    vectors = jax.eval_shape(FlatLayout.of(params).flatten, params)
    assert len(jax.tree.leaves(vectors)) <= 2 * len(params)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    padding = sum(leaf.size for leaf in jax.tree.leaves(vectors)) - count
    assert 0 <= padding < flat_layout.MULTIPLE * len(jax.tree.leaves(vectors))


def test_equal_trees_share_a_program():
    one, other = FlatLayout.of(TREE), FlatLayout.of(jax.tree.map(lambda leaf: leaf + 1, TREE))
    assert one == other and hash(one) == hash(other)

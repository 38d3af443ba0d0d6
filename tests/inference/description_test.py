"""The description of a model: through JSON and back, and the network it stands for."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference.description import ModelDescription
from bt_jax.models.normalise import IMAGENET

DESCRIPTION = ModelDescription(
    name="mlp",
    options={"hidden": (5, 3), "channels": 1},
    class_names=("a", "b", "c"),
    preprocessing=Preprocessing(size=8).to_dict(),
    normalisation=dataclasses.asdict(IMAGENET),
    weights="random weights",
    weights_sha256=None,
    synthetic=False,
)


def test_through_json_and_back():
    again = ModelDescription.from_dict(json.loads(json.dumps(dataclasses.asdict(DESCRIPTION))))
    assert again.class_names == ("a", "b", "c")
    assert again.create_normalisation() == DESCRIPTION.create_normalisation() == IMAGENET
    # JSON has lists for tuples, which must make the same network.
    assert again.create_abstract_network()[0] == DESCRIPTION.create_abstract_network()[0]


def test_the_network_has_the_size_classes_and_options():
    network, params, batch_stats = DESCRIPTION.create_network(seed=3)
    assert network.size == 8 and not batch_stats
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 2)
    assert shapes == [(3, 3), (5, 3), (64, 5)]


def test_shapes_without_arrays_are_those_of_the_network():
    _, params, _ = DESCRIPTION.create_network()
    _, abstract, _ = DESCRIPTION.create_abstract_network()
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), params
    )


def test_the_seed_makes_the_weights():
    one, same, other = (jax.tree.leaves(DESCRIPTION.create_network(seed=seed)[1]) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_field_that_is_not_there():
    with pytest.raises(TypeError, match="colour"):
        ModelDescription.from_dict({**dataclasses.asdict(DESCRIPTION), "colour": "red"})

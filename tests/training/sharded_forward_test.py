"""The forward pass over many images: every image once, the same from features, weights kept at hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.distributed import sharding
from bt_jax.inference.forward import make_forward
from bt_jax.models import normalise, registry
from bt_jax.training.sharded_forward import ShardedForward

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 16, 16), np.uint8)


@functools.cache
def network():
    return registry.create("mlp", classes=4, size=16, hidden=(8, 6), seed=1)


def weights(factor=1.0):
    _, params, batch_stats = network()
    return {"params": jax.tree.map(lambda leaf: factor * leaf, params), "batch_stats": batch_stats}


@pytest.fixture(scope="module")
def forward():
    return ShardedForward(
        network()[0], normalisation=normalise.LITE, dtype=jnp.dtype("float32"), mesh=sharding.make_mesh(), batch_size=4
    )


def expected(factor=1.0):
    made = network()[0]
    x = normalise.LITE(jnp.asarray(IMAGES))
    features = made.apply(weights(factor)["params"], {}, x, stop="head")[0]
    return made.apply(weights(factor)["params"], {}, x)[0], features


def test_every_image_has_its_outputs_though_the_last_batch_is_padded(forward):
    logits, features = forward.compute(weights(), IMAGES)
    assert (logits.shape, features.shape, logits.dtype) == ((11, 4), (11, 6), np.float32)
    np.testing.assert_allclose(logits, expected()[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features, expected()[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("segment", ["dense_2", "head"])
def test_the_upper_segments_make_the_same_logits_of_features(forward, segment):
    x = normalise.LITE(jnp.asarray(IMAGES))
    features = np.asarray(network()[0].apply(weights()["params"], {}, x, stop=segment)[0])
    np.testing.assert_allclose(forward.compute_from(segment, weights(), features), expected()[0], rtol=1e-5, atol=1e-6)


def test_mirrored_outputs_are_means_over_an_image_and_its_mirror_image(forward):
    mirrored = forward.copy_mirrored()
    plain, turned = (forward.compute(weights(), images) for images in (IMAGES, IMAGES[:, :, ::-1]))
    assert np.abs(plain[0] - turned[0]).max() > 0.01
    for found, one, other in zip(mirrored.compute(weights(), IMAGES), plain, turned, strict=True):
        np.testing.assert_allclose(found, (one + other) / 2, rtol=1e-6, atol=1e-7)
    whole = make_forward(network()[0], normalisation=normalise.LITE, dtype=jnp.dtype("float32"), mirrored=True)
    np.testing.assert_allclose(
        mirrored.compute(weights(), IMAGES)[0], whole(*weights().values(), IMAGES)[0], rtol=1e-5, atol=1e-6
    )


def test_loaded_weights_stay(forward):
    loaded = forward.load_on_first_host(weights(factor=2.0))
    forward.compute(weights(), IMAGES)
    np.testing.assert_allclose(loaded.compute(IMAGES)[0], expected(2.0)[0], rtol=1e-5, atol=1e-6)

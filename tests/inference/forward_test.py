"""The forward of a network, whole and from a segment up, on any number of images."""

import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.inference.forward import compute_outputs, make_forward, make_upper_forward
from bt_jax.models import registry
from bt_jax.models.normalise import LITE

FLOAT = jnp.dtype("float32")


def pixels(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size)).astype(np.uint8)


def test_logits_and_the_inputs_of_the_last_segment():
    network, params, batch_stats = registry.create("mlp", classes=3, size=8, hidden=(5,), channels=1)
    forward = make_forward(network, normalisation=LITE, dtype=FLOAT)
    logits, features = compute_outputs(forward, params, batch_stats, images=pixels(4, 8), batch_size=4)
    assert logits.shape == (4, 3) and features.shape == (4, 5) and logits.dtype == features.dtype == np.float32
    upper = make_upper_forward(network, start=network.segment_names[-1], dtype=FLOAT)
    (again,) = compute_outputs(upper, params, batch_stats, images=features, batch_size=4)
    np.testing.assert_allclose(again, logits, atol=1e-6)


def test_maps_are_pooled():
    network, params, batch_stats = registry.create("cnn", classes=2, size=32)
    logits, features = compute_outputs(
        make_forward(network, normalisation=LITE, dtype=FLOAT), params, batch_stats, images=pixels(2, 32), batch_size=2
    )
    assert logits.shape == (2, 2) and features.ndim == 2


def test_without_hidden_layers_the_features_are_pixels():
    network, params, batch_stats = registry.create("mlp", classes=2, size=64, hidden=(), channels=1)
    images = pixels(2, 64)
    _, features = compute_outputs(
        make_forward(network, normalisation=LITE, dtype=FLOAT), params, batch_stats, images=images, batch_size=2
    )
    np.testing.assert_allclose(features, images[:, ::2, ::2].reshape(2, -1) / 255, atol=1e-6)


@pytest.mark.parametrize("hidden", [(), (5,)], ids=["pixels", "hidden"])
def test_mirrored_outputs_are_means_over_image_and_mirror_image(hidden):
    network, params, batch_stats = registry.create("mlp", classes=3, size=40, hidden=hidden, channels=1)
    plain, mirrored = (
        make_forward(network, normalisation=LITE, dtype=FLOAT, mirrored=mirrored) for mirrored in (False, True)
    )
    images = pixels(5, 40)
    own, other = (
        compute_outputs(plain, params, batch_stats, images=one, batch_size=2) for one in (images, images[:, :, ::-1])
    )
    found = compute_outputs(mirrored, params, batch_stats, images=images, batch_size=2)
    for array, *parts in zip(found, own, other, strict=True):
        np.testing.assert_allclose(array, np.mean(parts, axis=0), atol=1e-6)
    assert abs(own[0] - other[0]).max() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 16])
def test_every_image_is_computed_once(batch_size):
    seen = []

    def forward(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(len(images))
        return images.sum((1, 2)), images[:, 0]

    images = pixels(7, 4)
    sums, rows = compute_outputs(forward, images=images, batch_size=batch_size)
    assert seen == [batch_size] * -(-7 // batch_size)
    np.testing.assert_array_equal(sums, images.sum((1, 2)))
    assert rows.shape == (7, 4)


def test_features_are_not_scaled():
    (same,) = compute_outputs(lambda part: (part,), images=np.full((3, 2), 200.0, np.float32), batch_size=2)
    np.testing.assert_array_equal(same, np.full((3, 2), 200.0))

"""Changes of appearance: how strong they are, and what they leave alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from bt_jax.data.augment import photometric

LOOKS = {
    "bias_field": (photometric.apply_bias_field, 2.0),
    "resolution": (photometric.reduce_resolution, 0.75),
    "sharpness": (photometric.sharpen, 5.0),
    "curve": (photometric.apply_curve, 1.0),
    "noise": (photometric.add_noise, 0.2),
}


def head(size: int = 64, seed: int = 0) -> np.ndarray:
    """A textured disc on black, [S, S] float32 in [0, 1]."""
    generator = np.random.default_rng(seed)
    texture = scipy.ndimage.zoom(generator.uniform(0.2, 0.85, (8, 8)), size / 8, order=1)
    down, across = np.mgrid[:size, :size] + 0.5 - size / 2
    inside = np.hypot(across, down) < 0.4 * size
    noisy = texture + generator.normal(0, 0.02, (size, size))
    return np.where(inside, np.clip(noisy, 0.01, 1), 0).astype(np.float32)


def looks(look: Callable[..., jax.Array], image: np.ndarray, *, strength: float, count: int = 60) -> np.ndarray:
    """So many results, [count, S, S]."""
    keys = jax.random.split(jax.random.key(1), count)
    compute = jax.jit(jax.vmap(lambda key: look(jnp.asarray(image), strength=strength, key=key)))
    return np.asarray(compute(keys))


@pytest.mark.parametrize("name", sorted(LOOKS))
def test_a_stronger_setting_changes_more(name: str) -> None:
    look, limit = LOOKS[name]
    changes = [np.abs(looks(look, head(), strength=share * limit) - head()).mean() for share in (0.05, 0.3, 1.0)]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("name", ["bias_field", "resolution", "sharpness", "curve"])
def test_black_surroundings_stay_black(name: str) -> None:
    look, limit = LOOKS[name]
    # Filters reach far.
    assert looks(look, head(), strength=limit)[:, 0].max() <= (0.04 if name == "resolution" else 1e-6)


def test_a_bias_field_is_smooth_and_within_its_limits() -> None:
    flat = np.full((90, 90), 0.4, np.float32)
    fields = looks(photometric.apply_bias_field, flat, strength=0.5, count=100) / 0.4
    assert 1.4 < fields.max() <= 1.501
    assert 0.66 <= fields.min() < 0.72
    assert max(np.abs(np.diff(fields, axis=axis)).max() for axis in (1, 2)) < 0.06


def test_resolution_is_lost() -> None:
    stripes = np.tile(np.array([0, 1], np.float32), (64, 32))
    contrast = looks(photometric.reduce_resolution, stripes, strength=0.75).std((1, 2)) / stripes.std()
    assert min(contrast) < 0.1
    flat = np.full((33, 33), 0.3, np.float32)
    np.testing.assert_allclose(looks(photometric.reduce_resolution, flat, strength=0.75), 0.3, atol=1e-5)


def test_sharpness_steepens_an_edge() -> None:
    edge = np.asarray(Image.fromarray(np.repeat([[60, 180]], 2, 0).astype("u1")).resize((64, 64), 2)) / np.float32(255)
    steepness = np.diff(looks(photometric.sharpen, edge, strength=3.0)[:, 32]).max(1)
    assert min(steepness) >= np.diff(edge[32]).max() - 1e-6
    assert max(steepness) > 1.3 * np.diff(edge[32]).max()


def test_a_random_curve_never_falls_and_lies_on_both_sides() -> None:
    ramp = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    for strength in (0.2, 1.0):
        curves = looks(photometric.apply_curve, ramp, strength=strength, count=300).reshape(300, -1)
        assert np.abs(curves[:, 0]).max() < 1e-6 and np.abs(curves[:, -1] - 1).max() < 1e-5
        assert np.diff(curves).min() >= -1e-5
        assert np.abs(curves - ramp.ravel()).max() <= strength + 1e-6
    middles = curves[:, 512]
    assert min(middles) < 0.35 and max(middles) > 0.65 and abs(np.mean(middles) - 0.5) < 0.05


def test_noise_is_nearly_gaussian_and_has_no_pattern() -> None:
    flat = np.full((127, 127), 0.5, np.float32)
    (result,) = looks(photometric.add_noise, flat, strength=0.1, count=1)
    values = (result - 0.5) / result.std()
    for place in (-2.0, -1.0, 0.5, 1.0, 2.0):
        share = (values < place).mean() + (values == place).mean() / 2
        assert share == pytest.approx(float(jax.scipy.stats.norm.cdf(place)), abs=0.025)
    for shift in ((0, 1), (1, 0), (64, 0), (63, 0)):
        assert abs((values * np.roll(values, shift, (0, 1))).mean()) < 0.04


@pytest.mark.parametrize(("size", "strength"), [(1, 0.5), (7, 0.3), (30, 0.4), (60, 0.01)])
def test_a_cutout_is_one_rectangle_no_larger_than_said_in_every_second_image(size: int, strength: float) -> None:
    image = np.random.default_rng(size).random((size, size), np.float32) / 2 + 2  # no grey that is drawn
    cut = 0
    for result in looks(photometric.cut_out, image, strength=strength, count=200):
        rows, columns = np.nonzero(result != image)
        if len(rows):
            cut += 1
            box = result[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert len(np.unique(box)) == 1 and 0 <= box[0, 0] <= 1
            assert max(box.shape) <= np.ceil(strength * size)
    assert 65 < cut < 135

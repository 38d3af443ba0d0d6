import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bt_jax.data.augment import photometric
from bt_jax.data.augment.geometry import smooth

LOOKS = {
    "bias_field": (photometric.apply_bias_field, 2.0),
    "resolution": (photometric.reduce_resolution, 0.75),
    "sharpness": (photometric.sharpen, 5.0),
    "jpeg": (photometric.compress_jpeg, 1.0),
    "convolution": (photometric.apply_random_convolution, 1.0),
    "network": (photometric.apply_random_network, 1.0),
}


def head(size: int = 64, seed: int = 0) -> np.ndarray:
    """A textured disc on black."""
    generator = np.random.default_rng(seed)
    texture = smooth(generator.uniform(60, 220, (8, 8)), size=size) + generator.normal(0, 6, (size, size))
    down, across = np.mgrid[:size, :size] + 0.5 - size / 2
    return np.where(np.hypot(across, down) < 0.4 * size, np.clip(texture, 1, 255), 0).astype(np.uint8)


def looks(look: Callable[..., np.ndarray], image: np.ndarray, *, strength: float, count: int = 60) -> list[np.ndarray]:
    return [look(image, strength=strength, generator=np.random.default_rng(seed)) for seed in range(count)]


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(LOOKS)), size=st.integers(1, 70), seed=st.integers(0, 2**32), share=st.floats(0.01, 1)
)
def test_bytes_of_the_same_shape_always_the_same_and_the_given_ones_untouched(name, size, seed, share) -> None:
    look, limit = LOOKS[name]
    image = np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)
    before = image.copy()
    first, second = (look(image, strength=share * limit, generator=np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == image.shape and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", sorted(LOOKS))
def test_a_stronger_setting_changes_more(name: str) -> None:
    look, limit = LOOKS[name]
    image = head()
    changes = [
        np.mean([np.abs(result - image.astype(int)).mean() for result in looks(look, image, strength=share * limit)])
        for share in (0.05, 0.3, 1.0)
    ]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("name", ["jpeg", "convolution", "network"])
def test_every_second_image_stays(name: str) -> None:
    look, limit = LOOKS[name]
    same = [np.array_equal(result, head()) for result in looks(look, head(), strength=limit, count=200)]
    assert 70 < sum(same) < 135


@pytest.mark.parametrize("name", ["bias_field", "convolution", "network", "resolution", "sharpness"])
def test_black_surroundings_stay_black(name: str) -> None:
    look, limit = LOOKS[name]
    for result in looks(look, head(), strength=limit):
        assert result[0].max() <= (8 if name == "resolution" else 0)  # filters reach far


def test_a_bias_field_is_smooth_and_within_its_limits() -> None:
    flat = np.full((90, 90), 100, np.uint8)
    fields = [result / 100 for result in looks(photometric.apply_bias_field, flat, strength=0.5, count=100)]
    assert 1.4 < max(field.max() for field in fields) <= 1.51
    assert 0.66 <= min(field.min() for field in fields) < 0.72
    assert max(np.abs(np.diff(field, axis=axis)).max() for field in fields for axis in (0, 1)) < 0.06


def test_resolution_is_lost() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    contrast = [result.std() / stripes.std() for result in looks(photometric.reduce_resolution, stripes, strength=0.75)]
    assert min(contrast) < 0.1


def test_sharpness_steepens_an_edge() -> None:
    edge = np.asarray(Image.fromarray(np.repeat([[60, 180]], 2, 0).astype("u1")).resize((64, 64), 2))
    steepness = [np.diff(result[32].astype(int)).max() for result in looks(photometric.sharpen, edge, strength=3.0)]
    assert min(steepness) >= np.diff(edge[32].astype(int)).max()
    assert max(steepness) > 1.3 * np.diff(edge[32].astype(int)).max()


def test_jpeg_has_the_qualities_that_are_said() -> None:
    def compressed(quality: int) -> np.ndarray:
        content = io.BytesIO()
        Image.fromarray(head()).save(content, "JPEG", quality=quality)
        return np.asarray(Image.open(content)).astype(int)

    worst = np.abs(compressed(50) - head()).mean()
    changes = [
        np.abs(result - head().astype(int)).mean() for result in looks(photometric.compress_jpeg, head(), strength=0.5)
    ]
    assert 0.7 * worst < max(changes) < 1.1 * worst


def test_a_random_kernel_leaves_flat_areas_and_keeps_bright_above_dark() -> None:
    for result in looks(photometric.apply_random_convolution, np.full((20, 20), 77, np.uint8), strength=1.0):
        assert np.abs(result.astype(int) - 77).max() <= 1
    for result in looks(photometric.apply_random_convolution, head(), strength=1.0):
        assert np.corrcoef(result.ravel(), head().ravel())[0, 1] > 0.4


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32), strength=st.floats(0, 1))
def test_a_random_curve_never_falls(seed: int, strength: float) -> None:
    curve = photometric.draw_curve(strength=strength, generator=np.random.default_rng(seed))
    assert curve.shape == (256,) and curve.dtype == np.float32
    assert curve[0] == 0 and curve[-1] == pytest.approx(1)
    assert np.diff(curve).min() >= -1e-6
    assert np.abs(curve - np.linspace(0, 1, 256)).max() <= strength + 1e-6


def test_random_curves_lie_on_both_sides() -> None:
    middles = [photometric.draw_curve(strength=1.0, generator=np.random.default_rng(seed))[128] for seed in range(300)]
    assert min(middles) < 0.35 and max(middles) > 0.65 and abs(np.mean(middles) - 0.5) < 0.05


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 60), strength=st.floats(0.01, 0.5))
def test_a_cutout_is_one_rectangle_no_larger_than_said(seed: int, size: int, strength: float) -> None:
    image = np.random.default_rng(seed).random((size, size), np.float32) / 2 + 2  # no grey that is drawn
    result = photometric.cut_out(image, strength=strength, generator=np.random.default_rng(seed))
    rows, columns = np.nonzero(result != image)
    if len(rows):
        box = result[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert len(np.unique(box)) == 1 and 0 <= box[0, 0] <= 1
        assert max(box.shape) <= np.ceil(strength * size)
    else:
        assert result is image


def test_every_second_image_has_a_cutout() -> None:
    image = np.full((30, 30), 2, np.float32)
    cut = [(result != image).any() for result in looks(photometric.cut_out, image, strength=0.4, count=200)]
    assert 65 < sum(cut) < 135


def test_a_random_network_turns_contrasts_over() -> None:
    """Of two greys of the head the darker one becomes the brighter in some images, and stays the darker in others."""
    image = np.zeros((64, 64), np.uint8)
    image[8:56, 8:56] = 80
    image[24:40, 24:40] = 200
    differences = [
        int(result[32, 32]) - int(result[14, 14])
        for result in looks(photometric.apply_random_network, image, strength=1.0)
    ]
    assert min(differences) < -20 and max(differences) > 20

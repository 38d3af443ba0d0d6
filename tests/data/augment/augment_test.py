"""Views: the same for the same arguments in any company, and each operation as strong as it says."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bt_jax.data.augment.augment import augment, compute_views, reduce_size
from bt_jax.data.augment.settings import Augmentation
from bt_jax.distributed import sharding

STRONG = {
    "flip": True, "rotation": 0.2, "zoom": 0.3, "shift": 0.1, "contrast": 0.4, "brightness": 0.2, "gamma": 0.5,
    "noise": 0.1, "blur": 2.0, "border": 0.15, "crop": 0.3, "aspect": 0.3, "elastic": 0.05, "bias_field": 1.0,
    "sharpness": 3.0, "resolution": 0.7, "curve": 1.0, "cutout": 0.4,
}  # fmt: skip
SECOND = {"flip", "cutout"}  # done to every second image


def disc(size: int = 64, radius: float = 12.0, centre: tuple[float, float] = (20.0, 40.0)) -> np.ndarray:
    down, across = np.mgrid[:size, :size] + 0.5
    return np.where(np.hypot(across - centre[0], down - centre[1]) < radius, 200, 0).astype(np.uint8)


def views(image: np.ndarray, count: int, *, seed: int = 3, **changes) -> np.ndarray:
    """So many views of an image, [count, S, S]."""
    images = np.broadcast_to(image, (count, *image.shape))
    numbers = np.arange(count, dtype=np.uint32), np.full(count, 7, np.uint32)
    return np.asarray(compute_views(images, *numbers, seed=seed, settings=Augmentation(**changes)))


def plain(image: np.ndarray) -> np.ndarray:
    return (image / np.float32(255)).astype(np.float32)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Up to rounding: the compiler divides by multiplying."""
    return bool(np.abs(one - other).max() < 1e-6)


def centroid(image: np.ndarray) -> np.ndarray:
    down, across = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(image * across).sum(), (image * down).sum()]) / image.sum()


def test_nothing_on_gives_the_image_itself():
    image = np.arange(4096, dtype=np.int64).reshape(64, 64).astype(np.uint8)
    (result,) = views(image, 1)
    assert result.dtype == np.float32
    assert same(result, plain(image))


@pytest.mark.slow
@settings(deadline=None, max_examples=5)
@given(size=st.integers(1, 50), on=st.sets(st.sampled_from(sorted(STRONG)), min_size=1))
def test_shape_dtype_range_and_determinism(size, on):
    image = np.random.default_rng(size).integers(0, 256, (size, size), np.uint8)
    first, second = (views(image, 5, **{name: STRONG[name] for name in on}) for _ in range(2))
    assert first.shape == (5, size, size) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", sorted(STRONG))
def test_each_operation_does_something_by_itself(name):
    noisy = np.maximum(disc(), np.random.default_rng(0).integers(0, 40, (64, 64), np.uint8))
    changed = [not same(result, plain(noisy)) for result in views(noisy, 16, **{name: STRONG[name]})]
    assert 2 <= sum(changed) <= 14 if name in SECOND else sum(changed) >= 15


def test_a_view_is_that_of_its_seed_view_and_record_wherever_it_stands_in_a_batch():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 20, 20), np.uint8)
    view, record = np.array([0, 0, 1, 1, 2**32 - 1, 0], np.uint32), np.array([0, 1, 0, 1, 2**32 - 1, 2], np.uint32)
    chosen = {"seed": 1, "settings": Augmentation(flip=True, rotation=0.2, noise=0.1, brightness=0.2)}
    whole = np.asarray(compute_views(images, view, record, **chosen))
    order = generator.permutation(6)
    mixed = compute_views(images[order], view[order], record[order], **chosen)
    np.testing.assert_array_equal(mixed, whole[order])
    one = compute_views(images[4:5], view[4:5], record[4:5], **chosen)
    # A program for another number of images may round otherwise.
    np.testing.assert_allclose(one[0], whole[4], atol=1e-5)


def test_each_of_the_three_makes_another_view():
    flat = np.full((8, 4, 4), 100, np.uint8)
    numbers = np.array([0, 1, 2, 3, 0, 1, 2, 3], np.uint32), np.array([0, 0, 0, 0, 1, 1, 1, 1], np.uint32)
    offsets = {
        float(offset)
        for seed in (0, 1)
        for offset in compute_views(flat, *numbers, seed=seed, settings=Augmentation(brightness=0.2))[:, 0, 0]
    }
    assert len(offsets) == 16


def test_switching_one_off_leaves_the_others_draws():
    both, brighter = views(disc(), 8, rotation=0.2, brightness=0.2), views(disc(), 8, brightness=0.2)
    np.testing.assert_allclose(both[:, 0, 0], brighter[:, 0, 0], atol=1e-6)  # a background pixel shows the offset
    noisy, alone = views(disc(), 8, noise=0.1, shift=0.1), views(disc(), 8, noise=0.1)
    apart = (views(disc(), 8, shift=0.1) == 0) & (plain(disc()) == 0)
    np.testing.assert_allclose(noisy[apart], alone[apart], atol=1e-6)


def test_the_streams_stay_the_same_across_versions():
    found = views(np.full((2, 2), 128, np.uint8), 3, brightness=0.2)[:, 0, 0] - 128 / 255
    np.testing.assert_allclose(found, [-0.076343, 0.173161, 0.002799], atol=1e-6)


@pytest.mark.parametrize("size", [40, 63, 17])
def test_reduced_images_are_those_of_pillow(size):
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    found = np.asarray(jax.jit(lambda x: reduce_size(x, size))(images))
    expected = np.stack([Image.fromarray(one).resize((size, size), Image.Resampling.BILINEAR) for one in images])
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_each_device_computes_the_views_of_its_rows():
    """No collective is in the program."""
    mesh = sharding.make_mesh()
    by_row = sharding.get_batch_sharding(mesh)
    jitted = jax.jit(
        lambda images, view, record: augment(images, view, record, seed=0, settings=Augmentation(**STRONG)),
        in_shardings=by_row, out_shardings=by_row,
    )  # fmt: skip
    rows = 4 * mesh.size
    shapes = jax.ShapeDtypeStruct((rows, 24, 24), np.uint8), *[jax.ShapeDtypeStruct((rows,), np.uint32)] * 2
    text = jitted.lower(*shapes).compile().as_text()
    assert not any(name in text for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))


def test_a_crop_shows_a_part_of_the_side_that_lies_anywhere():
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8), (200, 200))
    rows = views(ramp, 200, crop=0.4)[:, 100, 5:-5] * 255
    spans, starts = (rows[:, -1] - rows[:, 0]) / 189, rows[:, 0]
    assert 0.59 < min(spans) < 0.62 and 0.98 < max(spans) < 1.01
    assert min(starts) < 10 and max(starts) > 60


def test_aspect_multiplies_width_over_height_and_keeps_the_area():
    centred = disc(size=100, radius=25, centre=(50.0, 50.0))
    ratios = []
    for seen in views(centred, 200, aspect=0.3) > 0.4:
        ratios.append(seen.any(0).sum() / seen.any(1).sum())
        assert seen.sum() == pytest.approx((centred > 100).sum(), rel=0.02)
    assert 1 / 1.38 < min(ratios) < 0.81 and 1.24 < max(ratios) < 1.38


def test_flip_mirrors_left_and_right_half_of_the_time():
    mirrored = 0
    for result in views(disc(), 200, flip=True):
        if not same(result, plain(disc())):
            assert same(result, plain(disc())[:, ::-1])
            mirrored += 1
    assert 70 < mirrored < 130


def test_rotation_is_a_fraction_of_a_full_turn_about_the_centre():
    angles = []
    for result in views(disc(), 200, rotation=0.2):
        x, y = centroid(result) - 32
        assert abs(np.hypot(x, y) - np.hypot(12, 8)) < 0.5  # the distance to the centre stays
        angles.append(np.degrees(np.arctan2(y, x) - np.arctan2(8, -12)) % 360)
    angles = (np.array(angles) + 180) % 360 - 180
    assert -73 < angles.min() < -60 and 60 < angles.max() < 73


def test_zoom_scales_the_area_about_the_centre():
    centred = disc(centre=(32.0, 32.0))
    ratios = views(centred, 200, zoom=0.3).sum((1, 2)) / plain(centred).sum()
    assert 0.7**2 - 0.02 < min(ratios) < 0.75**2 and 1.25**2 < max(ratios) < 1.3**2 + 0.02


def test_shift_is_a_fraction_of_the_side_in_both_directions():
    moved = np.array([centroid(result) - centroid(disc()) for result in views(disc(), 200, shift=0.1)])
    assert np.abs(moved).max() < 6.45 and (moved.max(0) > 5.5).all() and (moved.min(0) < -5.5).all()
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.2


def test_border_shrinks_by_twice_its_width_and_crops_as_much():
    full = np.full((100, 100), 255, np.uint8)
    widths = (views(full, 300, border=0.15)[:, 50] < 0.5).sum(1) / 2
    assert 14 <= max(widths) <= 15.5 and np.mean(widths == 0) > 0.4
    centred = disc(size=100, centre=(50.0, 50.0))
    ratios = views(centred, 300, border=0.15).sum((1, 2)) / plain(centred).sum()
    assert abs(min(ratios) - 0.7**2) < 0.05 and abs(max(ratios) - 0.7**-2) < 0.1


def test_contrast_and_brightness_mean_what_keras_means():
    image = np.repeat(np.array([60, 100, 140, 180], np.uint8), 4).reshape(4, 4)
    results = views(image, 300, contrast=0.2)
    factors = (results[:, 3, 0] - results[:, 0, 0]) / (120 / 255)
    np.testing.assert_allclose(results.mean((1, 2)), 120 / 255, atol=1e-6)
    moved = views(image, 300, brightness=0.2) - plain(image)
    assert np.ptp(moved, axis=(1, 2)).max() < 1e-6
    offsets = moved[:, 0, 0]
    assert 0.7999 <= min(factors) < 0.82 and 1.18 < max(factors) <= 1.2001
    assert -0.2001 <= min(offsets) < -0.18 and 0.18 < max(offsets) <= 0.2001


def test_gamma_brightens_and_darkens_alike():
    image = np.full((2, 2), 128, np.uint8)
    exponents = np.log(views(image, 300, gamma=0.5)[:, 0, 0]) / np.log(128 / 255)
    assert 1 / 1.5 - 1e-5 <= min(exponents) < 0.7 and 1.44 < max(exponents) <= 1.5 + 1e-5
    assert abs(np.mean(np.log(exponents))) < 0.05


def test_noise_and_blur_are_as_strong_as_they_say():
    flat = np.full((63, 63), 128, np.uint8)
    deviations = views(flat, 100, noise=0.1).std((1, 2))
    assert min(deviations) < 0.01 and 0.09 < max(deviations) < 0.105
    point = np.zeros((65, 65), np.uint8)
    point[24:41, 24:41] = 255
    profiles = np.diff(views(point, 100, blur=3.0)[:, 32, :32].astype(np.float64))
    edges = np.sqrt((profiles * (np.arange(31) - 23) ** 2).sum(1))  # the blur's standard deviation
    assert min(edges) < 0.3 and 2.6 < max(edges) < 3.2

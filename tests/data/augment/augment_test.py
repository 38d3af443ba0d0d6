import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.common.errors import UsageError
from bt_jax.data.augment import augment as augment_module
from bt_jax.data.augment.augment import Augmentation, augment, make_generator, to_float

STRONG = {
    "flip": True, "rotation": 0.2, "zoom": 0.3, "shift": 0.1, "contrast": 0.4, "brightness": 0.2, "gamma": 0.5,
    "noise": 0.1, "blur": 2.0, "border": 0.15, "crop": 0.3, "aspect": 0.3, "elastic": 0.05, "fourier": 1.0,
    "histogram": 1.0, "convolution": 1.0, "network": 1.0,
    "bias_field": 1.0, "sharpness": 3.0, "resolution": 0.7, "jpeg": 1.0,
    "curve": 1.0, "cutout": 0.4,
}  # fmt: skip
SECOND = {"flip", "fourier", "histogram", "convolution", "network", "jpeg", "cutout"}  # done to every second image


def disc(size: int = 64, radius: float = 12.0, centre: tuple[float, float] = (20.0, 40.0)) -> np.ndarray:
    down, across = np.mgrid[:size, :size] + 0.5
    return np.where(np.hypot(across - centre[0], down - centre[1]) < radius, 200, 0).astype(np.uint8)


def partner_of(image: np.ndarray) -> Callable[[np.random.Generator], np.ndarray]:
    """Gives the image turned and brighter."""
    return lambda generator: np.minimum(np.rot90(image), 205).astype(np.uint8) + np.uint8(50)


def view(image: np.ndarray, number: int = 0, **changes) -> np.ndarray:
    generator = make_generator(seed=3, view=0, record=number)
    return augment(image, generator=generator, settings=Augmentation(**changes), partner=partner_of(image))


def centroid(image: np.ndarray) -> np.ndarray:
    down, across = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(image * across).sum(), (image * down).sum()]) / image.sum()


def test_nothing_on_equals_the_unaugmented_path_exactly():
    image = np.arange(4096, dtype=np.int64).reshape(64, 64).astype(np.uint8)
    result = augment(image, generator=make_generator(seed=0, view=0, record=0), settings=Augmentation())
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, to_float(image))
    np.testing.assert_array_equal(to_float(np.array([0, 51, 255], np.uint8)), np.array([0, 0.2, 1], np.float32))


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 70),
    record=st.integers(0, 2**64 - 1),
    on=st.sets(st.sampled_from(sorted(STRONG))),
)
def test_shape_dtype_range_and_determinism(size, record, on):
    image = np.random.default_rng(size).integers(0, 256, (size, size), np.uint8)
    chosen = Augmentation(**{name: STRONG[name] for name in on})
    first, second = (
        augment(
            image,
            generator=make_generator(seed=1, view=2, record=record),
            settings=chosen,
            partner=partner_of(image),
        )
        for _ in range(2)
    )
    assert first.shape == (size, size) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", sorted(STRONG))
def test_each_operation_does_something_by_itself(name):
    noisy = np.maximum(disc(), np.random.default_rng(0).integers(0, 40, (64, 64), np.uint8))
    results = [view(noisy, number, **{name: STRONG[name]}) for number in range(16)]
    changed = [not np.array_equal(result, to_float(noisy)) for result in results]
    assert 2 <= sum(changed) <= 14 if name in SECOND else sum(changed) >= 15


@pytest.mark.parametrize("name", sorted(STRONG))
def test_draws_do_not_depend_on_what_is_on(name):
    """The generator is left in the same state, so whoever draws next draws the same."""
    states = []
    for chosen in (Augmentation(**STRONG), Augmentation(**{**STRONG, name: type(STRONG[name])(0)}), Augmentation()):
        generator = make_generator(seed=5, view=0, record=0)
        augment(disc(), generator=generator, settings=chosen, partner=partner_of(disc()))
        states.append(generator.random())
    assert states[0] == states[1] == states[2]


def test_switching_one_off_leaves_the_others_draws():
    for number in range(8):
        both = view(disc(), number, rotation=0.2, brightness=0.2)
        only_brightness = view(disc(), number, brightness=0.2)
        assert abs(float(both[0, 0]) - float(only_brightness[0, 0])) < 1e-6  # a background pixel shows the offset
        noisy = view(disc(), number, noise=0.1, shift=0.1) - view(disc(), number, shift=0.1)
        noisy_alone = view(disc(), number, noise=0.1) - view(disc(), number)
        apart = (view(disc(), number, shift=0.1) == 0) & (view(disc(), number) == 0)
        np.testing.assert_allclose(noisy[apart], noisy_alone[apart], atol=1e-6)


@pytest.mark.parametrize("name", sorted(SECOND - {"flip"} | {"bias_field", "resolution", "sharpness", "curve"}))
def test_operations_with_draws_of_their_own_draw_the_same_in_any_company(name, monkeypatch):
    """The generator that the operation gets stands where it stood when it was alone."""
    seen = []
    original = augment_module._make_own_generator

    def noted(seed, of):
        generator = original(seed, of)
        if of == name:
            seen.append(generator.bit_generator.state["state"]["state"].tolist())
        return generator

    monkeypatch.setattr(augment_module, "_make_own_generator", noted)
    for number in range(3):
        view(disc(), number, **{name: STRONG[name]})
        view(disc(), number, **STRONG)
    assert seen[0::2] == seen[1::2] and len({tuple(state) for state in seen}) == 3


def test_old_settings_give_the_views_they_always_gave():
    """Values of every 16th pixel and means, from before there were operations with draws of their own."""
    old = {name: STRONG[name] for name in list(STRONG)[:10]}
    first = [0.014782, 0.0, 0.012266, 0.010182, 0.0, 0.037358, 0.001961, 0.0, 0.0, 0.003156, 0.0, 0.025123, 0.0, 0.0,
             0.519849, 0.271389]  # fmt: skip
    second = [0.0, 0.038291, 0.0, 0.0, 0.012398, 0.01331, 0.0, 0.022511, 0.0, 0.0, 0.0092, 0.0, 0.014376, 0.985989,
              0.96957, 0.0]  # fmt: skip
    for number, (values, mean) in enumerate([(first, 0.06481152), (second, 0.18632801)]):
        found = view(disc(), number, **old)
        np.testing.assert_allclose(found[::16, ::16].ravel(), values, atol=2e-6)
        assert found.mean() == pytest.approx(mean, rel=1e-5)


def test_style_needs_a_partner():
    for name in ("fourier", "histogram"):
        with pytest.raises(ValueError, match=rf"augmentation\.{name} needs a partner"):
            augment(disc(), generator=make_generator(seed=0, view=0, record=0), settings=Augmentation(**{name: 0.5}))


def test_a_crop_shows_a_part_of_the_side_that_lies_anywhere():
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8), (200, 200))
    spans, starts = [], []
    for number in range(200):
        row = view(ramp, number, crop=0.4)[100, 5:-5] * 255
        spans.append((row[-1] - row[0]) / 189)
        starts.append(row[0])
    assert 0.59 < min(spans) < 0.62 and 0.98 < max(spans) < 1.01
    assert min(starts) < 10 and max(starts) > 60


def test_aspect_multiplies_width_over_height_and_keeps_the_area():
    centred = disc(size=100, radius=25, centre=(50.0, 50.0))
    ratios = []
    for number in range(200):
        seen = view(centred, number, aspect=0.3) > 0.4
        ratios.append(seen.any(0).sum() / seen.any(1).sum())
        assert seen.sum() == pytest.approx((centred > 100).sum(), rel=0.02)
    assert 1 / 1.38 < min(ratios) < 0.81 and 1.24 < max(ratios) < 1.38


def test_flip_mirrors_left_and_right_half_of_the_time():
    mirrored = 0
    for number in range(200):
        result = view(disc(), number, flip=True)
        if not np.array_equal(result, to_float(disc())):
            np.testing.assert_array_equal(result, to_float(disc())[:, ::-1])
            mirrored += 1
    assert 70 < mirrored < 130


def test_rotation_is_a_fraction_of_a_full_turn_about_the_centre():
    angles = []
    for number in range(200):
        x, y = centroid(view(disc(), number, rotation=0.2)) - 32
        assert abs(np.hypot(x, y) - np.hypot(12, 8)) < 0.5  # the distance to the centre stays
        angles.append(np.degrees(np.arctan2(y, x) - np.arctan2(8, -12)) % 360)
    angles = (np.array(angles) + 180) % 360 - 180
    assert -73 < angles.min() < -60 and 60 < angles.max() < 73


def test_zoom_scales_the_area_about_the_centre():
    centred = disc(centre=(32.0, 32.0))
    ratios = [view(centred, number, zoom=0.3).sum() / to_float(centred).sum() for number in range(200)]
    assert 0.7**2 - 0.02 < min(ratios) < 0.75**2 and 1.25**2 < max(ratios) < 1.3**2 + 0.02


def test_shift_is_a_fraction_of_the_side_in_both_directions():
    moved = np.array([centroid(view(disc(), number, shift=0.1)) - centroid(disc()) for number in range(200)])
    assert np.abs(moved).max() < 6.45 and (moved.max(0) > 5.5).all() and (moved.min(0) < -5.5).all()
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.2


def test_border_shrinks_by_twice_its_width_and_crops_as_much():
    full = np.full((100, 100), 255, np.uint8)
    widths = [(view(full, number, border=0.15)[50] < 0.5).sum() / 2 for number in range(300)]
    assert 14 <= max(widths) <= 15.5 and np.mean(np.array(widths) == 0) > 0.4
    centred = disc(size=100, centre=(50.0, 50.0))
    ratios = [view(centred, number, border=0.15).sum() / to_float(centred).sum() for number in range(300)]
    assert abs(min(ratios) - 0.7**2) < 0.05 and abs(max(ratios) - 0.7**-2) < 0.1


def test_contrast_and_brightness_mean_what_keras_means():
    image = np.repeat(np.array([60, 100, 140, 180], np.uint8), 4).reshape(4, 4)
    factors, offsets = [], []
    for number in range(300):
        result = view(image, number, contrast=0.2)
        factors.append((result[3, 0] - result[0, 0]) / (120 / 255))
        assert abs(result.mean() - 120 / 255) < 1e-6
        moved = view(image, number, brightness=0.2) - to_float(image)
        assert np.ptp(moved) < 1e-6
        offsets.append(moved[0, 0])
    assert 0.8 <= min(factors) < 0.82 and 1.18 < max(factors) <= 1.2
    assert -0.2 <= min(offsets) < -0.18 and 0.18 < max(offsets) <= 0.2


def test_gamma_brightens_and_darkens_alike():
    image = np.full((2, 2), 128, np.uint8)
    exponents = [np.log(view(image, number, gamma=0.5)[0, 0]) / np.log(128 / 255) for number in range(300)]
    assert 1 / 1.5 - 1e-5 <= min(exponents) < 0.7 and 1.44 < max(exponents) <= 1.5 + 1e-5
    assert abs(np.mean(np.log(exponents))) < 0.05


def test_noise_and_blur_are_as_strong_as_they_say():
    flat = np.full((64, 64), 128, np.uint8)
    deviations = [view(flat, number, noise=0.1).std() for number in range(100)]
    assert min(deviations) < 0.01 and 0.09 < max(deviations) < 0.105
    point = np.zeros((65, 65), np.uint8)
    point[24:41, 24:41] = 255
    edges = []
    for number in range(100):
        profile = np.diff(view(point, number, blur=3.0)[32, :32].astype(np.float64))
        position = np.arange(31)
        edges.append(np.sqrt((profile * (position - 23) ** 2).sum()))  # the blur's standard deviation
    assert min(edges) < 0.3 and 2.6 < max(edges) < 3.2


def test_generators_depend_on_all_three_and_nothing_else():
    arguments = [(s, v, r) for s in (0, 1, 2**32) for v in (0, 1, 2**32) for r in (0, 1, 2**32, 2**64 - 1)]
    draws = [make_generator(seed=s, view=v, record=r).random(4).tolist() for s, v, r in arguments]
    assert len({tuple(draw) for draw in draws}) == len(arguments)
    assert draws == [make_generator(seed=s, view=v, record=r).random(4).tolist() for s, v, r in arguments]


def test_the_streams_stay_the_same_across_versions():
    np.testing.assert_allclose(
        make_generator(seed=1, view=2, record=3).random(2), [0.06344102965932141, 0.707504754819708], rtol=1e-12
    )


@pytest.mark.parametrize("name", sorted(set(STRONG) - {"flip"}))
@pytest.mark.parametrize("value", [-0.1, 1e3, float("nan"), "much", True])
def test_absurd_values_are_named(name, value):
    with pytest.raises(UsageError, match=rf"augmentation\.{name} is"):
        Augmentation(**{name: value})


def test_flip_must_be_a_boolean():
    with pytest.raises(UsageError, match=r"augmentation\.flip"):
        Augmentation(flip=1)  # type: ignore[arg-type]


def test_every_field_is_documented_and_off_by_default():
    for field in dataclasses.fields(Augmentation):
        assert f"      {field.name}: " in (Augmentation.__doc__ or "")
        assert not field.default

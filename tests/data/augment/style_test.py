import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.data.augment import style
from tests.data.augment.photometric_test import head

EXCHANGES = (style.exchange_histogram, style.exchange_amplitude)


def exchanged(exchange, image: np.ndarray, partner: np.ndarray, *, strength: float = 1.0, count: int = 60):
    """Those results that are not the image as it was."""
    results = [
        exchange(image, partner=partner, strength=strength, generator=np.random.default_rng(seed))
        for seed in range(count)
    ]
    assert count * 0.25 < sum(result is image for result in results) < count * 0.75
    return [result for result in results if result is not image]


@pytest.mark.parametrize("exchange", EXCHANGES)
@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 50), seed=st.integers(0, 2**32), strength=st.floats(0.01, 1))
def test_bytes_of_the_same_shape_and_always_the_same(exchange, size, seed, strength) -> None:
    image, partner = np.random.default_rng(seed).integers(0, 256, (2, size, size), np.uint8)
    first, second = (
        exchange(image, partner=partner, strength=strength, generator=np.random.default_rng(seed)) for _ in range(2)
    )
    assert first.shape == image.shape and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_an_image_that_is_its_own_partner_stays(exchange) -> None:
    for result in exchanged(exchange, head(), head()):
        assert np.abs(result.astype(int) - head()).max() <= 1


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_anatomy_stays_and_the_look_comes_nearer_to_the_partners(exchange) -> None:
    image, partner = head(seed=1), (head(seed=2) * 0.5).astype(np.uint8)
    inside = image > 0
    before = abs(image[inside].mean() - partner[partner > 0].mean())
    for result in exchanged(exchange, image, partner):
        assert abs(result[inside].mean() - partner[partner > 0].mean()) < before + 1
        details = [np.diff(each.astype(float), axis=1)[inside[:, 1:]] for each in (result, image)]
        assert np.corrcoef(*details)[0, 1] > 0.7


def test_matched_grey_values_spread_as_the_partners_do() -> None:
    image, partner = head(seed=1), (head(seed=2) * 0.6 + 20).astype(np.uint8)
    partner[head(seed=2) == 0] = 0
    results = exchanged(style.exchange_histogram, image, partner, count=200)
    quantiles = [np.percentile(each[each >= 8], [10, 50, 90]) for each in (image, partner, *results)]
    nearest = min(np.abs(found - quantiles[1]).max() for found in quantiles[2:])
    assert nearest < 4 < 0.2 * np.abs(quantiles[0] - quantiles[1]).max()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_grey_values_keep_their_order_without_steep_steps_and_black_stays(seed: int) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    partner = np.random.default_rng(seed).choice([9, 10, 200, 250], (16, 16)).astype(np.uint8)
    result = style.exchange_histogram(levels, partner=partner, strength=1.0, generator=np.random.default_rng(seed))
    steps = np.diff(result.ravel().astype(int))
    np.testing.assert_array_equal(result.ravel()[:8], np.arange(8))
    assert steps.min() >= 0 and steps[8:].max() <= 4


@pytest.mark.parametrize("partner", [np.zeros((64, 64), np.uint8), np.full((64, 64), 3, np.uint8)])
def test_a_partner_without_anything_to_see(partner: np.ndarray) -> None:
    for seed in range(8):
        generator = np.random.default_rng(seed)
        assert style.exchange_histogram(head(), partner=partner, strength=1.0, generator=generator) is not None
        generator = np.random.default_rng(seed)
        np.testing.assert_array_equal(
            style.exchange_histogram(head(), partner=partner, strength=1.0, generator=generator), head()
        )


def test_only_the_lowest_frequencies_change() -> None:
    image = (head(120, seed=1) // 4 + 90).astype(np.uint8)  # far from black and white, where nothing is cut off
    partner = (head(120, seed=2) // 4 + 60).astype(np.uint8)
    for result in exchanged(style.exchange_amplitude, image, partner):
        change = np.abs(np.fft.fft2(result.astype(float) - image))
        row, column = np.abs(np.fft.fftfreq(120) * 120)[:, None], np.abs(np.fft.fftfreq(120) * 120)[None]
        low = (row <= 0.03 * 120) & (column <= 0.03 * 120)
        assert (change[~low] ** 2).sum() / 120**4 < 0.1  # the variance of rounding is 1 / 12

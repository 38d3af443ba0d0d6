import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from bt_jax.data.dedup import registration
from bt_jax.data.phantoms import phantom


@pytest.fixture(scope="module")
def heads() -> np.ndarray:
    """Slices of 8 patients, 64x64 as thumbnails are: [8, 64, 64] uint8."""
    slices = [
        phantom.render(2 * i, label=label, seed=0).image for label in ("glioma_tumor", "no_tumor") for i in range(4)
    ]
    return np.stack([np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BOX)) for image in slices])


def moved(
    images: np.ndarray, *, shift: tuple[float, float] = (0, 0), scale: float = 1, degrees: float = 0
) -> np.ndarray:
    """Pictures as seen by a camera that was moved; what comes from outside is black."""
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    centre = 31.5
    matrix = (
        cosine, sine, centre - cosine * centre - sine * centre - shift[0],
        -sine, cosine, centre + sine * centre - cosine * centre - shift[1],
    )  # fmt: skip
    return np.stack([
        np.asarray(Image.fromarray(image).transform((64, 64), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))
        for image in images
    ])  # fmt: skip


def test_equal_pictures_agree_as_they_lie(heads):
    agreement = registration.compare_unaligned(heads, heads)
    for values in (agreement.correlation, agreement.detail, agreement.overlap):
        assert values.shape == (8,) and values.dtype == np.float32
        np.testing.assert_allclose(values, 1, atol=1e-5)


@pytest.mark.parametrize(
    "move",
    [
        {"shift": (2.5, -1.0)},
        {"scale": 1.07},
        {"scale": 0.9},
        {"degrees": 5.0},
        {"degrees": -8.0},
        {"shift": (-2.0, 2.0), "scale": 1.05, "degrees": 3.0},
    ],
    ids=str,
)
def test_a_moved_copy_agrees_once_it_is_laid_over(heads, move):
    copies = moved(heads, **move)
    before = registration.compare_unaligned(heads, copies)
    after = registration.align(heads, copies)
    # A smaller copy has lost details.
    assert (after.detail > (0.96 if move.get("scale", 1) < 1 else 0.975)).all(), after.detail
    assert (after.correlation > 0.98).all(), after.correlation
    assert (before.detail < after.detail).all()
    assert (after.overlap > 0.7).all()


def test_different_heads_do_not_agree(heads):
    i, j = np.triu_indices(8, 1)
    assert registration.align(heads[i], heads[j]).detail.max() < 0.9


@hypothesis.settings(deadline=None, max_examples=10)
@hypothesis.given(gain=st.floats(0.3, 1.0), offset=st.floats(0, 60), other_gain=st.floats(0.3, 1.0))
def test_brightness_and_contrast_do_not_count(heads, gain, offset, other_gain):
    copies = moved(heads[:3], shift=(1.5, 1.0))
    expected = registration.align(heads[:3], copies)
    found = registration.align(heads[:3] * np.float32(other_gain), copies * np.float32(gain) + np.float32(offset))
    assert (expected.detail > 0.97).all()
    np.testing.assert_allclose(found.detail, expected.detail, atol=1e-3)


def test_pictures_without_structure_agree_with_nothing(heads):
    flat = np.full_like(heads, 9)
    for compare in (registration.compare_unaligned, registration.align):
        for a, b in ((flat, flat), (heads, flat), (flat, heads)):
            agreement = compare(a, b)
            assert agreement.detail.max() == 0 and agreement.correlation.max() == 0


def test_each_pair_is_compared_by_itself(heads):
    copies = moved(heads, shift=(2, 1))
    together = registration.align(heads, copies)
    for k in (0, 5):
        alone = registration.align(heads[k : k + 1], copies[k : k + 1])
        np.testing.assert_allclose(alone.detail[0], together.detail[k], atol=1e-4)


def test_no_pairs():
    none = np.zeros((0, 64, 64), np.uint8)
    assert registration.align(none, none).detail.shape == (0,)
    assert registration.compare_unaligned(none, none).detail.shape == (0,)

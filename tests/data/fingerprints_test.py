import io

import numpy as np
import pytest
from PIL import Image

from bt_jax.data import fingerprints
from bt_jax.data.dedup import near_duplicates
from bt_jax.data.io import decode
from bt_jax.data.phantoms import phantom


def reencoded(image: np.ndarray, image_format: str, **options) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, image_format, **options)
    return decode.decode_image(buffer.getvalue(), name="x")


def resized(image: np.ndarray, scale: float) -> np.ndarray:
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def slices() -> list[np.ndarray]:
    """One slice of each of 12 patients."""
    return [
        phantom.render(4 * i, label=label, seed=0).image
        for label in ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")
        for i in range(3)
    ]


def test_fingerprint_is_of_the_pixels_not_the_file(slices):
    image = slices[0]
    expected = fingerprints.fingerprint(image)
    assert len(expected) == 32 and set(expected) <= set("0123456789abcdef")
    for image_format in ("PNG", "BMP", "TIFF"):
        assert fingerprints.fingerprint(reencoded(image, image_format)) == expected
    assert fingerprints.fingerprint(np.asfortranarray(image)) == expected
    assert fingerprints.fingerprint(image[::-1][::-1]) == expected


def test_fingerprint_differs_with_a_pixel_the_shape_or_the_depth():
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    changed = image.copy()
    changed[3, 5] += 1
    variants = [image, changed, image.reshape(6, 4), image.reshape(2, 12), image.astype(np.uint16), image.T]
    assert len({fingerprints.fingerprint(variant) for variant in variants}) == len(variants)


def test_the_fingerprint_of_an_image_stays_as_it_is():
    """`patients.csv` and the files of earlier runs hold fingerprints."""
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert fingerprints.fingerprint(image) == "452ca028b6b02abd89ec7c0e7c3dd94a"


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (700, 3), (64, 64), (300, 200)])
def test_thumbnails_of_any_size(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    small = fingerprints.make_thumbnails(image)
    assert small.shape == (2, 64, 64) and small.dtype == np.uint8


def test_thumbnails_of_16_bits_are_those_of_8(slices):
    deep = slices[0].astype(np.uint16) * 257
    correlation = near_duplicates.standardise(fingerprints.make_thumbnails(deep)) * near_duplicates.standardise(
        fingerprints.make_thumbnails(slices[0])
    )
    assert correlation.sum(1).min() > 0.999
    assert fingerprints.make_thumbnails(np.zeros((30, 30), np.uint16)).max() == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda image: resized(image, 0.5),
        lambda image: resized(image, 1.7),
        lambda image: reencoded(image, "JPEG", quality=50),
        lambda image: reencoded(resized(image, 0.8), "JPEG", quality=70),
        lambda image: (image * 0.7).astype(np.uint8),
    ],
    ids=["half", "larger", "jpeg", "smaller jpeg", "darker"],
)
def test_changed_copies_are_near_twins_of_their_originals_alone(slices, change):
    originals = np.stack([fingerprints.make_thumbnails(image) for image in slices])
    copies = np.stack([fingerprints.make_thumbnails(change(image)) for image in slices])
    assert near_duplicates.list_near_duplicates(copies, originals).tolist() == [[i, i] for i in range(len(slices))]

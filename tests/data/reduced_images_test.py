"""Images that are reduced on access: those of Pillow, slice by slice, of arrays and of what is read late."""

import numpy as np
from PIL import Image

from bt_jax.data.augment.augment import reduce_size
from bt_jax.data.reduced_images import ReducedImages

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 32, 32), np.uint8)


class Late:
    """Remembers what was read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, rows):
        self.read.append(rows)
        return IMAGES[rows]


def test_a_slice_is_that_of_images_reduced_by_pillow():
    reduced = ReducedImages(IMAGES, 20)
    assert (len(reduced), reduced.shape, reduced.dtype) == (7, (7, 20, 20), np.uint8)
    expected = [Image.fromarray(one).resize((20, 20), Image.Resampling.BILINEAR) for one in IMAGES]
    np.testing.assert_array_equal(reduced[:], np.stack(expected))
    np.testing.assert_array_equal(reduced[2:5], np.stack(expected)[2:5])
    assert reduced[7:9].shape == (0, 20, 20)


def test_the_device_reduces_alike():
    assert np.abs(ReducedImages(IMAGES, 20)[:].astype(int) - np.asarray(reduce_size(IMAGES, 20))).max() <= 1


def test_images_are_read_a_slice_at_a_time():
    late = Late()
    reduced = ReducedImages(late, 20)
    assert len(reduced) == 7 and not late.read
    np.testing.assert_array_equal(reduced[1:4], ReducedImages(IMAGES, 20)[1:4])
    assert late.read == [slice(1, 4)]

import numpy as np

from bt_jax.data.phantoms import ood_images
from bt_jax.data.preprocess import Preprocessing


def test_each_kind_the_same_every_time():
    pictures = ood_images.draw(each=3)
    assert len(pictures) == 3 * len(ood_images.KINDS)
    again = ood_images.draw(each=3)
    for picture, other in zip(pictures, again, strict=True):
        assert picture.kind == other.kind
        np.testing.assert_array_equal(picture.image, other.image)
        assert picture.image.dtype == np.uint8 and picture.image.ndim == 2
        assert Preprocessing(size=32)(picture.image).shape == (32, 32)


def test_pictures_differ():
    """Of a kind as well, but for the blank ones, of which there are five."""
    pictures = [picture for picture in ood_images.draw(each=4) if picture.kind != "blank"]
    assert len({picture.image.tobytes() for picture in pictures}) == len(pictures)
    assert len({picture.image.tobytes() for picture in ood_images.draw(each=40) if picture.kind == "blank"}) == 5
    seeds = (ood_images.draw(each=1, seed=seed)[1].image.tobytes() for seed in (0, 1))
    assert len(set(seeds)) == 2

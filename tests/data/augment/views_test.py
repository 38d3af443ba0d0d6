import numpy as np
import pytest

from bt_jax.data.augment import augment
from bt_jax.data.augment.augment import Augmentation
from bt_jax.data.augment.views import Views

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 24, 24), np.uint8)
KINDS = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
STYLE = Augmentation(fourier=1.0, histogram=1.0)


def partners(views: Views, record: int, count: int = 400) -> np.ndarray:
    """The records that are taken for partners."""
    generator = np.random.default_rng(record)
    found = [views._draw_partner(record, generator) for _ in range(count)]
    return np.array([next(i for i, image in enumerate(IMAGES) if np.array_equal(image, one)) for one in found])


def test_a_view_is_what_augmentation_makes_of_the_record() -> None:
    settings = Augmentation(rotation=0.1, noise=0.1)
    found = Views(images=IMAGES, settings=settings, seed=4)(view=7, record=3)
    generator = augment.make_generator(seed=4, view=7, record=3)
    np.testing.assert_array_equal(found, augment.augment(IMAGES[3], generator=generator, settings=settings))


@pytest.mark.parametrize("record", [0, 8, 11])
def test_partners_are_of_other_kinds_each_as_often(record: int) -> None:
    found = KINDS[partners(Views(images=IMAGES, settings=STYLE, seed=0, kinds=KINDS), record)]
    others = [kind for kind in range(3) if kind != KINDS[record]]
    assert set(found) == set(others)
    for kind in others:
        assert abs((found == kind).mean() - 0.5) < 0.1


@pytest.mark.parametrize("kinds", [None, np.zeros(12, int)])
def test_without_other_kinds_any_other_image_is_a_partner(kinds: np.ndarray | None) -> None:
    found = partners(Views(images=IMAGES, settings=STYLE, seed=0, kinds=kinds), 5)
    assert set(found) == set(range(12)) - {5}


def test_a_single_image_is_its_own_partner() -> None:
    found = Views(images=IMAGES[:1], settings=STYLE, seed=0, kinds=np.zeros(1, int))(view=0, record=0)
    assert found.shape == (24, 24)


def test_views_depend_on_kinds_only_where_partners_are_asked_for() -> None:
    for settings, same in ((Augmentation(noise=0.1, jpeg=1.0), True), (STYLE, False)):
        by_kind, without = (
            [Views(images=IMAGES, settings=settings, seed=0, kinds=kinds)(view=0, record=i) for i in range(12)]
            for kinds in (KINDS, None)
        )
        assert np.array_equal(by_kind, without) == same

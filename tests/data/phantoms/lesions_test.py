import dataclasses
import math

import numpy as np
import pytest

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.data.phantoms import lesions
from bt_jax.data.phantoms.lesions import Lesion
from bt_jax.data.phantoms.shapes import CRANIUM, PLANES, SELLA, SIZE, Tissue, U, V

TISSUE = Tissue(0.85, 0.05, 0.30, 0.42, 0.10, 0.36, 0.47, 0.82, 0.28)
TUMOURS = [name for name in BRAIN_TUMOR_CLASSES if name != "no_tumor"]


def draw(seed: int, *, plane: str = "axial", label: str = "glioma_tumor", depth: float = 0.0) -> Lesion:
    lesion = lesions.draw_lesion(np.random.default_rng(seed), plane=plane, label=label, depth=depth)
    assert lesion is not None
    return lesion


@pytest.mark.parametrize("plane", PLANES)
def test_a_healthy_brain_has_no_lesion(plane):
    assert lesions.draw_lesion(np.random.default_rng(0), plane=plane, label="no_tumor", depth=0.5) is None


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("label", TUMOURS)
def test_a_lesion_is_inside_the_cranium_and_shrinks_with_depth(plane, label):
    centre_u, centre_v, half_u, half_v = CRANIUM[plane]
    for seed in range(40):
        lesion = draw(seed, plane=plane, label=label)
        u, v = lesion.centre
        assert math.hypot((u - centre_u) / half_u, (v - centre_v) / half_v) < 1
        assert 0.08 < lesion.radius < 0.29 and 0.55 <= lesion.contrast <= 1
        deeper = draw(seed, plane=plane, label=label, depth=1.0)
        assert deeper.radius == pytest.approx(lesion.radius * math.sqrt(1 - 0.65**2))


@pytest.mark.parametrize("plane", PLANES)
def test_pituitary_tumours_grow_from_the_sella(plane):
    u, v = SELLA[plane]
    for seed in range(20):
        lesion = draw(seed, plane=plane, label="pituitary_tumor")
        assert abs(lesion.centre[0] - u) <= 0.025
        assert plane == "axial" or lesion.centre[1] == pytest.approx(v - 0.5 * lesion.radius)


def test_tissue_is_displaced_outwards_near_the_mass_alone():
    lesion = dataclasses.replace(draw(0), centre=(0.1, 0.0), radius=0.2, push=0.3)
    u, v = np.array([0.1, 0.2, 0.3, 1.0]), np.zeros(4)
    found, _ = lesions.displace(u, v, lesion)
    # What is seen at a point comes from nearer to the centre.
    expected = u - (u - 0.1) * 0.3 * np.exp(-0.35 * ((u - 0.1) / 0.2) ** 2)
    np.testing.assert_allclose(found, expected)
    assert found[0] == 0.1 and found[1] < 0.2 and found[3] == pytest.approx(1, abs=1e-3)
    for none in (None, dataclasses.replace(lesion, push=0.0)):
        assert lesions.displace(u, v, none)[0] is u


@pytest.mark.parametrize("label", TUMOURS)
def test_a_painted_lesion_changes_the_image_where_its_mask_is(label):
    lesion = draw(3, label=label)
    image = np.full((SIZE, SIZE), TISSUE.white, np.float32)
    brain = np.full((SIZE, SIZE), 1.0, np.float32)
    texture = np.zeros((44, 44), np.float32)
    mask = lesions.paint_lesion(image, "axial", lesion, brain, TISSUE, texture)
    assert mask.shape == (SIZE, SIZE) and mask.min() >= 0 and mask.max() == 1
    assert np.abs(image - TISSUE.white)[mask > 0.9].mean() > 0.05
    far = np.hypot(U - lesion.centre[0], V - lesion.centre[1]) > 4 * lesion.radius
    assert mask[far].max() == 0 and np.ptp(image[far]) == 0


def test_nothing_is_painted_without_a_lesion():
    image = np.full((SIZE, SIZE), 0.3, np.float32)
    mask = lesions.paint_lesion(image, "coronal", None, image, TISSUE, image)
    assert not mask.any() and (image == np.float32(0.3)).all()

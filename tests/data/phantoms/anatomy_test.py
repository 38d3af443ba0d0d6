import numpy as np
import pytest

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.data.phantoms import anatomy
from bt_jax.data.phantoms.shapes import PLANES, SIZE


def draw(seed: int, *, plane: str = "axial", label: str = "no_tumor", depth: float = 0.2) -> anatomy.PhantomSlice:
    return anatomy.draw(np.random.default_rng(seed), plane=plane, label=label, depth=depth)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("label", BRAIN_TUMOR_CLASSES)
def test_a_slice_is_a_head_on_black_with_the_mask_of_its_lesion(plane, label):
    for seed in range(5):
        found = draw(seed, plane=plane, label=label)
        assert found.intensity.shape == found.lesion.shape == (SIZE, SIZE)
        assert found.intensity.dtype == np.float32
        assert found.intensity.min() > -0.1 and found.intensity.max() < 1.5
        assert np.abs(found.intensity[:2]).max() < 0.05 and found.intensity[SIZE // 3 : SIZE // 2].mean() > 0.1
        assert (found.lesion > 0.5).any() == (label != "no_tumor")


def test_slices_of_a_patient_change_smoothly_with_depth():
    slices = [draw(1, depth=depth).intensity.ravel() for depth in (0.2, 0.25, 0.8)]
    near, far = np.corrcoef(slices)[0, 1:]
    assert far < near < 1 and near > 0.95


def test_patients_differ_and_each_is_the_same_every_time():
    first, again, other = draw(1), draw(1), draw(2)
    np.testing.assert_array_equal(first.intensity, again.intensity)
    assert np.abs(first.intensity - other.intensity).mean() > 0.02


def test_planes_differ():
    axial, coronal, sagittal = (draw(1, plane=plane).intensity for plane in PLANES)
    assert np.abs(axial - axial[:, ::-1]).mean() < np.abs(sagittal - sagittal[:, ::-1]).mean(), "sides are alike"
    # Face and neck are below the brain, except in axial slices.
    assert axial[-4:].mean() < 0.02 < coronal[-4:].mean()

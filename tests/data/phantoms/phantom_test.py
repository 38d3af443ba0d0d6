import functools

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.data.phantoms.phantom import SLICES_PER_PATIENT, format_path, list_entries, parse_index, render
from bt_jax.data.phantoms.shapes import PLANES
from bt_jax.data.preprocess import find_head

TUMORS = [name for name in BRAIN_TUMOR_CLASSES if name != "no_tumor"]


@functools.cache
def slices(label: str, count: int = 80):
    return [render(index, label=label, seed=21) for index in range(count)]


def one_of_each_patient(label: str):
    return slices(label)[::SLICES_PER_PATIENT]


@pytest.mark.parametrize("label", BRAIN_TUMOR_CLASSES)
def test_what_a_phantom_is(label):
    for phantom in slices(label):
        assert phantom.image.dtype == np.uint8 and phantom.image.ndim == 2
        assert all(180 <= side <= 320 for side in phantom.image.shape)
        assert phantom.lesion.dtype == bool and phantom.lesion.shape == phantom.image.shape
        assert phantom.plane in PLANES
        assert phantom.lesion.any() == (label != "no_tumor")
        assert phantom.lesion.mean() < 0.12
    assert {phantom.plane for phantom in slices(label)} == set(PLANES)
    assert len({phantom.image.shape for phantom in slices(label)}) > 10


def test_deterministic_and_different_by_each_argument():
    first = render(5, label="glioma_tumor", seed=1)
    again = render(5, label="glioma_tumor", seed=1)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.lesion, again.lesion)
    for other in (
        render(6, label="glioma_tumor", seed=1),
        render(5, label="no_tumor", seed=1),
        render(5, label="glioma_tumor", seed=2),
    ):
        assert other.image.shape != first.image.shape or (other.image != first.image).any()


@pytest.mark.parametrize("label", BRAIN_TUMOR_CLASSES)
def test_slices_of_a_patient_share_the_head_and_the_lesion_shrinks_outwards(label):
    for start in range(0, 40, SLICES_PER_PATIENT):
        patient = slices(label)[start : start + SLICES_PER_PATIENT]
        assert len({(p.patient, p.plane, p.image.shape) for p in patient}) == 1
        neighbours = np.diag(np.corrcoef([p.image.ravel() for p in patient]), 1)
        assert neighbours.min() > 0.85 and neighbours.max() < 0.999
        areas = [p.lesion.sum() for p in patient]
        assert areas == sorted(areas, reverse=True)
    assert len({p.patient for p in slices(label)}) == len(slices(label)) // SLICES_PER_PATIENT


@pytest.mark.parametrize("label", TUMORS)
def test_lesions_of_one_patient_overlap_and_differ_from_their_surroundings(label):
    contrasts = []
    for phantom in one_of_each_patient(label):
        near = np.asarray(Image.fromarray(phantom.lesion).resize((40, 40)).resize(phantom.lesion.shape[::-1]))
        around = near & ~phantom.lesion if (near & ~phantom.lesion).any() else ~phantom.lesion
        contrasts.append(phantom.image[phantom.lesion].mean() - phantom.image[around].mean())
        assert phantom.image[phantom.lesion].std() > 1
    assert np.median(np.abs(contrasts)) > 5


def place_of_lesion(phantom) -> tuple[float, float]:
    """The lesion's centre in the head's bounding box, as fractions."""
    left, top, right, bottom = find_head(Image.fromarray(phantom.image), margin=0.0)[0]
    rows, columns = np.nonzero(phantom.lesion)
    return (columns.mean() - left) / (right - left), (rows.mean() - top) / (bottom - top)


def test_pituitary_tumours_sit_at_the_sella():
    for phantom in one_of_each_patient("pituitary_tumor"):
        x, y = place_of_lesion(phantom)
        expected_y = 0.47 if phantom.plane == "axial" else 0.52
        assert abs(x - (0.45 if phantom.plane == "sagittal" else 0.5)) < 0.12
        assert abs(y - expected_y) < 0.16


def test_the_other_tumours_sit_in_many_places():
    for label in ("glioma_tumor", "meningioma_tumor"):
        places = np.array([place_of_lesion(phantom) for phantom in one_of_each_patient(label)])
        assert places[:, 0].std() > 0.08 and places[:, 1].std() > 0.05


def features() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What could give a class away without looking at the lesion; labels; patients."""
    rows, labels, patients = [], [], []
    for label in BRAIN_TUMOR_CLASSES:
        for phantom in slices(label):
            image = phantom.image
            left, top, right, bottom = find_head(Image.fromarray(image), margin=0.0)[0]
            rows.append(
                (
                    *image.shape,
                    image.shape[0] / image.shape[1],
                    image.mean(),
                    image[:4].mean(),
                    left / image.shape[1],
                    top / image.shape[0],
                    (right - left) * (bottom - top) / image.size,
                    PLANES.index(phantom.plane),
                )
            )
            labels.append(label)
            patients.append(phantom.patient)
    return np.array(rows), np.array(labels), np.array(patients)


def test_size_brightness_border_and_plane_do_not_give_the_class_away():
    rows, labels, patients = features()
    tree = DecisionTreeClassifier(max_depth=4, random_state=0)
    assert cross_val_score(tree, rows, labels, groups=patients, cv=GroupKFold(5)).mean() < 0.4  # chance is 0.25


def test_pixels_alone_do_not_solve_it_by_patient():
    phantoms = [phantom for label in BRAIN_TUMOR_CLASSES for phantom in slices(label)]
    pixels = np.array([np.asarray(Image.fromarray(p.image).resize((32, 32))).ravel() / 255 for p in phantoms])
    labels = np.repeat(BRAIN_TUMOR_CLASSES, len(slices(BRAIN_TUMOR_CLASSES[0])))
    patients = np.array([p.patient for p in phantoms])
    nearest = KNeighborsClassifier(1)
    assert cross_val_score(nearest, pixels, labels, groups=patients, cv=GroupKFold(5)).mean() < 0.6


def test_entries_stand_in_the_order_of_their_paths_and_no_patient_is_in_both_splits():
    entries = list_entries(training_per_class=5, testing_per_class=2)
    paths = [entry.path for entry in entries]
    assert paths == sorted(paths) and len(set(paths)) == 4 * 7
    assert "Training/glioma_tumor/phantom_0005.png" in paths and "Testing/no_tumor/phantom_0002.png" in paths
    assert all(entry.path.split("/")[1] == entry.label for entry in entries)
    # 5 slices belong to 3 patients of 2; Testing starts with the fourth.
    patients = {
        split: {entry.patient for entry in entries if entry.path.startswith(f"{split}/no_tumor/")}
        for split in ("Training", "Testing")
    }
    assert patients == {"Training": {f"no_tumor-{number:04d}" for number in range(3)}, "Testing": {"no_tumor-0003"}}
    first = next(entry for entry in entries if entry.path == "Testing/no_tumor/phantom_0001.png")
    assert first.index == 6 and render(6, label="no_tumor", seed=4).patient == first.patient


@pytest.mark.parametrize("count", [5, 10_000, 123_456])
def test_a_path_says_what_its_phantom_is_drawn_from(count):
    for number in (0, count - 1):
        split, _, name = format_path("Testing", "no_tumor", number, count=count).split("/")
        assert parse_index(split, name, training_per_class=5) == 6 + number
    digits = max(4, len(str(count)))
    assert format_path("Training", "no_tumor", 41, count=count) == f"Training/no_tumor/phantom_{42:0{digits}d}.png"


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="label"):
        render(0, label="glioma", seed=0)
    with pytest.raises(ValueError, match="index"):
        render(-1, label="glioma_tumor", seed=0)

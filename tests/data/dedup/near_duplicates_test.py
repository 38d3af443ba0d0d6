import io

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from bt_jax.data import fingerprints, leakage
from bt_jax.data.dedup import near_duplicates
from bt_jax.data.io import decode
from bt_jax.data.phantoms import phantom

edges = st.integers(1, 30).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40))
)


def random_thumbnails(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 16, 16), dtype=np.uint8)


def thumbnails_of(images: list[np.ndarray]) -> np.ndarray:
    return np.stack([fingerprints.make_thumbnails(image) for image in images])


def resized(image: np.ndarray, scale: float) -> np.ndarray:
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def reencoded(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return decode.decode_image(buffer.getvalue(), name="x")


def changed(image: np.ndarray) -> np.ndarray:
    return reencoded(resized(image, 0.7), 60)


@pytest.fixture(scope="module")
def slices() -> list[np.ndarray]:
    """One slice of each of 8 patients."""
    return [
        phantom.render(4 * i, label=label, seed=0).image
        for label in ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")
        for i in range(2)
    ]


def test_products_of_standardised_rows_are_correlations():
    a = random_thumbnails(5)[:, 0]
    rows = near_duplicates.standardise(a)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows @ rows.T, np.corrcoef(a.reshape(5, -1)), atol=1e-5)


def test_constant_images_are_nobodys_twins():
    thumbnails = np.full((3, 2, 16, 16), 7, np.uint8)
    assert np.isfinite(near_duplicates.standardise(thumbnails[:, 0])).all()
    assert len(near_duplicates.list_near_duplicates(thumbnails, thumbnails)) == 0


def test_near_pairs_counts_either_kind_of_thumbnail():
    a, b = random_thumbnails(4), random_thumbnails(5, seed=1)
    b[3, 0] = a[1, 0]  # the whole frame
    b[0, 1] = a[2, 1]  # the head alone
    b[4] = a[0]  # both count once
    pairs = near_duplicates.list_near_duplicates(a, b)
    assert pairs.dtype == np.int64 and pairs.tolist() == [[0, 4], [1, 3], [2, 0]]
    assert near_duplicates.has_near_duplicate(a, b).tolist() == [True, True, True, False]


def test_blocks_of_candidates_change_nothing(slices, monkeypatch):
    a = thumbnails_of([*slices, *(changed(image) for image in slices[:3])])
    whole = near_duplicates.find_near_duplicates(a)
    monkeypatch.setattr(near_duplicates, "_PAIRS_AT_ONCE", 5)
    in_blocks = near_duplicates.find_near_duplicates(a)
    for field in ("first", "second", "orientation", "is_duplicate"):
        np.testing.assert_array_equal(getattr(in_blocks, field), getattr(whole, field))
    np.testing.assert_allclose(in_blocks.detail, whole.detail, atol=1e-3)


CHANGES = {
    "half": lambda image: resized(image, 0.5),
    "larger and squeezed": lambda image: np.asarray(Image.fromarray(image).resize((430, 390))),
    "jpeg": lambda image: reencoded(image, 30),
    "cropped": lambda image: image[6:-4, 3:-7],
    "border": lambda image: np.pad(image, ((30, 10), (5, 25))),
    "six degrees": lambda image: np.asarray(Image.fromarray(image).rotate(6, Image.Resampling.BICUBIC)),
    "gamma": lambda image: (255 * (image / 255) ** 1.5).astype(np.uint8),
    "contrast": lambda image: np.clip(image * 1.3 - 15, 0, 255).astype(np.uint8),
    "washed out": lambda image: (image * 0.5 + 50).astype(np.uint8),
    "all at once": lambda image: reencoded(resized((image[3:-3, 4:-4] * 0.8).astype(np.uint8), 0.7), 60),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_twins_of_their_originals_alone(slices, change):
    originals = thumbnails_of(slices)
    copies = thumbnails_of([CHANGES[change](image) for image in slices])
    found = near_duplicates.list_near_duplicates(copies, originals)
    assert [i for i, j in found if i != j] == []
    assert len(found) >= len(slices) - 1, f"only {found[:, 0].tolist()}"


@pytest.mark.parametrize("orientation", range(1, 8), ids=near_duplicates.ORIENTATIONS[1:])
def test_turned_and_mirrored_copies(slices, orientation):
    originals = thumbnails_of(slices)
    # To be turned by what the pair says, the copy is turned back.
    copies = thumbnails_of([resized(near_duplicates.reorient(image, orientation, back=True), 0.8) for image in slices])
    found = near_duplicates.find_near_duplicates(originals, copies)
    found = found.select(found.is_duplicate)
    assert list(zip(found.first, found.second, strict=True)) == [(i, i) for i in range(len(slices))]
    assert (found.orientation == orientation).all()
    assert set(found.kinds) == {"mirrored" if orientation >= 4 else "rotated"}
    both = near_duplicates.find_near_duplicates(np.concatenate([originals, copies]))
    both = both.select(both.is_duplicate)
    assert both.first.tolist() == list(range(len(slices)))
    assert both.second.tolist() == [i + len(slices) for i in range(len(slices))]
    assert (both.orientation == orientation).all()


@hypothesis.given(orientation=st.integers(0, 7))
def test_turning_back_undoes_turning(orientation):
    a = random_thumbnails(2)
    there = near_duplicates.reorient(a, orientation)
    np.testing.assert_array_equal(near_duplicates.reorient(there, orientation, back=True), a)
    if orientation:
        assert (there != a).any()


@hypothesis.settings(deadline=None, max_examples=5)
@hypothesis.given(order=st.permutations(range(9)))
def test_the_order_of_images_does_not_count(slices, order):
    images = [
        *slices[:4],
        changed(slices[0]),
        changed(slices[2]),
        slices[1][:, ::-1],
        slices[3].T,
        resized(slices[3], 0.6),
    ]
    a = thumbnails_of(images)
    plain, shuffled = (
        found.select(found.is_duplicate)
        for found in (near_duplicates.find_near_duplicates(a), near_duplicates.find_near_duplicates(a[order]))
    )
    expected = {frozenset((i, j)) for i, j in zip(plain.first.tolist(), plain.second.tolist(), strict=True)}
    found = {frozenset((order[i], order[j])) for i, j in zip(shuffled.first, shuffled.second, strict=True)}
    assert found == expected
    assert {frozenset((0, 4)), frozenset((2, 5)), frozenset((1, 6)), frozenset((3, 7)), frozenset((3, 8))} <= found
    assert (plain.first < plain.second).all() and (shuffled.first < shuffled.second).all()


def test_no_two_patients_are_joined():
    """The phantoms' neighbouring slices are nearly the same drawing: some are near-duplicates, others look alike."""
    slices = [phantom.render(i, label="meningioma_tumor", seed=0).image for i in range(16)]
    found = near_duplicates.find_near_duplicates(thumbnails_of(slices))
    assert 0 < found.is_duplicate.sum() < len(found)
    assert (found.first // phantom.SLICES_PER_PATIENT == found.second // phantom.SLICES_PER_PATIENT).all()


@pytest.mark.parametrize(
    "picture",
    [
        lambda k: np.full((90, 80), 30 * k, np.uint8),
        lambda k: np.clip(100 + np.random.default_rng(k).normal(0, 1, (90, 80)), 0, 255).astype(np.uint8),
        lambda k: np.where(np.indices((90, 80)).sum(0) < 6 + k, 255, 0).astype(np.uint8),
    ],
    ids=["constant", "nearly constant", "a bright corner"],
)
def test_pictures_without_structure_are_nobodys_twins(picture):
    assert len(near_duplicates.find_near_duplicates(thumbnails_of([picture(k) for k in range(5)]))) == 0


def test_many_copies_of_one_picture_stay_within_bounds(slices, monkeypatch):
    """Each image is compared with so many others at most, and all copies are joined nevertheless."""
    generator = np.random.default_rng(0)
    noisy = [np.clip(slices[0] + generator.normal(0, 3, slices[0].shape), 0, 255).astype(np.uint8) for _ in range(60)]
    checked = []
    found = near_duplicates.find_near_duplicates(
        thumbnails_of(noisy), progress=lambda done, total: checked.append(total)
    )
    assert checked[-1] <= 60 * 2 * near_duplicates._MOST_CANDIDATES
    roots = near_duplicates.find_components(60, zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert set(roots.tolist()) == {0}


def test_nothing_has_a_twin_among_nothing():
    some, none = random_thumbnails(3), random_thumbnails(0)
    assert near_duplicates.has_near_duplicate(some, none).tolist() == [False] * 3
    assert near_duplicates.has_near_duplicate(none, some).shape == (0,)


@hypothesis.settings(deadline=None)
@hypothesis.given(graph=edges)
def test_components_are_those_of_a_plain_search(graph):
    n, pairs = graph
    smallest = list(range(n))
    for _ in range(n):
        for i, j in pairs:
            smallest[i] = smallest[j] = min(smallest[i], smallest[j])
    assert near_duplicates.find_components(n, pairs).tolist() == smallest


@hypothesis.settings(deadline=None)
@hypothesis.given(values=st.lists(st.sampled_from("abcd")))
def test_same_value_pairs_join_exactly_equal_values(values):
    roots = near_duplicates.find_components(len(values), near_duplicates.pair_equal_values(values))
    assert roots.tolist() == [values.index(value) for value in values]


@pytest.mark.real_data
def test_exact_facts_of_the_real_set(real_dataset):
    training, testing = real_dataset.select_split("Training"), real_dataset.select_split("Testing")
    assert (len(training), len(testing)) == (2870, 263)
    assert len(set(training.fingerprints)) == 2769
    seen = set(training.fingerprints)
    identical = np.array([fingerprint in seen for fingerprint in testing.fingerprints])
    assert identical.sum() == 251
    assert np.bincount(testing.labels[identical], minlength=4).tolist() == [18, 106, 105, 22]
    near = near_duplicates.has_near_duplicate(testing.thumbnails, training.thumbnails)
    assert near[identical].all()
    assert near.sum() == 260
    np.testing.assert_array_equal(leakage.has_near_duplicate(testing, seen, training.thumbnails), near)

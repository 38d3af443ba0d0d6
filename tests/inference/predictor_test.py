"""Probabilities of slices: one model, several, and several views."""

import dataclasses
import functools

import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data.io import file_reader
from bt_jax.data.io.slices import Slice, UnreadableError
from bt_jax.inference import loading, ood, predictor
from bt_jax.inference.predictor import Predictor, choose_rows
from bt_jax.metrics.selective import ConfidenceLimit
from tests import hostile_inputs, untrained


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("predictor")
    return [
        str(untrained.write(folder / "first", seed=1)),
        str(untrained.write(folder / "second", seed=2, size=24, temperature=None)),
        str(untrained.write(folder / "other", class_names=("a", "b"))),
        str(untrained.write(folder / "phantoms", seed=4, synthetic=True)),
    ]


@functools.cache
def loaded(run: str) -> Predictor:
    return Predictor.load([run])


def slices(count: int = 5) -> list[Slice]:
    generator = np.random.default_rng(0)
    return [
        Slice(hostile_inputs.scan(70 + k, 90) ^ generator.integers(0, 64, (70 + k, 90), np.uint8)) for k in range(count)
    ]


def probabilities(of: Predictor, given: list[Slice], **options) -> np.ndarray:
    return np.array([list(p.probabilities.values()) for p in of.predict([of.prepare(s) for s in given], **options)])


def expected(run: str, given: list[Slice]) -> np.ndarray:
    model = loading.load(run)
    return model.predict_probabilities(np.stack([model.preprocessing(slice_.image) for slice_ in given]))


def test_a_model_alone(runs):
    of = Predictor.load(runs[:1])
    found = of.predict([of.prepare(slice_) for slice_ in slices()])
    np.testing.assert_allclose(probabilities(of, slices()), expected(runs[0], slices()), atol=1e-6)
    for prediction in found:
        assert list(prediction.probabilities) == list(of.class_names)
        assert prediction.confidence == max(prediction.probabilities.values())
        assert prediction.probabilities[prediction.label] == prediction.confidence
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-9)
        assert "not calibrated" not in " ".join(prediction.warnings)
    assert of.predict([]) == []


def test_rows_that_fill_a_batch_change_nothing(runs):
    of = Predictor.load(runs[:1])
    alone = probabilities(of, slices())
    np.testing.assert_allclose(probabilities(of, slices(), rows=8), alone, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([probabilities(of, [one], rows=1) for one in slices()]), alone, atol=1e-6)


def test_several_models_answer_with_their_mean(runs):
    """Though they see slices in different sizes."""
    of = Predictor.load(runs[:2])
    mean = (expected(runs[0], slices()) + expected(runs[1], slices())) / 2
    np.testing.assert_allclose(probabilities(of, slices()), mean, atol=1e-6)
    assert not np.allclose(expected(runs[0], slices()), mean, atol=1e-3)


def test_models_of_different_classes_are_no_ensemble(runs):
    with pytest.raises(
        UsageError, match=r"the models given as --model have different classes: glioma_tumor, .* and a, b"
    ):
        Predictor.load([runs[0], runs[2]])


def test_views_are_averaged_and_the_first_is_the_slice_itself(runs):
    one, two, eight = (probabilities(Predictor.load(runs[:1], views=views), slices()) for views in (1, 2, 8))
    np.testing.assert_allclose(one, expected(runs[0], slices()), atol=1e-6)
    other = 2 * two - one  # that of the second view
    assert (other > -1e-6).all() and not np.allclose(other, one, atol=1e-3)
    assert not np.allclose(eight, two, atol=1e-4)
    again = probabilities(Predictor.load(runs[:1], views=8), slices()[::-1])[::-1]
    np.testing.assert_allclose(again, eight, atol=1e-6)  # whatever stands beside a slice
    of = Predictor.load(runs[:1], views=8)
    image = of.prepare(slices()[0]).images[0]
    views = np.stack([predictor._compute_view(image[None], view)[0] for view in range(8)]).astype(float)
    assert views[0].tolist() == image.tolist()
    for view in views[1:]:  # nearly the same picture, perhaps mirrored
        assert min(abs(view - image).mean(), abs(view - image[:, ::-1]).mean()) < 30


def sentences(run: str, image: np.ndarray, *, about: tuple[str, ...] = ()) -> str:
    of = loaded(run)
    return " ".join(of.predict([of.prepare(Slice(image, None, about))])[0].warnings)


def test_warnings(runs):
    good = slices()[0].image
    assert "blank" not in sentences(runs[0], good) and "small" not in sentences(runs[0], good)
    assert "The image is blank, so its class is not meaningful." in sentences(runs[0], np.zeros((99, 99), np.uint8))
    assert "blank" in sentences(runs[0], np.full((99, 99), 777, np.uint16))
    assert "The image is small (40x99 pixels)" in sentences(runs[0], np.tile(good[:20], (5, 1))[:99, :40])
    assert "One frame was read." in sentences(runs[0], good, about=("One frame was read.",))
    assert "The confidence is not calibrated." in sentences(runs[1], good)
    assert "trained on SYNTHETIC PHANTOMS" in sentences(runs[3], good)


def test_an_even_answer_is_told(runs):
    of = Predictor.load(runs[:1])
    prepared = of.prepare(slices()[0])
    said = "No class has a probability above 50%."
    assert said in of.collect_warnings(prepared, np.array([0.5, 0.3, 0.1, 0.1]), None)
    assert said not in of.collect_warnings(prepared, np.array([0.51, 0.29, 0.1, 0.1]), None)


def test_an_answer_below_the_limit_of_its_model_is_told(runs):
    limit = ConfidenceLimit(0.7, accuracy=0.9712, coverage=0.9, fitted_on="images", images=10, step=5)
    model = dataclasses.replace(loading.load(runs[0]), confidence_limit=limit)
    of = Predictor([model])
    prepared = of.prepare(slices()[0])
    said = (
        "The confidence is below 70%. On images that were held out, 97.1% of the answers without such a warning were "
        "right."
    )
    for confidence, told in ((0.69, True), (0.7, False), (0.5, False)):
        warnings = of.collect_warnings(prepared, np.array([confidence, 1 - confidence, 0, 0]), None)
        assert (said in warnings) == told
    both = Predictor([model, loaded(runs[1]).models[0]])  # the limit of one says nothing about the mean of two
    assert said not in both.collect_warnings(prepared, np.array([0.6, 0.4, 0, 0]), None)


def test_what_does_not_look_like_a_training_image_is_told_first(runs):
    """By the mean over the models that can tell, of the slices as they are and not of their views."""
    given = slices()
    known = [loading.load(runs[0]), loading.load(runs[1])]
    features = known[0].compute(np.stack([known[0].preprocessing(slice_.image) for slice_ in given]))[1][0]
    fitted = ood.fit(features[:4], features[:4] + 0.01, fitted_on="four slices", step=5)
    assert fitted is not None
    of = Predictor([dataclasses.replace(known[0], ood_models=(fitted,)), known[1]], views=3)
    found = of.predict([of.prepare(slice_) for slice_ in given], rows=8)
    np.testing.assert_allclose([p.ood_score for p in found], fitted.score(features), rtol=1e-4)
    for prediction in found:
        unlike = prediction.warnings[0].startswith("The image does not look like the training images")
        assert unlike == (prediction.ood_score > 1)
    assert any(p.ood_score > 1 for p in found) and any(p.ood_score <= 1 for p in found)
    assert all(p.ood_score is None for p in Predictor(known).predict([of.prepare(given[0])]))


@pytest.mark.filterwarnings("ignore")  # of what reads the files
def test_every_slice_of_the_hostile_corpus_can_be_prepared(tmp_path, runs):
    """In both forms of preprocessing."""
    of = Predictor.load([runs[0], str(untrained.write(tmp_path / "run", form="stretch"))])
    count = 0
    for name, content in hostile_inputs.corpus().items():
        try:
            for slice_ in file_reader.read_slices(content):
                for image in of.prepare(slice_).images:
                    assert image.shape == (32, 32) and image.dtype == np.uint8, name
                count += 1
        except UnreadableError:
            pass
    assert count > 150


def test_a_few_sizes_of_programs_serve_all_batches():
    assert [choose_rows(count, batch_size=32) for count in (0, 1, 2, 8, 9, 32, 500)] == [1, 1, 8, 8, 32, 32, 32]
    assert [choose_rows(count, batch_size=4) for count in (1, 2, 4, 9)] == [1, 4, 4, 4]
    assert choose_rows(5, batch_size=1) == 1

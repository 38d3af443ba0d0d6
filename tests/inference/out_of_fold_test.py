"""What folds tell about a final model: outputs on the images that each has not seen, and what is fitted on them."""

import dataclasses
import shutil

import numpy as np
import pytest

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.data import dataset, sources
from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference import jax_model, loading, ood, out_of_fold
from bt_jax.metrics import calibration, selective
from tests import untrained

FOLDS = 3


@pytest.fixture(scope="module")
def images():
    """The Training images of phantoms as the networks of `untrained` see them."""
    source = sources.open_phantoms(per_class=(9, 1), seed=0)
    loaded = dataset.load(source, preprocessing=Preprocessing(size=32), max_unreadable=0, warn=print)
    return loaded.select_split("Training")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, images):
    """Workdirs of folds, of which each validates every third image."""
    made = []
    for fold in range(FOLDS):
        folder = untrained.write(tmp_path_factory.mktemp("folds") / f"fold_{fold}", seed=fold)
        rows = [[path, "validation" if row % FOLDS == fold else "training"] for row, path in enumerate(images.paths)]
        files.write_csv(folder / "split.csv", ["path", "role"], rows)
        made.append(folder)
    return made


@pytest.fixture(scope="module")
def evidence(folders, images):
    return out_of_fold.compute(folders, images)


def test_each_image_is_answered_by_the_network_that_has_not_seen_it(evidence, folders, images):
    assert sorted(evidence.rows.tolist()) == list(range(len(images)))
    for fold, folder in enumerate(folders):
        mine = evidence.rows % FOLDS == fold
        expected = loading.load(folder).predict_logits(images.images[evidence.rows[mine]])[0]
        np.testing.assert_allclose(evidence.logits[mine], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(evidence.labels, np.asarray(images.labels)[evidence.rows])
    assert evidence.description == "the 36 out-of-fold predictions of 3 folds"


def test_distances_are_in_units_of_the_training_images(evidence, folders, images):
    model = loading.load(folders[1])
    rows = np.arange(len(images))
    training, validation = (model.compute(images.images[rows % FOLDS == 1 if own else rows % FOLDS != 1])[1][0]
                            for own in (False, True))  # fmt: skip
    gaussian = ood.fit_gaussian(training, fitted_on="", step=0)
    expected = gaussian.score(validation) / np.median(gaussian.score(training))
    np.testing.assert_allclose(evidence.distances[evidence.rows % FOLDS == 1], expected, rtol=1e-4)


def make_outputs(evidence, *, wrong_below: float) -> out_of_fold.FoldOutputs:
    """The same images with other logits: confidences from .4 to .99, of which those below a limit are wrong."""
    count = 120
    labels = np.arange(count) % 4
    confidences = np.linspace(0.4, 0.99, count)
    answers = np.where(confidences < wrong_below, (labels + 1) % 4, labels)
    probabilities = np.full((count, 4), (1 - confidences[:, None]) / 3)
    probabilities[np.arange(count), answers] = confidences
    return out_of_fold.FoldOutputs(
        rows=np.arange(count), labels=labels, logits=np.log(probabilities), distances=np.linspace(0, 1, count),
        fold_of=np.arange(count) // 8 % FOLDS,
    )  # fmt: skip


def test_a_final_model_gets_what_was_fitted_out_of_fold(evidence, images, tmp_path):
    folder = untrained.write(tmp_path / "final", seed=9, temperature=None)
    model = out_of_fold.calibrate(folder, images, evidence, accuracy=0.0)
    assert model.temperature.value == calibration.fit(evidence.logits, evidence.labels)
    assert model.temperature.fitted_on == evidence.description and model.temperature.images == 36
    (fitted,) = model.ood_models
    features = model.compute(images.images)[1][0]
    typical = np.median(dataclasses.replace(fitted, threshold=1.0).score(features))
    assert fitted.threshold == pytest.approx(typical * np.percentile(evidence.distances, 99), rel=1e-4)
    again = loading.load(folder)
    assert (again.temperature, again.confidence_limit) == (model.temperature, model.confidence_limit)


def test_the_lowest_limit_that_is_good_enough_is_kept_and_an_earlier_one_is_not(evidence, images, tmp_path):
    folder = untrained.write(tmp_path / "final", temperature=None)
    outputs = make_outputs(evidence, wrong_below=0.7)
    model = out_of_fold.calibrate(folder, images, outputs, accuracy=0.97)
    calibrated = calibration.softmax(outputs.logits, outputs.temperature).max(axis=1)
    highest_wrong = calibrated[np.linspace(0.4, 0.99, 120) < 0.7].max()
    limit = model.confidence_limit
    assert limit.value <= np.ceil(100 * highest_wrong) / 100 and limit.accuracy >= 0.97 and limit.step == 5
    lower = outputs.list_selections([limit.value - 0.01])[0]
    assert lower.accuracy < 0.97 and lower.coverage >= limit.coverage
    assert limit == selective.read(folder, step=5)
    assert out_of_fold.calibrate(folder, images, outputs, accuracy=1.1).confidence_limit is None
    assert selective.read(folder, step=5) is None


def test_selections_leave_out_unsure_and_far_images(evidence):
    (half, sure) = evidence.list_selections([0.5, 0.9])
    probabilities = calibration.softmax(evidence.logits, evidence.temperature)
    near = evidence.distances <= evidence.threshold
    assert half.coverage == np.mean(near & (probabilities.max(axis=1) >= 0.5)) >= sure.coverage
    certain = dataclasses.replace(evidence, logits=100 * np.eye(4)[evidence.labels])
    (all_right,) = certain.list_selections([0.99])
    assert all_right.accuracy == 1.0 and all_right.coverage == np.mean(near) < 1


def test_what_was_fitted_on_the_other_folds_is_checked_on_each(evidence):
    outputs = make_outputs(evidence, wrong_below=0.7)
    check = outputs.cross_check(accuracy=0.97)
    answered = right = flagged = 0
    for fold in range(FOLDS):
        others, own = outputs.take(outputs.fold_of != fold), outputs.take(outputs.fold_of == fold)
        limit = selective.choose(others.list_selections(selective.LIMITS), accuracy=0.97).limit
        probabilities = calibration.softmax(own.logits, calibration.fit(others.logits, others.labels))
        near = own.distances <= np.percentile(others.distances, 99)
        stands = near & (probabilities.max(axis=1) >= limit)
        answered += stands.sum()
        right += (stands & (probabilities.argmax(axis=1) == own.labels)).sum()
        flagged += (~near).sum()
    assert (check.selection.images, check.selection.answered, check.selection.right) == (120, answered, right)
    assert check.flagged == flagged > 0
    assert outputs.cross_check(accuracy=1.1) == (None, flagged)
    assert outputs.take(outputs.fold_of == 1).cross_check(accuracy=0.9) is None


def test_folds_are_taken_after_their_last_step(folders, images, tmp_path):
    """The best checkpoint was chosen on these images."""
    folder = tmp_path / "fold"
    shutil.copytree(folders[0], folder)
    untrained.write(folder, seed=7, step=9, best_step=5)
    (outputs,) = [out_of_fold.compute([folder], images)]
    rows = outputs.rows
    last = jax_model.load(folder, last=True).predict_logits(images.images[rows])[0]
    best = loading.load(folder).predict_logits(images.images[rows])[0]
    np.testing.assert_allclose(outputs.logits, last, rtol=1e-5, atol=1e-5)
    assert not np.allclose(last, best, atol=1e-3)


def test_a_run_on_other_images_is_refused(folders, images, tmp_path):
    some = images.select(np.arange(8))
    with pytest.raises(UsageError, match=r"the split of the run in .*fold_0 does not fit the images"):
        out_of_fold.compute(folders, some)
    with pytest.raises(UsageError, match=r"the split of the run in .* does not fit the images .*No such file"):
        out_of_fold.compute([untrained.write(tmp_path / "run")], images)

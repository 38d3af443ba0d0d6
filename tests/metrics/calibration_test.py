import json
import pathlib

import numpy as np
import pytest
import scipy.optimize
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.common.errors import UsageError
from bt_jax.metrics import calibration
from bt_jax.metrics.calibration import Temperature


def made_up(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and rounded probabilities of three classes, with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    probabilities = np.round(calibration.softmax(rng.normal(size=(n, 3)) + 1.5 * np.eye(3)[labels]), 1) + 0.1
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def drawn(n: int, seed: int, classes: int = 4, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are calibrated, and labels drawn from their probabilities."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.normal(size=(n, classes))
    labels = np.array([rng.choice(classes, p=p) for p in calibration.softmax(logits)])
    return logits, labels


def test_calibration_error_by_hand() -> None:
    # Confidences .95 (right), .95 (wrong) and .6 (right): bins (14/15, 1] and (8/15, 9/15].
    labels = np.array([0, 1, 0])
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4]])
    confidence, accuracy, count = calibration.reliability_curve(labels, probabilities)
    assert count.tolist() == [0] * 8 + [1] + [0] * 5 + [2]
    assert (confidence[14], accuracy[14]) == (pytest.approx(0.95), 0.5)
    assert (confidence[8], accuracy[8]) == (pytest.approx(0.6), 1.0)
    assert np.isnan(confidence[0])
    assert np.isnan(accuracy[0])
    assert calibration.expected_calibration_error(labels, probabilities) == pytest.approx((2 * 0.45 + 0.4) / 3)


@given(seed=st.integers(0, 1000), n=st.integers(1, 200), bins=st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_calibration_bins_lose_no_image(seed: int, n: int, bins: int) -> None:
    labels, probabilities = made_up(n, seed)
    confidence, accuracy, count = calibration.reliability_curve(labels, probabilities, bins)
    filled = count > 0
    assert count.sum() == n
    np.testing.assert_array_equal(np.isnan(confidence), ~filled)
    assert (count * accuracy)[filled].sum() == pytest.approx((probabilities.argmax(axis=1) == labels).sum())
    # A bin's mean lies inside the bin, up to rounding.
    lower = np.arange(bins)[filled] / bins
    assert (confidence[filled] > lower - 1e-12).all()
    assert (confidence[filled] <= lower + 1 / bins + 1e-12).all()


@pytest.mark.parametrize("n", [60, 1000])
def test_the_error_of_right_probabilities_is_that_of_labels_drawn_from_them(n: int) -> None:
    logits, _ = drawn(n, seed=11)
    probabilities = calibration.softmax(logits)
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(200):
        labels = (probabilities.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
        errors.append(calibration.expected_calibration_error(labels, probabilities))
    assert calibration.estimate_error_if_calibrated(probabilities) == pytest.approx(np.mean(errors), rel=0.08)
    assert calibration.estimate_error_if_calibrated(probabilities) == calibration.estimate_error_if_calibrated(
        probabilities
    )


def test_the_error_of_certain_and_right_probabilities_is_zero() -> None:
    assert calibration.estimate_error_if_calibrated(np.eye(3)) == 0.0
    assert np.isnan(calibration.estimate_error_if_calibrated(np.zeros((0, 3))))


def test_softmax_by_hand_and_without_overflow() -> None:
    np.testing.assert_allclose(calibration.softmax(np.log([[1.0, 3.0]])), [[0.25, 0.75]])
    np.testing.assert_allclose(calibration.softmax(2 * np.log([[1.0, 3.0]]), 2.0), [[0.25, 0.75]])
    np.testing.assert_array_equal(calibration.softmax(np.array([[1e4, 0.0]], np.float32)), [[1.0, 0.0]])
    by_row = calibration.softmax(np.log([[1.0, 3.0], [1.0, 9.0]]), np.array([[1.0], [2.0]]))
    np.testing.assert_allclose(by_row, [[0.25, 0.75]] * 2)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_fit_finds_the_temperature_that_the_labels_were_drawn_with(temperature: float) -> None:
    logits, labels = drawn(5000, seed=1)
    assert calibration.fit(temperature * logits, labels) == pytest.approx(temperature, rel=0.05)


@given(seed=st.integers(0, 1000), n=st.integers(5, 100), scale=st.floats(0.2, 5))
@settings(max_examples=40, deadline=None)
def test_the_fit_has_the_smallest_cross_entropy(seed: int, n: int, scale: float) -> None:
    logits, labels = drawn(n, seed)
    logits *= scale

    def cross_entropy(temperature: float) -> float:
        probabilities = calibration.softmax(logits, temperature)
        return float(sklearn.metrics.log_loss(labels, probabilities, labels=np.arange(4)))

    fitted = calibration.fit(logits, labels)
    if (logits.argmax(1) == labels).all():
        assert fitted == 1.0
        return
    bounds = (np.log(calibration.LOWEST), np.log(calibration.HIGHEST))
    best = scipy.optimize.minimize_scalar(lambda log: cross_entropy(np.exp(log)), bounds=bounds, method="bounded")
    assert cross_entropy(fitted) <= best.fun + 1e-9
    for other in (0.9 * fitted, 1.1 * fitted):
        if calibration.LOWEST <= other <= calibration.HIGHEST:
            assert cross_entropy(fitted) <= cross_entropy(other)


@given(seed=st.integers(0, 1000), scale=st.floats(0.5, 2), shift=st.floats(-100, 100))
@settings(max_examples=30, deadline=None)
def test_the_fit_follows_the_scale_and_no_constant(seed: int, scale: float, shift: float) -> None:
    logits, labels = drawn(300, seed)
    fitted = calibration.fit(logits, labels)
    assert calibration.fit(scale * logits, labels) == pytest.approx(scale * fitted, rel=1e-9)
    assert calibration.fit(logits + shift, labels) == pytest.approx(fitted, rel=1e-9)
    assert calibration.fit(logits[::-1], labels[::-1]) == pytest.approx(fitted, rel=1e-12)


def test_the_fit_is_the_same_to_the_bit() -> None:
    logits, labels = drawn(300, seed=3)
    assert calibration.fit(logits.copy(), labels.copy()) == calibration.fit(logits, labels)


def test_a_temperature_changes_no_prediction() -> None:
    logits, labels = drawn(300, seed=5)
    for temperature in (calibration.LOWEST, calibration.fit(logits, labels), calibration.HIGHEST):
        probabilities = calibration.softmax(logits, temperature)
        np.testing.assert_array_equal(probabilities.argmax(1), logits.argmax(1))


def test_the_fit_mends_a_network_that_is_too_sure() -> None:
    logits, labels = drawn(4000, seed=7)
    half, other = slice(0, 2000), slice(2000, 4000)
    temperature = calibration.fit(4 * logits[half], labels[half])
    errors = [
        calibration.expected_calibration_error(labels[other], calibration.softmax(4 * logits[other], t))
        for t in (1.0, temperature)
    ]
    assert errors[0] > 0.1
    assert errors[1] < 0.03


@pytest.mark.parametrize(
    ("logits", "labels", "temperature"),
    [
        (np.zeros((0, 3)), [], 1.0),
        ([[5.0, 0.0], [0.0, 1.0]], [0, 1], 1.0),  # no mistake: the likelihood has no maximum
        ([[5.0, 0.0], [1.0, 1.0]], [0, 1], 1.0),  # a tie is no mistake either
        ([[1.0], [2.0]], [0, 0], 1.0),
        ([[5.0, 0.0], [0.0, 1.0]], [1, 0], calibration.HIGHEST),  # worse than guessing
        ([[1e-3, 0.0]] * 9 + [[0.0, 1e-3]], [0] * 10, calibration.LOWEST),
    ],
)
def test_where_there_is_nothing_to_fit(logits: list[list[float]], labels: list[int], temperature: float) -> None:
    assert calibration.fit(np.array(logits), np.array(labels, int)) == temperature


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [([[np.nan, 0.0]], [0], "finite"), ([[np.inf, 0.0]], [0], "finite"), ([[1.0, 0.0]], [0, 1], r"\[N, C\]")],
)
def test_the_fit_refuses_what_is_no_logits(logits: list[list[float]], labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration.fit(np.array(logits), np.array(labels))


def test_a_temperature_is_read_back_to_the_bit_for_its_checkpoint_alone(tmp_path: pathlib.Path) -> None:
    assert calibration.read(tmp_path, step=7) is None
    written = Temperature(value=1 / 3, fitted_on="the 9 validation images", images=9, step=7)
    calibration.write(tmp_path, written)
    assert calibration.read(tmp_path, step=7) == written
    assert calibration.read(tmp_path, step=8) is None
    assert calibration.read(tmp_path) is None
    ensemble = Temperature(value=2.0, fitted_on="out-of-fold answers", images=9)
    calibration.write(tmp_path, ensemble)
    assert calibration.read(tmp_path) == ensemble


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"temperature": 1.0}', '{"temperature": "hot", "fitted_on": "", "images": 1, "step": 1}',
        '{"temperature": 0.0, "fitted_on": "", "images": 1, "step": 1}',
        '{"temperature": NaN, "fitted_on": "", "images": 1, "step": 1}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_temperature_is_named(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(UsageError, match=r"calibration\.json .*remove it") as caught:
        calibration.read(tmp_path, step=1)
    assert len(str(caught.value).splitlines()) == 1


def test_the_file_has_a_schema(tmp_path: pathlib.Path) -> None:
    calibration.write(tmp_path, Temperature(value=1.5, fitted_on="x", images=2, step=3))
    assert json.loads((tmp_path / "calibration.json").read_text()) == {
        "schema": 1, "temperature": 1.5, "fitted_on": "x", "images": 2, "step": 3,
    }  # fmt: skip


def test_cross_entropy_agrees_with_scikit_learn() -> None:
    labels, probabilities = made_up(50, seed=2)
    assert calibration.cross_entropy(labels, probabilities) == pytest.approx(
        sklearn.metrics.log_loss(labels, probabilities)
    )
    assert np.isnan(calibration.cross_entropy(np.zeros(0, int), np.zeros((0, 3))))

import dataclasses

import numpy as np
import pytest

from bt_jax.data.phantoms import shapes
from bt_jax.data.phantoms.shapes import SIZE, U, V


def test_the_grid_has_its_origin_in_the_middle_and_v_points_down():
    assert U.shape == V.shape == (SIZE, SIZE)
    np.testing.assert_allclose(U[0], -U[0, ::-1], atol=1e-6)
    assert (np.diff(U[0]) > 0).all() and (np.diff(V[:, 0]) > 0).all()
    assert U[0, 0] == pytest.approx(-1.1 + 1.1 / SIZE, abs=1e-6)
    assert np.ptp(U, axis=0).max() == 0 == np.ptp(V, axis=1).max()


def test_a_mask_has_a_soft_edge_of_its_width():
    inside = np.array([-1.0, -0.05, -0.025, 0.0, 0.025, 0.05, 1.0])
    np.testing.assert_allclose(shapes.soften(inside, 0.1), [0, 0, 0.25, 0.5, 0.75, 1, 1], atol=1e-12)


def test_paint_blends_in_place():
    image = np.array([0.0, 0.0, 0.4], np.float32)
    shapes.paint(image, np.array([0.0, 0.5, 1.0]), 0.8)
    np.testing.assert_allclose(image, [0, 0.4, 0.8], rtol=1e-6)


def test_an_ellipse_is_positive_inside_and_0_on_its_outline():
    half, centre, angle = (0.4, 0.2), (0.1, -0.2), 0.5
    turns = np.linspace(0, 2 * np.pi, 12)
    x, y = half[0] * np.cos(turns), half[1] * np.sin(turns)
    for scale, expected in ((0.5, 0.5 * 0.2), (1.0, 0.0), (1.5, -0.5 * 0.2)):
        u = centre[0] + scale * (x * np.cos(angle) - y * np.sin(angle))
        v = centre[1] + scale * (x * np.sin(angle) + y * np.cos(angle))
        np.testing.assert_allclose(shapes.measure_ellipse(u, v, centre, half, angle), expected, atol=1e-9)


def test_noise_is_smooth_and_depends_on_the_first_values_alone():
    values = np.random.default_rng(0).standard_normal((44, 44)).astype(np.float32)
    noise = shapes.smooth_noise(values, 7)
    assert noise.shape == (SIZE, SIZE) and 0.5 < noise.std() < 1.5
    assert np.abs(np.diff(noise, axis=0)).max() < 0.3 < np.ptp(noise)
    other = values.copy()
    other[7:], other[:, 7:] = 9, 9
    np.testing.assert_array_equal(shapes.smooth_noise(other, 7), noise)


def test_tissues_of_a_patient_lie_near_one_of_the_sequences():
    drawn = [shapes.draw_tissue(np.random.default_rng(seed)) for seed in range(200)]
    nearest = []
    for tissue in drawn:
        values = np.array(dataclasses.astuple(tissue))
        factors = [values / np.array(dataclasses.astuple(base)) for _, base in shapes._SEQUENCES]
        fitting = [number for number, each in enumerate(factors) if ((each >= 0.88) & (each <= 1.12)).all()]
        assert len(fitting) == 1
        nearest += fitting
    np.testing.assert_allclose(np.bincount(nearest) / 200, [0.6, 0.2, 0.2], atol=0.1)
    assert drawn[0] == shapes.draw_tissue(np.random.default_rng(0))

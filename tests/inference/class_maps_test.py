"""Class activation maps without gradients."""

import numpy as np

from bt_jax.inference.class_maps import ClassMaps


def test_a_map_is_upsampled_between_its_places_and_scaled():
    """One value of the second class is positive: the heat is a tent around its place, and its largest value 1."""
    maps = np.zeros((1, 1, 2, 4, 4), np.float32)
    maps[0, 0, 1, 1, 2] = 3.0
    maps[0, 0, 0] = -1.0
    found = ClassMaps(lambda images: maps, first=2.0, step=4.0)
    heat = found.explain(np.zeros((1, 16, 16), np.uint8), classes=[1])[0]
    rows, columns = (np.maximum(1 - abs(np.arange(16) + 0.5 - place) / 4, 0) for place in (6.0, 10.0))
    np.testing.assert_allclose(heat, np.outer(rows, columns) / np.outer(rows, columns).max(), atol=1e-6)
    assert not found.explain(np.zeros((1, 16, 16), np.uint8), classes=[0]).any()


def test_members_count_alike_whatever_their_scale():
    maps = np.zeros((2, 1, 1, 2, 2), np.float32)
    maps[0, 0, 0, 0, 0], maps[1, 0, 0, 1, 1] = 100.0, 0.01
    heat = ClassMaps(lambda images: maps, first=4.0, step=8.0).explain(np.zeros((1, 16, 16), np.uint8), classes=[0])[0]
    assert heat[0, 0] == heat[-1, -1] == 1 and heat[0, -1] == 0

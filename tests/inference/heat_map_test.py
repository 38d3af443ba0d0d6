import io

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from bt_jax.inference import heat_map


def lightness(colours: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB [..., 3] uint8."""
    linear = ((colours / 255 + 0.055) / 1.055) ** 2.4
    y = linear @ (0.2126, 0.7152, 0.0722)
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_colours_are_those_of_plasma():
    heat = np.linspace(0, 1, 201)[None]
    expected = mpl.colormaps["plasma"](heat)[..., :3] * 255
    assert np.abs(heat_map.colour(heat) - expected).max() < 8


def test_lightness_rises_all_the_way():
    """So that every kind of colour vision, and a grey print, sees the same order."""
    steps = lightness(heat_map.colour(np.linspace(0, 1, 65)[None])[0].astype(float))
    assert (np.diff(steps) > 0).all()
    # Protanopia and deuteranopia (Vienot et al. 1999, for linear RGB): red and green fall together, light does not.
    for mix in ((0.11238, 0.88762), (0.29275, 0.70725)):
        colours = heat_map.colour(np.linspace(0, 1, 65)[None])[0].astype(float)
        linear = (colours / 255) ** 2.2
        yellow = linear[:, :2] @ mix
        assert (np.diff(0.93 * yellow + 0.07 * linear[:, 2])[8:] > 0).all()


def test_where_there_is_no_heat_the_image_stays():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    heat = np.zeros((16, 16), np.float32)
    heat[3, 4] = 1
    picture = heat_map.overlay(image, heat)
    assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8
    cold = heat == 0
    np.testing.assert_array_equal(picture[cold], np.repeat(image[cold][:, None], 3, axis=1))
    expected = (1 - heat_map.STRENGTH) * image[3, 4] + heat_map.STRENGTH * np.array([240, 249, 33])
    np.testing.assert_allclose(picture[3, 4], expected, atol=1)


def test_sixteen_bits_are_stretched():
    image = np.array([[1000, 3000]], np.uint16)
    np.testing.assert_array_equal(heat_map.overlay(image, np.zeros((1, 2)))[0], [[0] * 3, [255] * 3])


def test_large_pictures_are_the_same_as_their_parts():
    generator = np.random.default_rng(0)
    image, heat = generator.integers(500, 60000, (600, 5)).astype(np.uint16), generator.random((600, 5))
    image[0, 0], image[599, 4] = 0, 65535
    whole = heat_map.overlay(image, heat)
    grey = heat_map.scale_to_screen(image)
    np.testing.assert_allclose(whole[300:320], heat_map.overlay(grey[300:320], heat[300:320]), atol=1)


def test_the_layer_over_the_image_is_the_overlay():
    """As a browser lays it: colours by their opacity, times that of the whole layer."""
    generator = np.random.default_rng(1)
    image, heat = generator.integers(0, 256, (9, 7)).astype(np.uint8), generator.random((9, 7))
    over = heat_map.make_layer(heat)
    assert over.shape == (9, 7, 4) and over.dtype == np.uint8
    share = heat_map.STRENGTH * over[..., 3:] / 255
    np.testing.assert_allclose(
        (1 - share) * image[..., None] + share * over[..., :3], heat_map.overlay(image, heat), atol=1.1
    )
    with Image.open(io.BytesIO(heat_map.encode_png(over))) as picture:
        assert picture.mode == "RGBA"


def test_what_a_screen_shows():
    image = np.array([[3, 200]], np.uint8)
    assert heat_map.scale_to_screen(image) is image
    np.testing.assert_array_equal(heat_map.scale_to_screen(np.array([[1000, 3000]], np.uint16)), [[0, 255]])
    np.testing.assert_array_equal(heat_map.scale_to_screen(np.full((1, 2), 7, np.uint16)), [[0, 0]])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="must both be"):
        heat_map.overlay(np.zeros((3, 4), np.uint8), np.zeros((4, 3)))


def test_png_comes_back():
    picture = heat_map.colour(np.random.default_rng(0).random((9, 7)))
    with Image.open(io.BytesIO(heat_map.encode_png(picture))) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_the_pointing_game_by_hand():
    place = np.zeros((20, 20), bool)
    place[5:9, 5:9] = True
    heat = np.zeros((20, 20))
    assert not heat_map.is_hit(heat, place)
    heat[6, 6], heat[15, 15] = 0.9, 0.8
    assert heat_map.is_hit(heat, place)
    assert heat_map.compute_share_inside(heat, place) == pytest.approx(0.9 / 1.7)
    heat[15, 15] = 1
    assert not heat_map.is_hit(heat, place)
    assert heat_map.is_hit(heat, place, tolerance=10)
    assert not heat_map.is_hit(heat, place, tolerance=9)
    plateau = np.zeros((20, 20))
    plateau[4:10, 4:10] = 1
    assert heat_map.is_hit(plateau, place)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_jax.models.pretrained import efficientnet_names, formats, names, vgg_names

FORMATS = pytest.mark.parametrize("form", formats.FORMATS, ids=lambda form: f"{form.family} {form.name}")


@FORMATS
@given(
    shape=st.one_of(
        st.tuples(*[st.integers(1, 3)] * 4).map(lambda shape: ("conv", shape)),
        st.tuples(*[st.integers(1, 3)] * 3).map(lambda shape: ("depthwise", shape)),
        st.tuples(*[st.integers(1, 3)] * 2).map(lambda shape: ("output", shape)),
        st.tuples(st.integers(1, 3)).map(lambda shape: ("norm", shape)),
    )
)
def test_layouts_are_inverse(form: names.Format, shape: tuple[str, tuple[int, ...]]) -> None:
    layer, sizes = shape
    array, key = np.random.default_rng(0).normal(size=sizes), ("block_01", layer, "kernel")
    np.testing.assert_array_equal(names.import_array(names.export_array(array, key, form), key, form), array)


def test_layouts_by_example() -> None:
    kernel = np.arange(3 * 3 * 2 * 5).reshape(3, 3, 2, 5)
    assert (
        names.export_array(kernel, ("stem", "conv", "kernel"), efficientnet_names.TIMM)[4, 1, 2, 0]
        == kernel[2, 0, 1, 4]
    )
    kernel = np.arange(5 * 5 * 4).reshape(5, 5, 4)
    key = ("block_01", "depthwise", "kernel")
    assert names.export_array(kernel, key, efficientnet_names.TIMM)[3, 0, 4, 1] == kernel[4, 1, 3]
    assert names.export_array(kernel, key, efficientnet_names.KERAS)[4, 1, 3, 0] == kernel[4, 1, 3]
    kernel = np.arange(6).reshape(2, 3)
    assert names.export_array(kernel, ("head", "output", "kernel"), efficientnet_names.PORT)[2, 1] == kernel[1, 2]
    assert names.export_array(kernel, ("head", "output", "kernel"), efficientnet_names.KERAS)[1, 2] == kernel[1, 2]


@FORMATS
@pytest.mark.parametrize("pixels", [1, 4])
def test_flattened_layouts_are_inverse(form: names.Format, pixels: int) -> None:
    key = ("head", "dense_1", "kernel")
    array = np.random.default_rng(0).normal(size=(pixels * form.flattened.get(key, 8), 3))
    theirs = names.export_array(array, key, form)
    assert theirs.shape == (array.shape[::-1] if form.torch else array.shape)
    np.testing.assert_array_equal(names.import_array(theirs, key, form), array)


def test_a_flattened_map_by_example() -> None:
    """A dense layer on a map is the same number whichever way it is flattened."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(2, 2, 512))  # [H, W, C]
    kernel = generator.normal(size=(2 * 2 * 512, 3))
    theirs = names.export_array(kernel, ("head", "dense_1", "kernel"), vgg_names.TORCHVISION)
    np.testing.assert_allclose(theirs @ features.transpose(2, 0, 1).ravel(), features.ravel() @ kernel)
    same = names.export_array(kernel, ("head", "dense_1", "kernel"), vgg_names.KERAS)
    np.testing.assert_array_equal(same, kernel)
    plain = names.export_array(kernel, ("head", "dense_2", "kernel"), vgg_names.TORCHVISION)
    np.testing.assert_array_equal(plain, kernel.T)

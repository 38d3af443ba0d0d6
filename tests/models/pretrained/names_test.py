from typing import Any

import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given
from hypothesis import strategies as st

from bt_jax.models import efficientnet
from bt_jax.models.pretrained import names

FORMATS = pytest.mark.parametrize("form", names.FORMATS, ids=lambda form: form.name)


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
    np.testing.assert_array_equal(names.to_ours(names.to_theirs(array, key, form), key, form), array)


def test_layouts_by_example() -> None:
    kernel = np.arange(3 * 3 * 2 * 5).reshape(3, 3, 2, 5)
    assert names.to_theirs(kernel, ("stem", "conv", "kernel"), names.TIMM)[4, 1, 2, 0] == kernel[2, 0, 1, 4]
    kernel = np.arange(5 * 5 * 4).reshape(5, 5, 4)
    key = ("block_01", "depthwise", "kernel")
    assert names.to_theirs(kernel, key, names.TIMM)[3, 0, 4, 1] == kernel[4, 1, 3]
    assert names.to_theirs(kernel, key, names.KERAS)[4, 1, 3, 0] == kernel[4, 1, 3]
    kernel = np.arange(6).reshape(2, 3)
    assert names.to_theirs(kernel, ("head", "output", "kernel"), names.PORT)[2, 1] == kernel[1, 2]
    assert names.to_theirs(kernel, ("head", "output", "kernel"), names.KERAS)[1, 2] == kernel[1, 2]


@FORMATS
@pytest.mark.parametrize("variant", efficientnet.VARIANTS)
def test_names_are_unique(variant: str, form: names.Format) -> None:
    table = names.layers(variant, form)
    assert len(set(table.values())) == len(table)


def test_some_names() -> None:
    key = ("block_03", "squeeze_excite", "reduce")  # the first block of the second group of B1
    assert names.layers("efficientnet_b1", names.KERAS)[key] == "block2a_se_reduce"
    assert names.layers("efficientnet_b1", names.TIMM)[key] == "blocks.1.0.se.conv_reduce"
    assert names.layers("efficientnet_b1", names.PORT)[key] == "_blocks.2._se_reduce"
    assert key not in names.layers("efficientnet_lite1", names.PORT)


def test_formats_are_told_by_names(nano: Any) -> None:
    network, params, batch_stats = nano
    for form in names.FORMATS:
        tensors = names.renamed(network.name, params, batch_stats, form)
        assert names.detect(tensors) is form
        assert names.looks_like(tensors) == "efficientnet_nano"
        count = len(traverse_util.flatten_dict(params)) + len(traverse_util.flatten_dict(batch_stats))
        assert len(tensors) == count
    assert names.detect({"features.0.weight": np.zeros(1)}) is None
    assert names.looks_like({"features.0.weight": np.zeros(1)}) is None


def test_all_members_of_the_family_differ_in_what_tells_them() -> None:
    tells = {(s.lite, *names.depthwise_channels(variant)) for variant, s in efficientnet.VARIANTS.items()}
    assert len(tells) == len(efficientnet.VARIANTS)


def test_hidden_layers_of_the_head_have_no_name(nano: Any) -> None:
    network, params, batch_stats = nano
    params = params | {"head": params["head"] | {"dense_1": {"kernel": np.zeros((2, 2))}}}
    with pytest.raises(ValueError, match="dense_1"):
        names.to_timm(network.name, params, batch_stats)

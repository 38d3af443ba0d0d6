from typing import Any

import numpy as np
import pytest
from flax import traverse_util

from bt_jax.models import efficientnet
from bt_jax.models.pretrained import efficientnet_names, formats, names
from tests import published

FORMATS = pytest.mark.parametrize("form", efficientnet_names.FORMATS, ids=lambda form: form.name)


@FORMATS
@pytest.mark.parametrize("variant", efficientnet.VARIANTS)
def test_names_are_unique(variant: str, form: names.Format) -> None:
    table = form.layers(variant)
    assert len(set(table.values())) == len(table)


def test_some_names() -> None:
    key = ("block_03", "squeeze_excite", "reduce")  # the first block of the second group of B1
    assert efficientnet_names.KERAS.layers("efficientnet_b1")[key] == "block2a_se_reduce"
    assert efficientnet_names.TIMM.layers("efficientnet_b1")[key] == "blocks.1.0.se.conv_reduce"
    assert efficientnet_names.PORT.layers("efficientnet_b1")[key] == "_blocks.2._se_reduce"
    assert key not in efficientnet_names.PORT.layers("efficientnet_lite1")


def test_formats_are_told_by_names(nano: Any) -> None:
    network, params, batch_stats = nano
    for form in efficientnet_names.FORMATS:
        tensors = published.rename(network.name, params, batch_stats, form)
        assert formats.detect(tensors, network.name) is form
        assert efficientnet_names.guess_model(tensors) == "efficientnet_nano"
        count = len(traverse_util.flatten_dict(params)) + len(traverse_util.flatten_dict(batch_stats))
        assert len(tensors) == count
    assert formats.detect({"features.0.weight": np.zeros(1)}, network.name) is None
    assert efficientnet_names.guess_model({"features.0.weight": np.zeros(1)}) is None


def test_all_members_of_the_family_differ_in_what_tells_them() -> None:
    tells = {
        (s.lite, *efficientnet_names.list_depthwise_channels(variant)) for variant, s in efficientnet.VARIANTS.items()
    }
    assert len(tells) == len(efficientnet.VARIANTS)


def test_hidden_layers_of_the_head_have_no_name(nano: Any) -> None:
    network, params, batch_stats = nano
    params = params | {"head": params["head"] | {"dense_1": {"kernel": np.zeros((2, 2))}}}
    with pytest.raises(ValueError, match="dense_1"):
        published.rename_as_timm(network.name, params, batch_stats)

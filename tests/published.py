"""Arrays of a network under the names of a published format, as tests need them to write files of weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from bt_jax.models.pretrained import efficientnet_names, names


def rename(
    model: str, params: Mapping[str, Any], batch_stats: Mapping[str, Any], form: names.Format
) -> dict[str, np.ndarray]:
    """Returns the trees of a network, flat, under the names of a format and in its layout.

    Raises:
      ValueError: the head has hidden layers, for which the format has no name.
    """
    arrays = traverse_util.flatten_dict(dict(params)) | traverse_util.flatten_dict(dict(batch_stats))
    table = names.map_keys(model, form, arrays)
    if unnamed := arrays.keys() - table.keys():
        raise ValueError(f"{form.name} has no name for {sorted(unnamed)}")
    return {theirs: names.export_array(np.asarray(arrays[ours]), ours, form) for ours, theirs in table.items()}


def rename_as_timm(variant: str, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the trees of an EfficientNet as a state_dict of timm, without the counters of batches."""
    return rename(variant, params, batch_stats, efficientnet_names.TIMM)

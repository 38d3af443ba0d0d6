"""What files store beside networks: a round trip through JSON and arrays."""

import json
import pathlib

import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.inference import model_header, ood
from bt_jax.inference.model_header import ModelHeader
from bt_jax.metrics.calibration import Temperature

PATH = pathlib.Path("model.onnx")


def make(members: int) -> ModelHeader:
    features = np.random.default_rng(0).normal(size=(members, 30, 6)).astype(np.float32)
    models = [ood.fit(one[:20], one[20:], fitted_on="10 images", step=3) for one in features]
    return ModelHeader(
        description={"name": "mlp", "classes": ["a", "b"]},
        temperature=Temperature(1.5, "10 images", 10, 3),
        ood_models=[one for one in models if one],
    )


@pytest.mark.parametrize("members", [0, 1, 12])
def test_a_header_survives_json_and_arrays(members):
    header = make(members)
    fields = json.loads(json.dumps(header.to_fields()))
    found = model_header.parse(fields, {**header.list_arrays(), "networks.0.kernel": np.ones(3)}, path=PATH)
    assert (found.description, found.temperature, found.confidence_limit) == (
        header.description, header.temperature, None
    )  # fmt: skip
    features = np.random.default_rng(1).normal(size=(4, 6))
    assert len(found.ood_models) == members
    for one, other in zip(found.ood_models, header.ood_models, strict=True):
        np.testing.assert_array_equal(one.score(features), other.score(features))


def test_another_version_and_missing_fields():
    fields = make(1).to_fields()
    with pytest.raises(UsageError, match="was written by another version of bt_jax"):
        model_header.parse(fields | {"schema": 2}, {}, path=PATH)
    with pytest.raises(KeyError):
        model_header.parse({"schema": model_header.SCHEMA}, {}, path=PATH)

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.models import registry
from bt_jax.models.pretrained import efficientnet_names, loading, names
from tests import published

FORMATS = pytest.mark.parametrize("form", efficientnet_names.FORMATS, ids=lambda form: form.name)


@pytest.fixture
def empty(nano: Any) -> tuple[Any, Any]:
    return tuple(jax.tree.map(jnp.zeros_like, tree) for tree in nano[1:])


def numbered(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keras arrays by class and number, in the order of the layers: as early Keras 3 stores them."""
    kinds = {"dwconv": "depthwise_conv2d", "bn": "batch_normalization", "predictions": "dense"}
    seen: dict[str, list[str]] = {}
    result = {}
    for key, array in tensors.items():
        layer, index = key.split("/")
        kind = kinds.get(layer.split("_")[-1], "conv2d")
        layers = seen.setdefault(kind, [])
        if layer not in layers:
            layers.append(layer)
        number = layers.index(layer)
        result[f"{kind}_{number}/{index}" if number else f"{kind}/{index}"] = array
    return result


def assert_equal(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert isinstance(ours, jax.Array)
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs)


@FORMATS
def test_everything_arrives(form: names.Format, nano: Any, empty: Any) -> None:
    network, params, batch_stats = nano
    tensors = published.rename(network.name, params, batch_stats, form)
    tensors |= {"bn1.num_batches_tracked": np.array(3)} if form.torch else {"normalization/0": np.zeros(3)}
    loaded = loading.load_into(*empty, tensors, network=network, head=True)
    assert_equal(loaded, (params, batch_stats))


def test_keras_layers_by_class_and_number(nano: Any, empty: Any) -> None:
    network, params, batch_stats = nano
    # JAX sorts the keys of trees; the file counts layers in the order of the model.
    order = list(efficientnet_names.KERAS.layers(network.name).values())
    tensors = published.rename(network.name, params, batch_stats, efficientnet_names.KERAS)
    tensors = dict(sorted(tensors.items(), key=lambda item: order.index(item[0].split("/")[0])))
    loaded = loading.load_into(*empty, numbered(tensors), network=network, head=True)
    assert_equal(loaded, (params, batch_stats))


@FORMATS
@pytest.mark.parametrize("with_classifier", [True, False])
def test_without_the_head_the_head_stays(form: names.Format, with_classifier: bool, nano: Any, empty: Any) -> None:
    network, params, batch_stats = nano
    tensors = published.rename(network.name, params, batch_stats, form)
    if not with_classifier:
        tensors = {key: array for key, array in tensors.items() if not names.is_classifier(key, form)}
    loaded, statistics = loading.load_into(*empty, tensors, network=network, head=False)
    assert_equal(loaded["head"], empty[0]["head"])
    assert_equal({**loaded, "head": {}}, {**params, "head": {}})
    assert_equal(statistics, batch_stats)


def test_half_precision_becomes_float32(nano: Any, empty: Any) -> None:
    network, params, batch_stats = nano
    tensors = published.rename_as_timm(network.name, params, batch_stats)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        halves = {key: array.astype(dtype) for key, array in tensors.items()}
        loaded, _ = loading.load_into(*empty, halves, network=network, head=True)
        kernel = loaded["stem"]["conv"]["kernel"]
        assert kernel.dtype == jnp.float32
        np.testing.assert_array_equal(
            kernel, np.asarray(params["stem"]["conv"]["kernel"]).astype(dtype).astype(np.float32)
        )


def test_problems_are_all_listed(nano: Any, empty: Any) -> None:
    network, params, batch_stats = nano
    tensors = published.rename_as_timm(network.name, params, batch_stats)
    del tensors["bn1.running_var"]
    tensors["extra.weight"] = np.zeros((2, 3))
    tensors["conv_head.weight"] = tensors["conv_head.weight"][:7]
    with pytest.raises(UsageError) as raised:
        loading.load_into(*empty, tensors, network=network, head=True, where="a.pth")
    message = str(raised.value)
    assert message.startswith("a.pth: not the weights of efficientnet_nano; ")
    assert "1 missing: bn1.running_var 8" in message
    assert "1 not of this model: extra.weight 2x3" in message
    assert "1 of another shape: conv_head.weight 7x80x1x1 instead of 320x80x1x1" in message
    assert "looks like" not in message
    assert "\n" not in message


@pytest.mark.parametrize("key", ["conv_stem.weight", "bn2.running_mean", "blocks.3.0.se.conv_expand.bias"])
@pytest.mark.parametrize("head", [True, False])
def test_no_array_may_be_missing(key: str, head: bool, nano: Any, empty: Any) -> None:
    network, params, batch_stats = nano
    tensors = published.rename_as_timm(network.name, params, batch_stats)
    tensors.pop(key)
    with pytest.raises(
        UsageError, match="no names of efficientnet_nano" if key == "conv_stem.weight" else f"1 missing: {key}"
    ):
        loading.load_into(*empty, tensors, network=network, head=head)


def test_the_model_in_the_file_is_named(nano: Any) -> None:
    _, params, batch_stats = nano
    network, *other = registry.create("efficientnet_lite0", classes=10)
    tensors = published.rename_as_timm("efficientnet_nano", params, batch_stats)
    with pytest.raises(
        UsageError, match=r"it looks like efficientnet_nano.*\d+ missing.*, and \d+ more.*another shape"
    ):
        loading.load_into(*other, tensors, network=network, head=True)


def test_no_efficientnet_at_all(nano: Any, empty: Any) -> None:
    with pytest.raises(
        UsageError, match=r"v\.pth: no names of efficientnet_nano \(Keras, timm, .*found features\.0\.weight"
    ):
        loading.load_into(*empty, {"features.0.weight": np.zeros(3)}, network=nano[0], head=True, where="v.pth")


def test_values_must_be_finite(nano: Any, empty: Any) -> None:
    network, params, batch_stats = nano
    tensors = published.rename_as_timm(network.name, params, batch_stats)
    tensors["bn1.bias"] = np.full_like(tensors["bn1.bias"], np.nan)
    with pytest.raises(UsageError, match=r"bn1\.bias holds values that are not finite"):
        loading.load_into(*empty, tensors, network=network, head=True)


def test_a_head_with_hidden_layers_needs_its_own_training(nano: Any) -> None:
    _, params, batch_stats = nano
    network, *trees = registry.create("efficientnet_nano", classes=10, hidden=(16,))
    tensors = published.rename_as_timm("efficientnet_nano", params, batch_stats)
    with pytest.raises(UsageError, match=r"nothing for head\.dense_1\.kernel.*load without the head"):
        loading.load_into(*trees, tensors, network=network, head=True)
    loaded, _ = loading.load_into(*trees, tensors, network=network, head=False)
    np.testing.assert_array_equal(loaded["top"]["norm"]["scale"], params["top"]["norm"]["scale"])
    np.testing.assert_array_equal(loaded["head"]["dense_1"]["kernel"], trees[0]["head"]["dense_1"]["kernel"])

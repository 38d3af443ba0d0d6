from typing import Any

import jax
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.models import registry, vgg
from bt_jax.models.pretrained import formats, loading, names, vgg_names
from tests import published

FORMATS = pytest.mark.parametrize("form", vgg_names.FORMATS, ids=lambda form: form.name)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """VGG16 with 8 channels and 16 features everywhere, on 64 pixels: network, parameters and statistics."""
    monkeypatch.setattr(vgg, "BLOCKS", tuple((count, 8) for count, _ in vgg.BLOCKS))
    monkeypatch.setattr(vgg, "CLASSIFIER_FEATURES", 16)
    monkeypatch.setitem(vgg_names.TORCHVISION.flattened, ("head", "dense_1", "kernel"), 8)
    return registry.create("vgg16", classes=5, size=64, classifier=True)


def test_all_names() -> None:
    assert list(vgg_names.KERAS.layers("vgg16").values()) == [
        "block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2", "block3_conv1", "block3_conv2", "block3_conv3",
        "block4_conv1", "block4_conv2", "block4_conv3", "block5_conv1", "block5_conv2", "block5_conv3",
        "fc1", "fc2", "predictions",
    ]  # fmt: skip
    numbers = [int(name.split(".")[1]) for name in vgg_names.TORCHVISION.layers("vgg16").values()]
    assert numbers == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 0, 3, 6]
    assert vgg_names.KERAS.layers("vgg16").keys() == vgg_names.TORCHVISION.layers("vgg16").keys()


@FORMATS
def test_everything_arrives(form: names.Format, narrow: Any) -> None:
    network, params, batch_stats = narrow
    tensors = published.rename(network.name, params, batch_stats, form)
    assert formats.detect(tensors, "vgg16") is form
    empty = jax.tree.map(np.zeros_like, params)
    loaded, statistics = loading.load_into(empty, {}, tensors, network=network, head=True)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))
    assert statistics == {}


def test_keras_layers_by_class_and_number(narrow: Any) -> None:
    network, params, batch_stats = narrow
    table = vgg_names.KERAS.layers("vgg16").values()
    convolutions = [name for name in table if "conv" in name]
    numbers = {name: f"conv2d_{i}" if i else "conv2d" for i, name in enumerate(convolutions)}
    numbers |= {"fc1": "dense", "fc2": "dense_1", "predictions": "dense_2"}
    tensors = {
        "/".join((numbers[key.split("/")[0]], key.split("/")[1])): array
        for key, array in published.rename(network.name, params, batch_stats, vgg_names.KERAS).items()
    }
    loaded, _ = loading.load_into(params, {}, tensors, network=network, head=True)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))


@FORMATS
@pytest.mark.parametrize("with_classifier", [True, False])
def test_the_layers_fit_under_another_head(form: names.Format, with_classifier: bool, narrow: Any) -> None:
    tensors = published.rename("vgg16", *narrow[1:], form)
    if not with_classifier:
        tensors = {key: array for key, array in tensors.items() if not names.is_classifier(key, form)}
        assert len(tensors) == 26
    network, *trees = registry.create("vgg16", classes=3, hidden=(7,), size=64, seed=1)
    loaded, _ = loading.load_into(*trees, tensors, network=network, head=False)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded["head"], trees[0]["head"]))
    assert jax.tree.all(jax.tree.map(np.array_equal, {**loaded, "head": {}}, {**narrow[1], "head": {}}))
    with pytest.raises(UsageError, match=r"nothing for head\.norm_1.*load without the head"):
        loading.load_into(*trees, tensors, network=network, head=True)


def test_the_head_of_timm_is_known(narrow: Any) -> None:
    """timm calls the convolutions as torchvision does, and the classifier otherwise."""
    network, params, batch_stats = narrow
    tensors = {
        key.replace("classifier.0", "pre_logits.fc1").replace("classifier.3", "pre_logits.fc2")
           .replace("classifier.6", "head.fc"): array
        for key, array in published.rename(network.name, params, batch_stats, vgg_names.TORCHVISION).items()
    }  # fmt: skip
    loaded, _ = loading.load_into(*narrow[1:], tensors, network=network, head=False)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))


def test_what_looks_like_vgg16() -> None:
    """Its 13 convolutions, not another number as in its relatives."""
    channels = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    file = {f"features.{i}.weight": np.empty((count, 1, 3, 3)) for i, count in enumerate(channels)}
    assert formats.guess_model(file) == "vgg16"
    assert formats.guess_model({key: file[key] for key in list(file)[:-1]}) is None
    with pytest.raises(
        UsageError, match=r"no names of efficientnet_nano .*; it looks like vgg16: set the model to that"
    ):
        network, *trees = registry.create("efficientnet_nano", classes=3)
        loading.load_into(*trees, file, network=network, head=False)

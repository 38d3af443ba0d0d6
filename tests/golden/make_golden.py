"""Makes the files in this folder from the reference implementations.

Run `python tests/golden/make_golden.py` from the root of the checkout, in an environment with this project and with
torch, torchvision, timm, keras, scikit-image and efficientnet-lite-pytorch.
"""

import collections
import hashlib
import json
import pathlib
from collections.abc import Mapping

import numpy as np
import procedural
import reference
import safetensors.torch
import skimage.data
import torch
from efficientnet_lite_pytorch import EfficientNet as LitePort
from PIL import Image
from reference import keras  # which has chosen its backend

from bt_jax.models import registry
from bt_jax.models.efficientnet import VARIANTS
from bt_jax.models.normalise import IMAGENET, LITE
from bt_jax.models.pretrained import efficientnet_names, sources, vgg_names
from tests import published

HERE = pathlib.Path(__file__).parent
SHOWN_IN_FULL = ("efficientnet_b1", "efficientnet_lite1", "vgg16")


def logits() -> dict[str, np.ndarray]:
    """The outputs of the reference implementations for procedural images and for the cat."""
    made = {}
    for variant in ("efficientnet_b1", "efficientnet_nano"):
        network, params, batch_stats = registry.create(variant, classes=1000)
        gain = procedural.GAINS[variant]
        trees = (procedural.weights(params, gain=gain), procedural.weights(batch_stats, gain=gain))
        images = procedural.images(2, network.size)
        normalised = np.float32((images / 255 - IMAGENET.mean) / IMAGENET.std)
        keras_model = reference.fill_keras(
            reference.keras_model(variant, classes=1000),
            published.rename(variant, *trees, efficientnet_names.KERAS),
            mean=IMAGENET.mean,
            variance=np.square(IMAGENET.std),
        )
        made[f"{variant} keras"] = np.asarray(keras_model.predict(images, verbose=0))
        for style in ("timm_tf", "timm"):
            model = reference.timm_model(variant, classes=1000, tensorflow=style == "timm_tf")
            model = reference.fill_torch(model, published.rename_as_timm(variant, *trees))
            made[f"{variant} {style}"] = reference.torch_logits(model, normalised)

    found = sources.resolve("imagenet", model="efficientnet_lite1")
    port = LitePort.from_name("efficientnet-lite1")
    port.load_state_dict(torch.load(found.path, weights_only=True), strict=True)
    cat = np.asarray(Image.open(HERE / "cat.png"))
    images = np.concatenate([procedural.images(1, 240), cat[None]])
    made["efficientnet_lite1 port"] = reference.torch_logits(
        port.eval(), np.float32((images / 255 - LITE.mean) / LITE.std)
    )
    return {key: np.float32(value) for key, value in made.items()}


def vgg_logits() -> dict[str, np.ndarray]:
    """The outputs of Keras and torchvision for procedural images, each after the preprocessing of its own."""
    made = {}
    for size, classes in ((64, 10), (224, 1000)):
        network, params, _ = registry.create("vgg16", classes=classes, size=size, classifier=True)
        params = procedural.weights(params, gain=procedural.GAINS["vgg16"])
        images = procedural.images(2, size)
        arrays = published.rename(network.name, params, {}, vgg_names.KERAS)
        keras_model = reference.fill_keras(reference.keras_vgg16(size=size, classes=classes), arrays)
        preprocessed = keras.applications.vgg16.preprocess_input(images.copy())
        made[f"vgg16 {size} keras"] = np.asarray(keras_model.predict(preprocessed, verbose=0))
        arrays = published.rename(network.name, params, {}, vgg_names.TORCHVISION)
        model = reference.fill_torch(reference.torchvision_vgg16(size=size, classes=classes), arrays)
        normalised = np.float32((images / 255 - IMAGENET.mean) / IMAGENET.std)
        made[f"vgg16 {size} torchvision"] = reference.torch_logits(model, normalised)
    return made


def tables() -> dict[str, dict[str, object]]:
    """Names and shapes of all arrays of the references: in full for some models, as a digest for all."""
    forms = ("timm", "Keras", "EfficientNet-PyTorch", "torchvision")
    made: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {form: {} for form in forms}
    made["Keras"]["vgg16"] = reference.keras_shapes(reference.keras_vgg16(size=224, classes=1000))
    made["torchvision"]["vgg16"] = torch_shapes(reference.torchvision_vgg16(size=224, classes=1000))
    for variant in VARIANTS:
        if variant == "efficientnet_nano":
            continue
        with torch.device("meta"):
            model = reference.timm_model(variant, classes=1000, tensorflow=True)
        made["timm"][variant] = torch_shapes(model)
        if VARIANTS[variant].lite:
            port = LitePort.from_name(variant.replace("_", "-"))
            made["EfficientNet-PyTorch"][variant] = torch_shapes(port)
        else:
            made["Keras"][variant] = reference.keras_shapes(reference.keras_model(variant, classes=1000))
    return {
        "digests": {form: {variant: digest(table) for variant, table in of.items()} for form, of in made.items()},
        "tables": {
            form: {
                variant: {key: "x".join(map(str, shape)) for key, shape in of[variant].items()}
                for variant in SHOWN_IN_FULL
                if variant in of
            }
            for form, of in made.items()
        },
    }


def torch_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of a state_dict, without the counters of batches."""
    return {
        key: tuple(value.shape) for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")
    }


def digest(table: Mapping[str, tuple[int, ...]]) -> str:
    """SHA-256 of the sorted names and shapes."""
    lines = [f"{key} {list(shape)}" for key, shape in sorted(table.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def containers(folder: pathlib.Path) -> None:
    """Tiny files as the libraries themselves write them, and what they hold."""
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensors = {
        "float32": base,
        "float64": base.double() / 3,
        "float16": base.half() / 8,
        "bfloat16": base.bfloat16() / 8,
        "int64": torch.tensor(7),
        "uint8": torch.arange(3, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(base[0] * 2),
        "transposed": base.t(),
        "sliced": base[1:, ::2],
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "empty": torch.zeros(0, 3),
    }
    folder.mkdir(exist_ok=True)
    torch.save(collections.OrderedDict(tensors), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    wrapped = {f"module.{key}": value for key, value in tensors.items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "rate": 0.1}, folder / "zip.pth")
    solid = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    safetensors.torch.save_file(solid, folder / "tiny.safetensors", metadata={"format": "pt"})
    expected = {key: value.detach().double().numpy() for key, value in tensors.items()}
    np.savez_compressed(folder / "torch.npz", **expected)

    model = keras.Sequential(
        [
            keras.layers.Input((4, 4, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Normalization(name="normalization"),
            keras.layers.Rescaling(2.0),
            keras.layers.Conv2D(4, 3, name="stem_conv"),
            keras.layers.BatchNormalization(name="stem_bn"),
            keras.layers.DepthwiseConv2D(2, name="block1a_dwconv", use_bias=False),
            keras.layers.Conv2D(2, 1, name="block1a_project_conv"),
            keras.layers.Dense(2, name="predictions"),
        ]
    )
    expected = {}
    for layer in model.layers:
        layer.set_weights([np.arange(w.size).reshape(w.shape) / 8 + i for i, w in enumerate(layer.get_weights())])
        expected |= {f"{layer.name}/{i}": weight for i, weight in enumerate(layer.get_weights())}
    model.save_weights(folder / "tiny.weights.h5")
    model.save(folder / "tiny.h5", include_optimizer=False)
    np.savez_compressed(folder / "keras.npz", **{key.replace("/", ":"): value for key, value in expected.items()})


if __name__ == "__main__":
    chelsea = Image.fromarray(skimage.data.chelsea()[:, 75:375])
    chelsea.resize((240, 240), Image.Resampling.BICUBIC).save(HERE / "cat.png", optimize=True)
    containers(HERE / "containers")
    np.savez_compressed(HERE / "logits.npz", **logits(), **vgg_logits())
    (HERE / "tables.json").write_text(json.dumps(tables(), indent=1) + "\n")

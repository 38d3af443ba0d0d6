"""Whole models against reference implementations, by their stored outputs (see tests/golden/README.md)."""

import functools
import hashlib
import json
import pathlib
import types

import jax
import numpy as np
import pytest
from PIL import Image

from bt_jax.models import efficientnet, layers, registry
from bt_jax.models.normalise import IMAGENET, Normalisation
from bt_jax.models.pretrained import conventions, efficientnet_names, formats, names, sources

# Trainable parameters with 1000 classes, as counted in timm (all EfficientNets) and Keras (all but the Lite ones).
PARAMETERS = {
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "efficientnet_lite3": 8_197_096,
    "efficientnet_lite4": 13_006_568,
    "efficientnet_nano": 487_920,
    "mlp": 1_130_280,
    "cnn": 678_184,
    "vgg16": 138_357_544,
    "vgg_nano": 295_568,
}
# What makes a model the references' one.
OPTIONS = {"vgg16": {"classifier": True}}
CATS = range(281, 287)  # tabby, tiger cat, Persian, Siamese, Egyptian, cougar


# Every program here runs once: compiling it well would take longer than running it.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def scaled(images: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """Coloured images [B, H, W, 3] from 0 to 255 through the normalisation of grey ones, channel by channel."""
    channels = [normalisation(images[..., c] / 255)[..., c] for c in range(3)]
    return np.float32(np.stack(channels, axis=-1))


@functools.cache
def shapes(variant: str) -> dict[names.Key, tuple[int, ...]]:
    """Of all arrays of a model with 1000 classes, without drawing its random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "draw_truncated_normal", lambda generator, shape, fan: jax.numpy.zeros(shape))
        patch.setattr(layers, "draw_glorot_uniform", lambda generator, shape: jax.numpy.zeros(shape))
        trees = jax.eval_shape(lambda: registry.create(variant, classes=1000, **OPTIONS.get(variant, {}))[1:])
    return {
        tuple(entry.key for entry in path): leaf.shape
        for tree in trees
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("model", registry.ARCHITECTURES)
def test_parameter_count(model: str) -> None:
    assert model in PARAMETERS, f"add {model} to the table, as counted in a reference implementation"
    statistics = ("mean", "variance")
    assert sum(np.prod(shape) for key, shape in shapes(model).items() if key[-1] not in statistics) == PARAMETERS[model]


@pytest.mark.parametrize("form", formats.FORMATS, ids=lambda form: f"{form.family} {form.name}")
def test_names_and_shapes_are_the_references(form: names.Format, golden: pathlib.Path) -> None:
    stored = json.loads((golden / "tables.json").read_text())
    digests = {model: value for model, value in stored["digests"][form.name].items() if model.startswith(form.family)}
    lite = {variant: scaling.lite for variant, scaling in efficientnet.VARIANTS.items()}
    assert digests.keys() == {
        model
        for model in registry.ARCHITECTURES
        if model.startswith(form.family)
        and model != "efficientnet_nano"
        and (form is efficientnet_names.TIMM or lite.get(model, False) == (form is efficientnet_names.PORT))
    }
    for variant, expected in digests.items():
        ours = shapes(variant)
        table = {
            theirs: names.export_array(np.broadcast_to(0, ours[key]), key, form).shape
            for key, theirs in names.map_keys(variant, form, ours).items()
        }
        if variant in stored["tables"][form.name]:
            shown = {key: "x".join(map(str, shape)) for key, shape in table.items()}
            assert shown == stored["tables"][form.name][variant]
        lines = [f"{key} {list(shape)}" for key, shape in sorted(table.items())]
        assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == expected, variant


@pytest.mark.parametrize(
    ("variant", "options", "references"),
    [
        pytest.param("efficientnet_b1", conventions.TENSORFLOW, ("keras", "timm_tf"), marks=pytest.mark.slow),
        ("efficientnet_nano", conventions.TENSORFLOW, ("keras", "timm_tf")),
        ("efficientnet_nano", conventions.PYTORCH, ("timm",)),
    ],
)
def test_procedural_weights(
    variant: str, options: dict, references: tuple[str, ...], procedural: types.ModuleType, logits: dict
) -> None:
    network, params, batch_stats = registry.create(variant, classes=1000, **options)
    gain = procedural.GAINS[variant]
    params, batch_stats = procedural.weights(params, gain=gain), procedural.weights(batch_stats, gain=gain)
    images = scaled(procedural.images(2, network.size), IMAGENET)
    ours = np.asarray(quick_jit(lambda *x: network.apply(*x)[0])(params, batch_stats, images))
    for reference in references:
        theirs = logits[f"{variant} {reference}"]
        # The images differ in the logits by much more than the tolerance, so this cannot pass on constants alone.
        assert np.std(theirs[0] - theirs[1]) > 0.05 * np.std(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(("size", "classes"), [(64, 10), pytest.param(224, 1000, marks=pytest.mark.slow)])
def test_procedural_vgg(size: int, classes: int, procedural: types.ModuleType, logits: dict) -> None:
    network, params, _ = registry.create("vgg16", classes=classes, size=size, classifier=True)
    params = procedural.weights(params, gain=procedural.GAINS["vgg16"])
    images = procedural.images(2, size)
    run = quick_jit(lambda *x: network.apply(*x)[0])
    for reference, inputs in (
        ("keras", scaled(images[..., ::-1], conventions.CAFFE)),
        ("torchvision", scaled(images, IMAGENET)),
    ):
        theirs = logits[f"vgg16 {size} {reference}"]
        assert theirs.shape == (2, classes)
        assert np.std(theirs[0] - theirs[1]) > 0.05 * np.std(theirs)
        ours = np.asarray(run(params, {}, inputs))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_padding_and_epsilon_matter(logits: dict) -> None:
    assert np.std(logits["efficientnet_nano timm"] - logits["efficientnet_nano timm_tf"]) > 0.01


def test_lite1_sees_the_cat(golden: pathlib.Path, procedural: types.ModuleType, logits: dict) -> None:
    weights = sources.resolve("imagenet", model="efficientnet_lite1")
    network, params, batch_stats = registry.create(weights.model, classes=1000, **weights.options)
    params, batch_stats = weights.load(network, params, batch_stats, head=True)
    images = np.concatenate([procedural.images(1, 240), np.asarray(Image.open(golden / "cat.png"))[None]])
    run = quick_jit(lambda *x: network.apply(*x)[0])
    ours = np.asarray(run(params, batch_stats, scaled(images, weights.normalisation)))
    theirs = logits["efficientnet_lite1 port"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())
    assert ours[1].argmax() in CATS

"""Conversion of a trained model to a StableHLO, ONNX or safetensors file, checked against the model."""

import dataclasses
import functools
import pathlib
import tempfile

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from bt_jax.common import files, waiting
from bt_jax.common.errors import UsageError
from bt_jax.inference import loading, model_file, onnx_graph
from bt_jax.inference.forward import make_forward
from bt_jax.inference.trained_model import TrainedModel

FORMATS = ("stablehlo", "onnx", "safetensors")
PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # absolute for probabilities; for logits, relative to the largest
_MOST_AT_ONCE = 32  # images in a step of the comparison
HALF_TOLERANCE = 1e-2  # the same for float16 weights
_HALF_OOD_TOLERANCE = 0.1  # relative, for their OOD scores


@dataclasses.dataclass(frozen=True)
class Difference:
    """Difference between the outputs of a file and of its model on the same images.

    Attributes:
      images: number of images.
      probabilities: largest absolute difference of a probability.
      logits: largest absolute difference of a logit, divided by the largest logit or by 1 if that is larger.
      changed: number of images whose predicted class differs.
      ood_scores: largest relative difference of an OOD score; 0 where the file or the model has none.
    """

    images: int
    probabilities: float
    logits: float
    changed: int = 0
    ood_scores: float = 0.0

    def is_within(self, tolerance: float) -> bool:
        """Whether both differences are within a tolerance; False for NaN."""
        return self.probabilities <= tolerance and self.logits <= tolerance


def write(path: files.Path, model: TrainedModel, *, form: str, images: np.ndarray, half: bool = False) -> Difference:
    """Writes a model to a file after checking that the file gives the same outputs as the model.

    Args:
      path: the file, replaced atomically; not touched if the outputs differ.
      model: a model with networks.
      form: one of `FORMATS`.
      images: [N, S, S] uint8, preprocessed, to compare on.
      half: stores large arrays as float16, in a safetensors file.

    Raises:
      UsageError: the model has no networks, packages are missing, or the outputs differ.
    """
    if half and form != "safetensors":
        raise ValueError(f"a file of the form {form} has no float16 weights")
    if not model.networks:
        raise UsageError("this file holds no networks to export: use the workdir of the model or its safetensors file")
    with waiting.report(f"converting the model to {form}"):
        content = _convert_to_safetensors(model, half=half) if form == "safetensors" else _CONVERTERS[form](model)
    with waiting.report(f"comparing the {form} file with the model"):
        difference = compare(content, model, form=form, images=images)
    close = difference.ood_scores <= _HALF_OOD_TOLERANCE if half else True
    if not close or not difference.is_within(HALF_TOLERANCE if half else TOLERANCE):
        raise UsageError(
            f"the outputs of the {form} file differ from the model's (probabilities by {difference.probabilities:.1e}, "
            f"logits by {difference.logits:.1e}, OOD scores by {difference.ood_scores:.1e} on {difference.images} "
            f"images): the file was not written"
        )
    files.write_bytes(path, content)
    return difference


def compare(content: bytes, model: TrainedModel, *, form: str, images: np.ndarray) -> Difference:
    """Compares the outputs of a file's content with a model's, in batches of one image and of several."""
    expected, scores = model.predict(images)
    ours = model.compute_probabilities(expected)
    logits, probabilities, found_scores = _run_file(content, images, form=form)
    both = scores is not None and found_scores is not None
    return Difference(
        images=len(images),
        probabilities=float(np.abs(probabilities - ours).max()),
        logits=float(np.abs(logits - expected).max() / max(1.0, np.abs(expected).max())),
        changed=int((probabilities.argmax(axis=1) != ours.argmax(axis=1)).sum()),
        ood_scores=float(np.abs(np.asarray(found_scores) / np.asarray(scores) - 1).max()) if both else 0.0,
    )


def _run_file(content: bytes, images: np.ndarray, *, form: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Loads the file as a user would.

    Returns:
      Its logits [members, N, classes], probabilities [N, classes] and OOD scores [N], which it may lack.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"model.{form}"
        path.write_bytes(content)
        sizes = 1, min(max(2, len(images) - 1), _MOST_AT_ONCE)
        one, several = (loading.load(path, batch_size=size) for size in sizes)
        parts = [one.predict(images[:1]), several.predict(images[1:])]
        logits = np.concatenate([part.logits for part in parts], axis=1)
        known = [part.ood_scores for part in parts if part.ood_scores is not None]
        scores = np.concatenate(known) if len(known) == len(parts) else None
        return logits, several.compute_probabilities(logits), scores


def _convert_to_safetensors(model: TrainedModel, *, half: bool = False) -> bytes:
    return model_file.encode_safetensors(_make_stored_model(model), half=half)


def _convert_to_stablehlo(model: TrainedModel) -> bytes:
    shape = jax.export.symbolic_shape(f"batch, {model.preprocessing.size}, {model.preprocessing.size}")
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    stored = _make_stored_model(model)
    weights = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in model_file.flatten_weights(stored.networks).items()
    }
    exported = jax.export.export(jax.jit(functools.partial(_run_networks, model)), platforms=PLATFORMS)(weights, images)
    return model_file.encode_stablehlo(stored, bytes(exported.serialize()))


def _run_networks(model: TrainedModel, weights: dict[str, jax.Array], images: jax.Array) -> dict[str, jax.Array]:
    """Computes the outputs that `model_file` documents for an exported program."""
    outputs = [
        make_forward(
            member.network, normalisation=member.normalisation, dtype=jnp.dtype("float32"), mirrored=member.mirrored
        )(trees["params"], trees["batch_stats"], images)
        for member, trees in zip(model.networks, model_file.unflatten_weights(weights), strict=True)
    ]
    logits, features = (jnp.stack(arrays, axis=1) for arrays in zip(*outputs, strict=True))
    by = model.temperature.value if model.temperature else 1.0
    return {
        "features": features,
        "logits": logits,
        "probabilities": jax.nn.softmax(logits / by, axis=-1).mean(axis=1),
    }


def _convert_to_onnx(model: TrainedModel) -> bytes:
    return onnx_graph.build(model.networks, size=model.preprocessing.size, header=_make_stored_model(model))


def _make_stored_model(model: TrainedModel) -> model_file.StoredModel:
    return model_file.StoredModel(
        description=dataclasses.asdict(model.description),
        temperature=model.temperature,
        ood_models=model.ood_models,
        confidence_limit=model.confidence_limit,
        networks=[{"params": one.params, "batch_stats": one.batch_stats} for one in model.networks],
    )


_CONVERTERS = {"stablehlo": _convert_to_stablehlo, "onnx": _convert_to_onnx}

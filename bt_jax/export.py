"""Exports a trained model to one file, after checking that the file gives the same outputs as the model.

    python -m bt_jax.export --model=runs/first --format=safetensors --out=model.safetensors
    python -m bt_jax.export --model=runs/folds --format=stablehlo --out=model.stablehlo
    python -m bt_jax.export --model=runs/first --format=onnx --out=model.onnx --data=archive.zip

stablehlo is a program for any CPU, GPU or TPU. safetensors holds the weights. onnx is a graph for ONNX Runtime,
OpenVINO and others, runs without JAX, and needs the packages onnx and onnxruntime. Each file includes the
preprocessing, class names, temperature, out-of-distribution model and confidence limit, and other commands accept it as
--model. The folds of a cross-validation become one file. This is a research tool, not a medical device.
"""

import json
import pathlib
import typing

import numpy as np
from absl import flags

from bt_jax.common import cli, files
from bt_jax.common.errors import UsageError
from bt_jax.inference import shipped_model

if typing.TYPE_CHECKING:
    from bt_jax.data.sources import Source
    from bt_jax.inference.trained_model import TrainedModel

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Workdir of a run or of a cross-validation, or a safetensors file. Default: the model that ships with bt_jax.",
)
_FORMAT = flags.DEFINE_enum("format", None, ["stablehlo", "onnx", "safetensors"], "Format of the file.")
_OUT = flags.DEFINE_string("out", "", "File to write.")
_DATA = flags.DEFINE_string("data", "", "Folder or zip of images to compare on. Default: the images of the run.")
_COMPARED = 16  # images


def main() -> None:
    """Converts the model, compares the outputs, and writes the file."""
    form = _FORMAT.value or ""
    for flag in (_FORMAT, _OUT):
        if not flag.value:
            raise UsageError(f"--{flag.name} is missing: see --help")
    (chosen,) = shipped_model.choose([] if _MODEL.value is None else [_MODEL.value])
    out = pathlib.Path(_OUT.value)
    files.check_output(out, flag="out")
    # Imported here so that --help does not wait for JAX.
    from bt_jax.inference import convert, loading

    cli.prepare_to_compute()
    if _MODEL.value is None:
        print(f"model: {shipped_model.describe([chosen])}")
    model = loading.load(chosen, batch_size=_COMPARED)
    images, origin = _load_images(model)
    difference = convert.write(out, model, form=form, images=images)
    print(
        f"compared on {origin}: probabilities differ by {difference.probabilities:.1e}, "
        f"logits by {difference.logits:.1e} of the largest logit"
    )
    if model.notice:
        print(f"warning: {model.notice}")
    size = f" ({out.stat().st_size / 1e6:.1f} MB)" if out.is_file() else ""
    print(f"{form}: {_OUT.value}{size}")


def _load_images(model: "TrainedModel") -> tuple[np.ndarray, str]:
    """Loads preprocessed images [N, S, S] uint8 spread over the data, and describes them."""
    from bt_jax.data import sources
    from bt_jax.data.io.decode import ImageError, decode_image

    instead = ""
    if _DATA.value:
        source = sources.open_path(_DATA.value, field="--data", class_names=model.class_names)
    else:
        try:
            source = _open_data_of_run(model)
        except UsageError:  # moved, or on another machine
            source = sources.open_phantoms(per_class=(4, 0), seed=0)
            instead = "; use --data for real images"
    images = []
    for number in np.linspace(0, len(source.records) - 1, 2 * _COMPARED).astype(int):
        record = source.records[number]
        try:
            images.append(model.preprocessing(decode_image(source.read(record.path), name=record.path)))
        except (ImageError, OSError):  # training skipped it as well
            continue
    if not images:
        raise UsageError(f"no image in {source.description} is readable: give others with --data")
    chosen = np.stack(images[:: max(1, len(images) // _COMPARED)][:_COMPARED])
    return chosen, f"{len(chosen)} images of {source.description}{instead}"


def _open_data_of_run(model: "TrainedModel") -> "Source":
    """Opens the data that the run was trained on.

    Raises:
      UsageError: the model comes from a file, or the images no longer exist.
    """
    from bt_jax.data import sources

    if not model.folders:
        raise UsageError("an exported file does not record the location of its training images")
    config = json.loads((model.folders[0] / "config.json").read_bytes())["config"]
    data = config["data"]
    return sources.open_source(
        data["source"],
        directory=data["dir"],
        phantoms_per_class=tuple(data["phantoms_per_class"]),
        seed=config["seed"],
    )


if __name__ == "__main__":
    cli.run(main)

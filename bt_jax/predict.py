"""Predicts the class of images, DICOM files and NIfTI volumes: one record for each image or slice.

    python -m bt_jax.predict scan.png
    python -m bt_jax.predict --model=runs/effnet_cpu scan.png
    python -m bt_jax.predict --model=runs/effnet_cpu series/ 'scans/**/*.dcm' volume.nii.gz
    python -m bt_jax.predict --model=runs/effnet_cpu --format=csv --out=predictions.csv archive.zip
    python -m bt_jax.predict --model=runs/first --model=exported.stablehlo --views=8 scan.png
    python -m bt_jax.predict --model=runs/first --gradcam=heat_maps --method=layercam scan.png
    python -m bt_jax.predict --model=model.onnx scan.png

Folders are searched recursively. A slice of a multi-frame file or volume has the path `path#number`. A file that cannot
be read gets a record with `error`; the other files are still predicted, and the exit status is 1. Several models, or
the folds of a cross-validation, are an ensemble: the mean of their probabilities is reported.

--gradcam=DIR writes a heat map of the predicted class for each image or slice: a PNG overlay and the values as .npy,
both at the resolution of the image. DIR/index.csv assigns these files to the records.

This is a research tool, not a medical device: nothing it says may guide a patient's care.
"""

import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import IO

from absl import flags

from bt_jax.common import cli, files, waiting
from bt_jax.common.errors import UsageError
from bt_jax.inference import shipped_model

_MODEL = flags.DEFINE_multi_string(
    "model",
    [],
    "Workdir of a run or cross-validation, or an exported file. Repeat the flag for an ensemble. Default: the model "
    "that ships with bt_jax.",
)
_ENGINE = flags.DEFINE_enum(
    "engine", "auto", ["auto", "onnxruntime", "openvino"], "What runs ONNX files; JAX runs all others."
)
_FORMAT = flags.DEFINE_enum("format", "jsonl", ["jsonl", "csv"], "JSON lines or a CSV table.")
_OUT = flags.DEFINE_string("out", "", "File for the records, written atomically. Default: standard output.")
_VIEWS = flags.DEFINE_integer(
    "views", 1, "Views of each slice to average over: slightly rotated, shifted and mirrored.", 1, 64
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Slices per step.", 1, 4096)
_GRADCAM = flags.DEFINE_string("gradcam", "", "Folder for heat maps of the predicted classes.")
_METHOD = flags.DEFINE_enum(
    "method",
    None,
    ["gradcam", "layercam", "integrated_gradients"],
    "Method for the heat maps. Default: gradcam, the fastest.",
)
_MAX_BYTES = flags.DEFINE_integer("max_bytes", 2**29, "Size limit of a file in bytes.", 1)
_MOST_KEPT = 8


def main(paths: list[str]) -> int:
    """Predicts the paths. Returns 1 if a file could not be read, else 0."""
    if not paths:
        raise UsageError("there is nothing to predict: give images, folders, DICOM or NIfTI files (see --help)")
    models = shipped_model.choose(_MODEL.value)
    if _METHOD.value and not _GRADCAM.value:
        raise UsageError("--method applies to heat maps only: give a folder for them with --gradcam")
    out = pathlib.Path(_OUT.value) if _OUT.value else None
    if out:
        files.check_output(out, flag="out")
    elif sys.__stdout__ is None:
        raise UsageError("the standard output is closed: name a file for the records with --out")
    if _GRADCAM.value:
        files.check_folder(pathlib.Path(_GRADCAM.value), flag="gradcam")
    # Imported here so that --help does not wait for JAX.
    from bt_jax.data.io import file_reader
    from bt_jax.data.io.slices import Limits
    from bt_jax.inference import heat_map_files, inputs, loading, stream
    from bt_jax.inference.predictor import Predictor

    if _VIEWS.value > 1 or not all(map(loading.is_onnx, models)):
        cli.prepare_to_compute()
    file_reader.silence_parsers()
    # Images are kept until their heat maps are written.
    batch_size = min(_BATCH_SIZE.value, _MOST_KEPT) if _GRADCAM.value else _BATCH_SIZE.value
    if not _MODEL.value:
        print(f"model: {shipped_model.describe(models)}", file=sys.stderr)
    predictor = Predictor.load(models, views=_VIEWS.value, batch_size=batch_size, engine=_ENGINE.value)
    heat_maps = None
    if _GRADCAM.value:
        heat_maps = heat_map_files.HeatMapFiles(
            pathlib.Path(_GRADCAM.value), predictor, method=_METHOD.value or "gradcam"
        )
    records = stream.predict(
        inputs.expand(paths, left_out=lambda line: print(f"warning: {line}", file=sys.stderr)),
        predictor,
        batch_size=batch_size,
        limits=Limits(file_bytes=_MAX_BYTES.value),
        listener=heat_maps.write if heat_maps else None,
    )
    count = failed = 0
    with waiting.report(lambda: f"{count:,} records written"), _open_output(out) as file:
        if _FORMAT.value == "csv":
            file.write(_encode(files.format_csv(stream.make_csv_header(predictor.class_names), [])))
        for batch in records:
            if _FORMAT.value == "csv":
                first, *others = (record.to_row(predictor.class_names) for record in batch)
                file.write(_encode(files.format_csv(first, others)))
            else:
                lines = (json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False) for record in batch)
                file.write(_encode("".join(f"{line}\n" for line in lines)))
            file.flush()
            count += len(batch)
            failed += sum(record.failed for record in batch)
    if heat_maps:
        heat_maps.write_index()
    if failed:
        print(f"warning: {failed} of {count} records are errors", file=sys.stderr)
    return 1 if failed else 0


@contextlib.contextmanager
def _open_output(path: pathlib.Path | None) -> Iterator[IO[bytes]]:
    """Opens a file that appears when it is complete, or the standard output."""
    if path:
        with files.open_output(path) as file:
            yield file
        return
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader, such as `head`, has enough
        cli.end_output()


def _encode(text: str) -> bytes:
    """Encodes text as UTF-8, with escapes for the bytes of file names that are not valid text."""
    return text.encode("utf-8", "backslashreplace")


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)

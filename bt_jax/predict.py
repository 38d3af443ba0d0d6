"""Predicts the class of images, DICOM files and NIfTI volumes: one record for each image or slice.

    python -m bt_jax.predict --model=runs/effnet_cpu scan.png
    python -m bt_jax.predict --model=runs/effnet_cpu series/ 'scans/**/*.dcm' volume.nii.gz
    python -m bt_jax.predict --model=runs/effnet_cpu --format=csv --out=predictions.csv archive.zip
    python -m bt_jax.predict --model=runs/first --model=exported.stablehlo --views=8 scan.png
    python -m bt_jax.predict --model=runs/first --gradcam=heat_maps --method=layercam scan.png

Folders are searched with all that is below them. Slices of a multi-frame file or volume are told apart as
path#number. A file that cannot be read gets a record with `error`; the others are done, and the exit status is 1.
Several models, or the folds of a cross-validation, answer with the mean of their probabilities.

--gradcam=DIR writes, for each image or slice, where the model looked for the class it names: a PNG over the image and
the values as .npy, both on the image's own pixels; DIR/index.csv tells which belong to which record.

This is a research tool, not a medical device: nothing it says may guide a patient's care.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import IO

from absl import flags

from bt_jax.common import cli, files
from bt_jax.common.errors import UsageError

_MODEL = flags.DEFINE_multi_string(
    "model", [], "Workdir of a run or cross-validation, or an exported file; several are an ensemble."
)
_FORMAT = flags.DEFINE_enum("format", "jsonl", ["jsonl", "csv"], "JSON lines, or a CSV table.")
_OUT = flags.DEFINE_string("out", "", "File for the records, complete or not there at all; else they are printed.")
_VIEWS = flags.DEFINE_integer("views", 1, "Views of each slice, slightly turned, shifted and mirrored.", 1, 64)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Slices in a step.", 1, 4096)
_GRADCAM = flags.DEFINE_string("gradcam", "", "Folder for heat maps of where the model looked.")
_METHOD = flags.DEFINE_enum(
    "method", None, ["gradcam", "layercam", "integrated_gradients"], "Of the heat maps; gradcam is the fastest."
)
_MAX_BYTES = flags.DEFINE_integer("max_bytes", 2**29, "Largest file that is read.", 1)
_MOST_KEPT = 8


def main(paths: list[str]) -> int:
    """Predicts; 1 is returned where a file could not be read."""
    if not _MODEL.value:
        raise UsageError("--model is missing: name the workdir of a run or an exported file (see --help)")
    if not paths:
        raise UsageError("nothing to predict: name images, folders, DICOM or NIfTI files (see --help)")
    if _METHOD.value and not _GRADCAM.value:
        raise UsageError("--method is for heat maps: name a folder for them as --gradcam")
    # After the flags, so that --help need not wait for JAX.
    from bt_jax.data.io import file_reader
    from bt_jax.data.io.slices import Limits
    from bt_jax.inference import heat_map_files, inputs, stream
    from bt_jax.inference.predictor import Predictor

    cli.prepare_to_compute()
    file_reader.silence_parsers()
    # Images are kept until their heat maps are written.
    batch_size = min(_BATCH_SIZE.value, _MOST_KEPT) if _GRADCAM.value else _BATCH_SIZE.value
    predictor = Predictor.load(_MODEL.value, views=_VIEWS.value, batch_size=batch_size)
    heat_maps = None
    if _GRADCAM.value:
        heat_maps = heat_map_files.HeatMapFiles(_GRADCAM.value, predictor, method=_METHOD.value or "gradcam")
    records = stream.predict(
        inputs.expand(paths, left_out=lambda line: print(f"warning: {line}", file=sys.stderr)),
        predictor,
        batch_size=batch_size,
        limits=Limits(file_bytes=_MAX_BYTES.value),
        listener=heat_maps.write if heat_maps else None,
    )
    count = failed = 0
    with _open_output(_OUT.value) as out:
        if _FORMAT.value == "csv":
            out.write(_encode(files.format_csv(stream.make_csv_header(predictor.class_names), [])))
        for batch in records:
            if _FORMAT.value == "csv":
                first, *others = (record.to_row(predictor.class_names) for record in batch)
                out.write(_encode(files.format_csv(first, others)))
            else:
                lines = (json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False) for record in batch)
                out.write(_encode("".join(f"{line}\n" for line in lines)))
            out.flush()
            count += len(batch)
            failed += sum(record.failed for record in batch)
    if heat_maps:
        heat_maps.write_index()
    if failed:
        print(f"warning: {failed} of {count} records are errors", file=sys.stderr)
    return 1 if failed else 0


@contextlib.contextmanager
def _open_output(path: str) -> Iterator[IO[bytes]]:
    """A file that appears when it is complete, or the standard output."""
    if path:
        with files.replace_atomically(path) as temporary, temporary.open("wb") as file:
            yield file
        return
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python's own flush at the end must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _encode(text: str) -> bytes:
    """In UTF-8; parts of file names that are no text are shown as escapes."""
    return text.encode("utf-8", "backslashreplace")


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)

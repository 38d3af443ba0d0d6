"""Examples of a scored split: their heat maps for the report, and for a demo their files and what to do with them."""

import pathlib
import shlex
import sys
from collections.abc import Sequence

import numpy as np

from bt_jax.common import files
from bt_jax.data.dataset import Dataset
from bt_jax.data.sources import Source
from bt_jax.inference import attribution, heat_map
from bt_jax.inference.trained_network import TrainedNetwork
from bt_jax.reports import plots
from bt_jax.reports.plots import Example

FOLDER = "examples"  # of files, in the workdir of a demo
_METHOD = "layercam"  # the one that points best, see docs/inference.md


def choose_rows(labels: np.ndarray, *, each: int) -> np.ndarray:
    """Chooses up to `each` images of every class by their position alone, evenly spaced: of different patients.

    Args:
      labels: [N] class numbers.
      each: number of images of a class.

    Returns:
      [M] row numbers, class after class.
    """
    rows = []
    for number in np.unique(labels):
        of_class = np.flatnonzero(labels == number)
        count = min(each, len(of_class))
        rows.append(of_class[(2 * np.arange(count) + 1) * len(of_class) // (2 * count)])
    return np.concatenate(rows)


def draw_heat_maps(
    path: files.Path,
    member: TrainedNetwork,
    dataset: Dataset,
    rows: np.ndarray,
    *,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    title: str,
    notice: str | None,
) -> None:
    """Draws images of a data set beside the heat maps of their predicted classes.

    Args:
      path: of the PNG file.
      member: the network with its weights.
      dataset: the images.
      rows: [M] numbers of the images to draw.
      probabilities: [N, classes] of all images of the data set.
      class_names: in the order of the probabilities.
      title: printed on top.
      notice: printed in a coloured band above the title.
    """
    images = dataset.images[rows]  # [M, S, S] uint8
    predicted = probabilities[rows].argmax(axis=1)
    method = attribution.choose_method([member.network], _METHOD)
    heat = attribution.compute_network_heat(member, images, classes=predicted, method=method)
    examples = [
        Example(
            image=image,
            overlay=heat_map.overlay(image, hot),
            label=class_names[label],
            predicted=class_names[number],
            probability=float(probabilities[row, number]),
        )
        for row, image, hot, label, number in zip(rows, images, heat, dataset.labels[rows], predicted, strict=True)
    ]
    plots.draw_examples(path, examples, title=title, notice=notice)


def write_files(folder: pathlib.Path, source: Source, dataset: Dataset, rows: np.ndarray) -> None:
    """Writes images of a data set as files with their class in their names."""
    folder.mkdir(exist_ok=True)
    for row in rows.tolist():
        path = pathlib.PurePosixPath(dataset.paths[row])
        files.write_bytes(folder / f"{path.parent.name}_{path.name}", source.read(str(path)))


def format_next_commands(workdir: pathlib.Path) -> str:
    """Formats the commands that go on from a demo in `workdir`, to copy into a shell in the current folder."""
    model, images = _shorten(workdir), _shorten(workdir / FOLDER)
    commands = {
        "predict the examples, with heat maps": ("predict", f"--model={model}", f"--gradcam={model}/heat_maps", images),
        f"serve a web page; drop images on it, such as those in {images}": ("serve", f"--model={model}"),
        "train on real images (in $BT_DATA or data/brain_tumor_mri, or from Kaggle), 15 minutes on 2 cores": (
            "main",
            "--config=configs/effnet.py:cpu",
            "--workdir=runs/first",
        ),
    }
    lines = [f"Next, in {pathlib.Path.cwd()}:"]
    for purpose, (module, *arguments) in commands.items():
        command = shlex.join([_shorten(pathlib.Path(sys.executable)), "-m", f"bt_jax.{module}", *arguments])
        lines += [f"\n  # {purpose}", f"  {command}"]
    return "\n".join(lines)


def _shorten(path: pathlib.Path) -> str:
    """Returns a path relative to the current folder if it lies in there; links are not followed."""
    path = path.absolute()
    return str(path.relative_to(here) if path.is_relative_to(here := pathlib.Path.cwd()) else path)

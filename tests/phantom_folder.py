"""Folders of phantoms in the layout of the Kaggle set, for tests of what reads images from files."""

import os
import pathlib

from bt_jax.common import files
from bt_jax.data.io.decode import encode_png
from bt_jax.data.phantoms import phantom


def write(directory: str | os.PathLike[str], *, training_per_class: int, testing_per_class: int, seed: int) -> None:
    """Writes phantoms as PNG files, and `groups.csv` for the Training images with the columns path, label and group.

    Existing files with other names stay.
    """
    directory = pathlib.Path(directory)
    rows = []
    for entry in phantom.list_entries(training_per_class=training_per_class, testing_per_class=testing_per_class):
        image = phantom.render(entry.index, label=entry.label, seed=seed).image
        files.write_bytes(directory / entry.path, encode_png(image))
        if entry.path.startswith("Training/"):
            rows.append((entry.path, entry.label, entry.patient))
    files.write_csv(directory / "groups.csv", ("path", "label", "group"), sorted(rows))

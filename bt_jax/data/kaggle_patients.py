"""The patients of the Kaggle set's Training images, looked up by pixel fingerprint in `patients.csv`.

2,317 of the 2,870 images are slices of 225 patients of figshare 1512427 (Cheng et al., CC BY 4.0), as matched by the
BrainMRI-ContaminationAudit project (MIT). The others are web images, grouped by near-duplicates. The columns are
`fingerprint` of the decoded pixels, `group` that a split keeps together, and `patient` (figshare's key, empty for a web
image). Pixel-identical images have one row.

    python -m bt_jax.data.kaggle_patients DIRECTORY

writes the table again from a folder whose `groups.csv` has the columns path, group and patient.
"""

import csv
import functools
import io
import pathlib
import sys

from bt_jax.common import files
from bt_jax.data import fingerprints
from bt_jax.data.io.decode import decode_image

PATH = pathlib.Path(__file__).with_name("patients.csv")


def load_groups() -> dict[str, str]:
    """Returns fingerprint -> group."""
    return _load_column("group")


def load_patients() -> dict[str, str]:
    """Returns fingerprint -> key of the patient, empty for a web image."""
    return _load_column("patient")


@functools.cache
def _load_column(name: str) -> dict[str, str]:
    return {row["fingerprint"]: row[name] for row in csv.DictReader(io.StringIO(PATH.read_text(encoding="utf-8")))}


def build(directory: pathlib.Path) -> list[tuple[str, str, str]]:
    """Builds the rows (fingerprint, group, patient) of a folder with `groups.csv`, sorted by fingerprint."""
    rows: dict[str, tuple[str, str]] = {}
    with (directory / "groups.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            image = decode_image((directory / row["path"]).read_bytes(), name=row["path"])
            found = rows.setdefault(fingerprints.fingerprint(image), (row["group"], row["patient"]))
            if found != (row["group"], row["patient"]):
                raise ValueError(f"{row['path']} equals an image of another group: {found}")
    return [(fingerprint, *rest) for fingerprint, rest in sorted(rows.items())]


if __name__ == "__main__":
    files.write_csv(PATH, ("fingerprint", "group", "patient"), build(pathlib.Path(sys.argv[1])))

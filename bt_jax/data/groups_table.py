"""The table `groups.csv`, which says which images belong to one patient or other group."""

import csv
import dataclasses
import io
import unicodedata
from collections.abc import Collection, Iterator

from bt_jax.common.errors import UsageError

FILE = "groups.csv"


@dataclasses.dataclass(frozen=True)
class GroupsTable:
    """The content of `groups.csv`.

    Attributes:
      groups: path -> group, without images that have none.
      patients: path -> key of the patient, empty if unknown; without a column `patient`, the groups.
      warnings: one line each.
    """

    groups: dict[str, str]
    patients: dict[str, str]
    warnings: tuple[str, ...] = ()


def parse(content: bytes, *, name: str, paths: Collection[str] = (), prefix: str = "") -> GroupsTable:
    """Parses a table with the columns `path` and `group`, and perhaps `patient`. Spaces around a value do not count.

    Args:
      content: of the file.
      name: of the file, for error messages.
      paths: of the images. A path in the table that differs in slashes or in the form of accents is one of these.
      prefix: folder of the images, relative to that of the table, with a slash at the end, or empty. Paths in the
        table may start with it.

    Raises:
      UsageError: another kind of table, or rows that contradict each other.
    """
    exact, known = frozenset(paths), {_normalise(path): path for path in paths}
    groups: dict[str, str] = {}
    patients: dict[str, str] = {}
    has_patients = False
    for row in _read_rows(content, name=name):
        path = row["path"] or ""
        if path not in exact or prefix:
            normal = _normalise(path)
            shorter = normal.removeprefix(_normalise(prefix) + "/") if prefix else normal
            path = known.get(normal) or known.get(shorter) or shorter
        has_patients |= "patient" in row
        for column, values in (("group", groups), ("patient", patients)):
            value = (row.get(column) or "").strip()
            if value and values.get(path, value) != value:
                raise UsageError(
                    f"{name} has rows that contradict each other: the {column} of {path} is {values[path]!r} and "
                    f"{value!r}: keep one of them"
                )
            values[path] = value or values.get(path, "")
    groups = {path: group for path, group in groups.items() if group}
    if not has_patients:
        return GroupsTable(groups, groups)
    return GroupsTable(groups, patients, _find_divided_patients(groups, patients, name=name))


def _find_divided_patients(groups: dict[str, str], patients: dict[str, str], *, name: str) -> tuple[str, ...]:
    """Returns a warning if a patient has several groups, which may then be on both sides of the split."""
    group_of: dict[str, str] = {}
    divided = [
        patient
        for path, patient in patients.items()
        if patient and path in groups and group_of.setdefault(patient, groups[path]) != groups[path]
    ]
    if not divided:
        return ()
    return (
        f"{name} gives {len(set(divided))} patients several groups, such as {divided[0]}: their images may be on both "
        f"sides of the split; give each patient one group",
    )


def _read_rows(content: bytes, *, name: str) -> Iterator[dict[str, str]]:
    try:
        text = content.decode("utf-8-sig")
        header = text.partition("\n")[0]
        # A spreadsheet may separate columns by semicolons or tabs.
        separator = next((mark for mark in ";\t" if mark in header and "," not in header), ",")
        table = csv.DictReader(io.StringIO(text), delimiter=separator)
        table.fieldnames = [field.strip() for field in table.fieldnames or ()]
        missing = {"path", "group"} - set(table.fieldnames)
        if missing:
            raise UsageError(f"{name} is not a table with the columns path and group: {min(missing)} is missing")
        yield from table
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{name} is not a table with the columns path and group: {error}") from None


def _normalise(path: str) -> str:
    """Returns a path with forward slashes, composed accents, and without spaces around it or `./` before it."""
    return unicodedata.normalize("NFC", path).strip().replace("\\", "/").removeprefix("./").strip("/")

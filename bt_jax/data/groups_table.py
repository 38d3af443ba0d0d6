"""The table `groups.csv`, which says which images belong to one patient or other group."""

import codecs
import csv
import dataclasses
import io
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence

from bt_jax.common.errors import UsageError

FILE = "groups.csv"

_OTHER_FORMS = frozenset(f"groups.{suffix}" for suffix in ("csv.txt", "txt", "tsv", "xls", "xlsx", "ods", "numbers"))
_NO_TABLE = "is not a table with the columns path and group"
_BEFORE_HEADER = re.compile(r"\A(\s*\n|sep=.\n)+")  # Excel may name the separator
_INVISIBLE = "\u200b\ufeff\0"  # spaces without width, from web pages and concatenated files


def is_name_of_table(path: str) -> bool:
    """Returns whether a path is that of the table, in capital letters or not."""
    return path.rpartition("/")[2].lower() == FILE


def is_like_table(path: str) -> bool:
    """Returns whether a path is that of the table in another form, as a spreadsheet or with a hidden second suffix."""
    return path.rpartition("/")[2].lower() in _OTHER_FORMS


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
    unknown = dict[str, None]()  # in the order of the table
    for row in _read_rows(content, name=name):
        path = row["path"] or ""
        if path not in exact or prefix:
            normal = _normalise(path)
            shorter = normal.removeprefix(_normalise(prefix) + "/") if prefix else normal
            path = known.get(normal) or known.get(shorter) or shorter
            if paths and path not in exact and _clean(row["group"]):
                unknown[path] = None
        has_patients |= "patient" in row
        for column, values in (("group", groups), ("patient", patients)):
            value = _clean(row.get(column))
            if value and values.get(path, value) != value and path not in unknown:
                raise UsageError(
                    f"{name} has rows that contradict each other: the {column} of {path} is {values[path]!r} and "
                    f"{value!r}: keep one of them"
                )
            values[path] = value or values.get(path, "")
    groups = {path: group for path, group in groups.items() if group}
    warnings = [*_describe_unknown(list(unknown), paths, name=name), *_find_lookalikes(groups.values(), name=name)]
    if not has_patients:
        return GroupsTable(groups, groups, tuple(warnings))
    return GroupsTable(groups, patients, (*warnings, *_find_divided_patients(groups, patients, name=name)))


def _describe_unknown(unknown: Sequence[str], paths: Collection[str], *, name: str) -> tuple[str, ...]:
    """Returns a warning if rows name no image: its patient would then count as unknown."""
    if not unknown:
        return ()
    return (
        f"{name} has {len(unknown)} paths of no image here, such as {unknown[0]}: they are not used; write paths as in "
        f"{min(paths)}",
    )


def _find_lookalikes(groups: Collection[str], *, name: str) -> tuple[str, ...]:
    """Returns a warning if groups differ by capital letters alone, and so may be one patient in two groups."""
    written = dict[str, str]()
    for group in groups:
        first = written.setdefault(group.casefold(), group)
        if first != group:
            return (f"{name} has the groups {first!r} and {group!r}: write them alike if they are one",)
    return ()


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
    text = _decode(content, name=name).replace("\r\n", "\n").replace("\r", "\n")
    text = _BEFORE_HEADER.sub("", text)
    header = text.partition("\n")[0]
    # A spreadsheet may separate columns by semicolons or tabs.
    separator = next((mark for mark in ";\t" if mark in header and "," not in header), ",")
    try:
        table = csv.DictReader(io.StringIO(text), delimiter=separator, strict=True)
        table.fieldnames = [field.strip().lower() for field in table.fieldnames or ()]
        missing = {"path", "group"} - set(table.fieldnames)
        if missing:
            raise UsageError(f"{name} {_NO_TABLE}: {min(missing)} is missing")
        if len(set(table.fieldnames)) < len(table.fieldnames):
            raise UsageError(f"{name} {_NO_TABLE}: two columns have the same name")
        yield from table
    except csv.Error as error:
        raise UsageError(f"{name} {_NO_TABLE}: {error}") from None


def _decode(content: bytes, *, name: str) -> str:
    """Decodes UTF-8, or UTF-16 with its mark, as Excel writes it for "Unicode text"."""
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise UsageError(f"{name} {_NO_TABLE} in UTF-8: save it again, in a spreadsheet as `CSV UTF-8`") from None


def _clean(value: str | None) -> str:
    """Returns a group or patient without the characters around it that nobody sees."""
    return unicodedata.normalize("NFC", value or "").strip().strip(_INVISIBLE).strip()


def _normalise(path: str) -> str:
    """Returns a path with forward slashes, composed accents, and without spaces around it or `./` before it."""
    return unicodedata.normalize("NFC", path).strip().replace("\\", "/").removeprefix("./").strip("/")

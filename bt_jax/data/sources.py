"""Where images come from: a folder, the Kaggle zip, or the built-in phantoms, all seen as rows of labelled files."""

import csv
import dataclasses
import functools
import io
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterable

from bt_jax import labels
from bt_jax.data import decode, phantom
from bt_jax.errors import UsageError

SPLITS = {"training": "Training", "train": "Training", "testing": "Testing", "test": "Testing"}
DEFAULT_DIRECTORY = "data/brain_tumor_mri"
KAGGLE_DATASET = "sartajbhuvaji/brain-tumor-classification-mri"
SYNTHETIC_NOTICE = "SYNTHETIC PHANTOMS: drawn by a program, not medical images"
GROUPS_FILE = "groups.csv"


@dataclasses.dataclass(frozen=True)
class Record:
    """An image file: `path` relative to the data folder with forward slashes, class number, `Training` or `Testing`."""

    path: str
    label: int
    split: str


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled files and the way to read them.

    Attributes:
      description: what this is and where it came from, for reports.
      class_names: in the order of the labels.
      records: in the order of their paths.
      groups: path -> patient or other group, from the data's own `groups.csv`; empty where there is none.
      read: path -> content of the file.
      warnings: one line for each thing a person should know.
      synthetic: phantoms, not medical images.
    """

    description: str
    class_names: tuple[str, ...]
    records: tuple[Record, ...]
    groups: dict[str, str]
    read: Callable[[str], bytes]
    warnings: tuple[str, ...] = ()
    synthetic: bool = False

    @property
    def notice(self) -> str | None:
        """What every report and picture made from this source must say."""
        return SYNTHETIC_NOTICE if self.synthetic else None


def open_source(
    source: str, *, directory: str | None, phantoms_per_class: tuple[int, int] = (80, 20), seed: int = 0
) -> Source:
    """Opens the data.

    Args:
      source: `auto`, `phantoms`, or `folder` (a folder or zip, given by `directory`). `auto` takes `directory`, else
        `$BT_DATA`, else `data/brain_tumor_mri`, else a Kaggle download where that is possible, else the phantoms.
      directory: path of a folder or zip; named explicitly, it must be there.
      phantoms_per_class: number of phantoms in Training and Testing.
      seed: of the phantoms.

    Raises:
      UsageError: nothing there, no class folders, or a class without images.
    """
    if source == "phantoms":
        return open_phantoms(per_class=phantoms_per_class, seed=seed)
    if source not in ("auto", "folder"):
        raise UsageError(f"config.data.source is {source!r}: use auto, folder or phantoms")
    if directory:
        return open_path(directory, field="config.data.dir")
    if source == "folder":
        raise UsageError("config.data.source is folder: set config.data.dir to the folder or zip with the images")
    if os.environ.get("BT_DATA"):
        return open_path(os.environ["BT_DATA"], field="$BT_DATA")
    if pathlib.Path(DEFAULT_DIRECTORY).exists():
        return open_path(DEFAULT_DIRECTORY, field="the default data folder")
    downloaded, reason = _kaggle_download()
    if downloaded is not None:
        return open_path(downloaded, field="the Kaggle download")
    phantoms = open_phantoms(per_class=phantoms_per_class, seed=seed)
    warning = (
        f"NO MRI DATA FOUND, GOING ON WITH SYNTHETIC PHANTOMS. Set --config.data.dir or $BT_DATA to the folder or zip, "
        f"or put it at {DEFAULT_DIRECTORY} ({reason})"
    )
    return dataclasses.replace(phantoms, warnings=(warning,))


def _kaggle_download() -> tuple[pathlib.Path | None, str]:
    """The data set through kagglehub, or why it cannot be had."""
    key = pathlib.Path(os.environ.get("KAGGLE_CONFIG_DIR", pathlib.Path.home() / ".kaggle")) / "kaggle.json"
    if not ({"KAGGLE_USERNAME", "KAGGLE_KEY"} <= set(os.environ) or "KAGGLE_API_TOKEN" in os.environ or key.exists()):
        return None, "no Kaggle key for a download"
    try:
        import kagglehub  # an extra: only those with a key need it
    except ImportError:
        return None, "a Kaggle key, but kagglehub is not installed: pip install kagglehub"
    try:
        return pathlib.Path(kagglehub.dataset_download(KAGGLE_DATASET)), ""
    except (OSError, ValueError, RuntimeError) as error:
        return None, f"the Kaggle download failed: {' '.join(str(error).split())}"


def open_path(path: str | os.PathLike[str], *, field: str) -> Source:
    """A folder or a zip in the Kaggle layout, or a folder of class folders. `field` names the setting in errors."""
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        names = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        folders = (folder.relative_to(path).as_posix() for folder in path.rglob("*") if folder.is_dir())
        return _from_names(names, folders, read=lambda name: (path / name).read_bytes(), kind="folder", where=path)
    if not path.exists():
        raise UsageError(
            f"{field} is {str(path)!r}, which is not there: give a folder or zip with Training/ and Testing/"
        )
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{field} is {str(path)!r}, which is neither a folder nor a zip")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = (entry.filename for entry in entries if not entry.is_dir())
    folders = (entry.filename.rstrip("/") for entry in entries if entry.is_dir())
    return _from_names(names, folders, read=functools.partial(_read_from_zip, path), kind="zip", where=path)


def _read_from_zip(path: pathlib.Path, name: str) -> bytes:
    # Opened for each file: a shared ZipFile is not safe in threads, and its directory is read in milliseconds.
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def _from_names(
    names: Iterable[str], folders: Iterable[str], *, read: Callable[[str], bytes], kind: str, where: pathlib.Path
) -> Source:
    files = [name for name in names if not _hidden(name)]
    prefix = _prefix(files)
    relative = [name.removeprefix(prefix) for name in files]
    found: list[tuple[str, str, str]] = []  # split, class folder, path
    other_files = 0
    for name in relative:
        parts = name.split("/")
        split = SPLITS.get(parts[0].lower()) if len(parts) == 3 else "Training" if len(parts) == 2 else None
        if split is None:
            other_files += name.count("/") > 0
        else:
            found.append((split, parts[-2], name))
    if not found:
        raise UsageError(
            f"{where} holds no images in class folders: expected Training/<class>/<image> and Testing/<class>/<image>"
        )
    class_names, number = labels.classes_of_folders(folder for split, folder, _ in found if split == "Training")
    warnings = [f"{other_files} files in {where} lie outside of class folders and are left out"] if other_files else []
    warnings += _check_classes(found, folders, prefix=prefix, where=where, known=set(number))
    unknown = {folder for _, folder, _ in found} - set(number)
    by_name = {name: i for i, name in enumerate(class_names)}
    number |= {folder: by_name[labels.canonical(folder)] for folder in unknown}
    records = sorted((Record(name, number[folder], split) for split, folder, name in found), key=lambda r: r.path)
    groups = {}
    if GROUPS_FILE in relative:
        groups = parse_groups(read(prefix + GROUPS_FILE), name=str(where / GROUPS_FILE))
    return Source(
        description=f"{kind} {where}",
        class_names=class_names,
        records=tuple(records),
        groups=groups,
        read=lambda path: read(prefix + path),
        warnings=tuple(warnings),
    )


def _check_classes(
    found: list[tuple[str, str, str]], folders: Iterable[str], *, prefix: str, where: pathlib.Path, known: set[str]
) -> list[str]:
    """Refuses what cannot be trained or scored; returns warnings about the rest."""
    if not known:
        raise UsageError(f"{where} has no images in Training/<class>/: nothing to train on or to take the classes from")
    class_names, _ = labels.classes_of_folders(known)
    for split, folder, path in found:
        if folder not in known and labels.canonical(folder) not in class_names:
            raise UsageError(f"{where}/{path}: {split} has a class {folder!r} that Training does not have")
    with_images = {(split, folder) for split, folder, _ in found}
    warnings = []
    for name in sorted({folder.removeprefix(prefix) for folder in folders}):
        parts = name.split("/")
        of_split = SPLITS.get(parts[0].lower()) if len(parts) == 2 else None
        if of_split and not _hidden(name) and (of_split, parts[1]) not in with_images:
            if of_split == "Training":
                raise UsageError(f"{where / name} is an empty class folder: put images there or remove it")
            warnings.append(f"{where / name} is empty: {parts[1]} is not scored")
    if "Testing" not in {split for split, _, _ in found}:
        warnings.append(f"{where} has no Testing folder: the report covers the validation images only")
    return warnings


def _hidden(name: str) -> bool:
    parts = name.split("/")
    return (
        any(part.startswith(".") for part in parts)
        or parts[0] == "__MACOSX"
        or parts[-1].lower() in ("thumbs.db", "desktop.ini")
    )


def _prefix(names: list[str]) -> str:
    """The folder, if any, that the Training folder stands in; archives often wrap everything in one."""
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts[:-1]):
            if SPLITS.get(part.lower()) == "Training":
                return "/".join(parts[:depth]) + "/" if depth else ""
    return ""


def parse_groups(content: bytes, *, name: str) -> dict[str, str]:
    """`groups.csv`, a table with the columns `path` and `group`, as path -> group."""
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
        return {row["path"]: row["group"] for row in rows if row["group"]}
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{name} is not a table with the columns path and group: {error!r}") from None


def open_phantoms(*, per_class: tuple[int, int], seed: int) -> Source:
    """The built-in phantoms as a source; they are drawn when read."""
    entries = phantom.entries(training_per_class=per_class[0], testing_per_class=per_class[1])
    by_path = {entry.path: entry for entry in entries}

    def read(path: str) -> bytes:
        entry = by_path[path]
        return decode.encode_png(phantom.render(entry.index, label=entry.label, seed=seed).image)

    return Source(
        description=f"built-in phantoms, {per_class[0]} + {per_class[1]} per class, seed {seed}",
        class_names=labels.BRAIN_TUMOR_CLASSES,
        records=tuple(
            Record(entry.path, labels.BRAIN_TUMOR_CLASSES.index(entry.label), entry.path.split("/")[0])
            for entry in entries
        ),
        groups={entry.path: entry.patient for entry in entries},
        read=read,
        synthetic=True,
    )

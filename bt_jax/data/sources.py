"""Sources of images: a folder, the Kaggle zip, a prepared data set, or phantoms, all as records of labelled files."""

import csv
import dataclasses
import io
import os
import pathlib
import zipfile
from collections.abc import Callable

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.data import array_record, class_labels, splits
from bt_jax.data.io.zip_files import ZipReader
from bt_jax.data.phantom_source import open_phantoms
from bt_jax.data.records import Record, Source

SPLITS = {"training": "Training", "train": "Training", "testing": "Testing", "test": "Testing"}
DEFAULT_DIRECTORY = "data/brain_tumor_mri"
KAGGLE_DATASET = "sartajbhuvaji/brain-tumor-classification-mri"
GROUPS_FILE = array_record.GROUPS_FILE
SOURCES = ("auto", "folder", "phantoms")


def open_source(
    source: str, *, directory: str | None, phantoms_per_class: tuple[int, int] = (80, 20), seed: int = 0
) -> Source:
    """Opens the configured source.

    Args:
      source: `auto`, `phantoms`, or `folder` (a folder or zip, given by `directory`). `auto` takes `directory`, else
        `$BT_DATA`, else `data/brain_tumor_mri`, else a Kaggle download if that is possible, else the phantoms.
      directory: path of a folder, zip or prepared data set; it must exist if given.
      phantoms_per_class: number of phantoms per class in Training and in Testing.
      seed: seed of the phantoms.

    Raises:
      UsageError: a missing path, no class folders, a class without images, or an invalid setting.
    """
    check_source(source, directory=directory)
    if source == "phantoms":
        return open_phantoms(per_class=phantoms_per_class, seed=seed)
    if directory:
        return open_path(directory, field="config.data.dir")
    if os.environ.get("BT_DATA"):
        return open_path(os.environ["BT_DATA"], field="$BT_DATA")
    if pathlib.Path(DEFAULT_DIRECTORY).exists():
        return open_path(DEFAULT_DIRECTORY, field="the default data folder")
    downloaded, reason = _download_from_kaggle()
    if downloaded is not None:
        return open_path(downloaded, field="the Kaggle download")
    phantoms = open_phantoms(per_class=phantoms_per_class, seed=seed)
    warning = (
        f"NO MRI DATA FOUND, USING SYNTHETIC PHANTOMS. Set --config.data.dir or $BT_DATA to the folder or zip with the "
        f"images, or put them at {DEFAULT_DIRECTORY} ({reason})"
    )
    return dataclasses.replace(phantoms, warnings=(warning,))


def check_source(source: str, *, directory: str | None) -> None:
    """Checks the settings of a source without opening it.

    Args:
      source: as in `open_source`.
      directory: as in `open_source`.

    Raises:
      UsageError: an unknown source, a missing directory, or phantoms with a directory.
    """
    if source not in SOURCES:
        raise UsageError(f"config.data.source is {source!r}: use auto, folder or phantoms")
    if source == "phantoms" and directory:
        raise UsageError(f"config.data.dir is {directory!r}, but config.data.source is phantoms: set it to folder")
    if source == "folder" and not directory:
        raise UsageError("config.data.source is folder: set config.data.dir to the folder or zip with the images")
    if directory:
        _check_exists(files.expand(directory), field="config.data.dir")


def _check_exists(path: pathlib.Path, *, field: str) -> None:
    if not path.exists():
        raise UsageError(f"{field} is {str(path)!r}, which does not exist: give a folder or zip with Training/<class>/")


def _download_from_kaggle() -> tuple[pathlib.Path | None, str]:
    """Downloads the data set through kagglehub; returns its path, or None and the reason."""
    key = files.expand(os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle") / "kaggle.json"
    if not ({"KAGGLE_USERNAME", "KAGGLE_KEY"} <= set(os.environ) or "KAGGLE_API_TOKEN" in os.environ or key.exists()):
        return None, "no Kaggle key for a download"
    try:
        import kagglehub  # an extra that is only needed with a Kaggle key
    except ImportError:
        return None, "there is a Kaggle key, but kagglehub is not installed: pip install kagglehub"
    try:
        return pathlib.Path(kagglehub.dataset_download(KAGGLE_DATASET)), ""
    except (OSError, ValueError, RuntimeError) as error:
        return None, f"the Kaggle download failed: {' '.join(str(error).split())}"


def open_path(path: str | os.PathLike[str], *, field: str, class_names: tuple[str, ...] | None = None) -> Source:
    """Opens a folder or zip in the Kaggle layout, a folder of class folders, or a prepared data set.

    Args:
      path: of the folder or zip.
      field: name of the setting, for error messages.
      class_names: classes of the model to be evaluated; every folder must be one of them, by name or alias. None takes
        the classes from the Training folders, which must then exist and not be empty.
    """
    path = files.expand(path)
    if array_record.is_prepared(path):
        return _open_prepared(path, class_names=class_names)
    if path.is_dir():
        names, folders = _list_contents(path)
        layout = _Layout.read(names, folders, where=path)
        return layout.to_source(lambda name: (path / name).read_bytes(), kind="folder", class_names=class_names)
    _check_exists(path, field=field)
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{field} is {str(path)!r}, which is neither a folder nor a zip")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries if not entry.is_dir()]
    folders = [entry.filename.rstrip("/") for entry in entries if entry.is_dir()]
    layout = _Layout.read(names, folders, where=path)
    return layout.to_source(ZipReader(path), kind="zip", class_names=class_names)


def _open_prepared(path: pathlib.Path, *, class_names: tuple[str, ...] | None) -> Source:
    description, index, reader = array_record.open_folder(path)
    own = tuple(description["class_names"])
    if class_names is None and not index.records.training.any():
        raise UsageError(f"{path} has no images of Training: there is nothing to train on")
    if class_names is not None:
        number = array_record.map_classes(own, class_names, where=str(path))
        records = dataclasses.replace(index.records, labels=number[index.records.labels])
        index = dataclasses.replace(index, records=records)
    table, name = b"path,group", path / GROUPS_FILE
    if name.exists() and len(index) <= splits.MAX_COMPARED:  # larger sets have this in the index
        table = name.read_bytes()
    return Source(
        description=f"{description['description']}, prepared in {path}",
        class_names=class_names or own,
        records=index.records,
        groups=parse_groups(table, name=str(name)),
        patients=parse_patients(table, name=str(name)),
        read=reader,
        synthetic=description["synthetic"],
        divided=description["divided"],
        index=index,
    )


def _list_contents(path: pathlib.Path) -> tuple[list[str], list[str]]:
    """Lists files and folders below a folder, relative to it. Follows links to folders, which `rglob` does not."""
    names: list[str] = []
    folders: list[str] = []
    for folder, below, inside in os.walk(path, followlinks=True):
        here = pathlib.Path(folder).relative_to(path)
        folders += [(here / name).as_posix() for name in below]
        names += [(here / name).as_posix() for name in inside]
    return names, folders


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The files of a folder or zip, by their role."""

    where: pathlib.Path
    prefix: str  # folder that everything else is relative to, with a slash at the end, or empty
    nested: bool  # class folders are inside Training and Testing, not at the top level
    images: list[tuple[str, str, str]]  # split, class folder, path
    empty: list[tuple[str, str, str]]  # the same for class folders without files
    has_groups: bool
    warnings: list[str]

    @classmethod
    def read(cls, names: list[str], folders: list[str], *, where: pathlib.Path) -> "_Layout":
        """Locates every file; ignores hidden files and those of the operating system."""
        files = [name for name in names if not _is_hidden(name)]
        prefix = _find_prefix(files)
        files = sorted(name.removeprefix(prefix) for name in files)
        folders = sorted(folder.removeprefix(prefix) for folder in folders if not _is_hidden(folder))
        nested = any(name.split("/")[0].lower() in SPLITS for name in files + folders)
        images = [(*place, name) for name in files if (place := _locate(name, nested=nested))]
        if not images:
            raise UsageError(f"{where} holds no images in class folders: expected Training/<class>/<image>")
        full = {(split, folder) for split, folder, _ in images}
        empty = [
            (*place, folder)
            for folder in folders
            if (place := _locate(f"{folder}/", nested=nested)) and place not in full
        ]
        elsewhere = sum("/" in name for name in files) - len(images)
        warnings = [f"{elsewhere} files in {where} are outside of class folders: left out"] if elsewhere else []
        return cls(where, prefix, nested, images, empty, GROUPS_FILE in files, warnings)

    def to_source(self, read: Callable[[str], bytes], *, kind: str, class_names: tuple[str, ...] | None) -> Source:
        warnings = list(self.warnings)
        if class_names is None:
            class_names, number = self._list_training_classes()
            warnings += [f"{self.where / path} is empty: {folder} is not evaluated" for _, folder, path in self.empty]
            if all(split == "Training" for split, _, _ in self.images):
                warnings.append(f"{self.where} has no Testing folder: the report covers the validation images only")
        else:
            number = {name: i for i, name in enumerate(class_names)}
        number = self._number_folders(number, class_names)
        groups_path = self.prefix + GROUPS_FILE
        table = read(groups_path) if self.has_groups else b"path,group"
        name = str(self.where / groups_path)
        return Source(
            description=f"{kind} {self.where}",
            class_names=class_names,
            records=tuple(Record(path, number[folder], split) for split, folder, path in self.images),
            groups=parse_groups(table, name=name),
            patients=parse_patients(table, name=name),
            read=lambda path: read(self.prefix + path),
            warnings=tuple(warnings),
            divided=self.nested,
        )

    def _list_training_classes(self) -> tuple[tuple[str, ...], dict[str, int]]:
        for split, _, path in self.empty:
            if split == "Training":
                raise UsageError(f"{self.where / path} is an empty class folder: put images there or remove it")
        training = {folder for split, folder, _ in self.images if split == "Training"}
        if not training:
            raise UsageError(f"{self.where} has no images in Training/<class>/: there is nothing to train on")
        return class_labels.map_folders_to_classes(training)

    def _number_folders(self, number: dict[str, int], class_names: tuple[str, ...]) -> dict[str, int]:
        """Returns the class number of every folder; Testing folders may be aliases."""
        known = {class_names[i]: i for i in sorted(number.values())}
        number = dict(number)
        for _, folder, path in self.images:
            if folder not in number:
                if class_labels.canonicalise(folder) not in known:
                    raise UsageError(f"{self.where / path}: {folder!r} is none of the classes {', '.join(known)}")
                number[folder] = known[class_labels.canonicalise(folder)]
        return number


def _locate(path: str, *, nested: bool) -> tuple[str, str] | None:
    """Returns split and class folder of a file, or None if it is elsewhere. Top-level class folders are Training."""
    parts = path.split("/")
    if nested and len(parts) == 3 and parts[0].lower() in SPLITS:
        return SPLITS[parts[0].lower()], parts[1]
    return ("Training", parts[0]) if not nested and len(parts) == 2 else None


def _is_hidden(name: str) -> bool:
    parts = name.split("/")
    return (
        any(part.startswith(".") for part in parts)
        or parts[0] == "__MACOSX"
        or parts[-1].lower() in ("thumbs.db", "desktop.ini")
    )


def _find_prefix(names: list[str]) -> str:
    """Finds the folder, if any, that contains Training (else Testing); archives often wrap everything in one."""
    for split in ("Training", "Testing"):
        for name in names:
            parts = name.split("/")
            for depth, part in enumerate(parts[:-1]):
                if SPLITS.get(part.lower()) == split:
                    return "/".join(parts[:depth]) + "/" if depth else ""
    return ""


def parse_groups(content: bytes, *, name: str) -> dict[str, str]:
    """Parses `groups.csv`, a table with the columns `path` and `group`, as path -> group."""
    return {path: group for path, group in _parse_column(content, name=name, column="group").items() if group}


def parse_patients(content: bytes, *, name: str) -> dict[str, str]:
    """Parses `groups.csv` as path -> patient key, empty if unknown; without a column `patient`, groups are the keys."""
    patients = _parse_column(content, name=name, column="patient")
    return patients if patients else parse_groups(content, name=name)


def _parse_column(content: bytes, *, name: str, column: str) -> dict[str, str]:
    """Parses a column of `groups.csv` by path; empty if there is no such column."""
    try:
        table = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
        missing = {"path", "group"} - set(table.fieldnames or ())
        if missing:
            raise UsageError(f"{name} is not a table with the columns path and group: {min(missing)} is missing")
        if column not in (table.fieldnames or ()):
            return {}
        return {row["path"]: row[column] or "" for row in table}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{name} is not a table with the columns path and group: {error}") from None

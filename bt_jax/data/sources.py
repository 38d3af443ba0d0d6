"""Sources of images: a folder, the Kaggle zip, a prepared data set, or phantoms, all as records of labelled files."""

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from bt_jax.common import files, waiting
from bt_jax.common.errors import UsageError
from bt_jax.data import array_record, class_labels, folder_layout, groups_table, splits
from bt_jax.data.folder_layout import Layout
from bt_jax.data.groups_table import GroupsTable
from bt_jax.data.io.listing import Listing, list_folder, list_zip
from bt_jax.data.phantom_source import open_phantoms
from bt_jax.data.records import TESTING, TRAINING, Record, Source

DEFAULT_DIRECTORY = "data/brain_tumor_mri"
# Where a Kaggle notebook has the data sets that are attached to it, and the folders at whose depth they may begin.
KAGGLE_INPUT = pathlib.Path("/kaggle/input")
_DEPTHS = ("*", "*/*", "*/*/*", "*/*/*/*")
KAGGLE_DATASET = "sartajbhuvaji/brain-tumor-classification-mri"
_ZIP = b"PK\x03\x04"
SOURCES = ("auto", "folder", "phantoms")


def open_source(
    source: str, *, directory: str | None, phantoms_per_class: tuple[int, int] = (80, 20), seed: int = 0
) -> Source:
    """Opens the configured source.

    Args:
      source: `auto`, `phantoms`, or `folder` (a folder or zip, given by `directory`). `auto` takes `directory`, else
        `$BT_DATA`, else `data/brain_tumor_mri`, else the data set attached to a Kaggle notebook, else a Kaggle download
        if that is possible, else the phantoms.
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
    if attached := find_attached():
        return open_path(attached, field="the data set attached to the notebook")
    downloaded, reason = _download_from_kaggle()
    if downloaded is not None:
        return open_path(downloaded, field="the Kaggle download")
    phantoms = open_phantoms(per_class=phantoms_per_class, seed=seed)
    warning = (
        f"NO MRI DATA FOUND, USING SYNTHETIC PHANTOMS. Set --config.data.dir or $BT_DATA to the folder or zip with the "
        f"images, or put them at {DEFAULT_DIRECTORY} ({reason})"
    )
    return dataclasses.replace(phantoms, warnings=(warning,))


def use_classes(source: Source, class_names: tuple[str, ...]) -> Source:
    """Returns the source with its labels as numbers of other classes, which include its own."""
    number = np.array([class_names.index(name) for name in source.class_names], np.int32)
    if source.index is not None:
        records = dataclasses.replace(source.index.records, labels=number[source.index.records.labels])
        index = dataclasses.replace(source.index, records=records)
        return dataclasses.replace(source, class_names=class_names, records=records, index=index)
    renumbered = tuple(Record(record.path, int(number[record.label]), record.split) for record in source.records)
    return dataclasses.replace(source, class_names=class_names, records=renumbered)


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
        _check_exists(directory, field="config.data.dir")


def _check_exists(path: str | os.PathLike[str], *, field: str) -> None:
    if "://" in os.fspath(path):
        raise UsageError(f"{field} is {os.fspath(path)!r}, an address: download it, and give the folder or zip")
    path = files.expand(path)
    if not path.exists():
        raise UsageError(f"{field} is {str(path)!r}, which does not exist: give a folder or zip with Training/<class>/")


def _check_zip(path: pathlib.Path, *, field: str) -> None:
    if zipfile.is_zipfile(path):
        return
    with path.open("rb") as file:
        damaged = file.read(len(_ZIP)) == _ZIP
    if damaged:
        raise UsageError(f"{field} is {str(path)!r}, a damaged zip: download or pack it again")
    raise UsageError(
        f"{field} is {str(path)!r}, which is neither a folder nor a zip: give a folder or zip with Training/<class>/; "
        f"unpack other archives"
    )


def find_attached() -> pathlib.Path | None:
    """Finds the data set with a Training folder that is attached to this Kaggle notebook; None elsewhere.

    Raises:
      UsageError: there are several.
    """
    found = sorted(
        {path.parent for depth in _DEPTHS for path in KAGGLE_INPUT.glob(f"{depth}/Training") if path.is_dir()}
    )
    if len(found) > 1:
        several = ", ".join(map(str, found))
        raise UsageError(f"several data sets are attached: name one with config.data.dir or $BT_DATA: {several}")
    return found[0] if found else None


def _download_from_kaggle() -> tuple[pathlib.Path | None, str]:
    """Downloads the data set through kagglehub; returns its path, or None and the reason."""
    key = files.expand(os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle") / "kaggle.json"
    if not ({"KAGGLE_USERNAME", "KAGGLE_KEY"} <= set(os.environ) or "KAGGLE_API_TOKEN" in os.environ or key.exists()):
        return None, "no Kaggle key for a download"
    try:
        import kagglehub  # an extra that is only needed with a Kaggle key
    except ImportError:
        return None, "there is a Kaggle key, but kagglehub is not installed: python -m pip install kagglehub"
    try:
        with waiting.report(f"downloading {KAGGLE_DATASET} from Kaggle"):
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
    _check_exists(path, field=field)
    path = files.expand(path)
    if array_record.is_prepared(path):
        return _open_prepared(path, class_names=class_names)
    if path.is_dir():
        return _open_listing(list_folder(path), class_names=class_names)
    _check_zip(path, field=field)
    return _open_listing(list_zip(path), class_names=class_names)


def _open_prepared(path: pathlib.Path, *, class_names: tuple[str, ...] | None) -> Source:
    description, index, reader = array_record.open_folder(path)
    own = tuple(description["class_names"])
    if class_names is None and not index.records.training.any():
        raise UsageError(f"{path} has no images of Training: there is nothing to train on")
    present = np.unique(index.records.labels[index.records.training if class_names is None else slice(None)]).tolist()
    wanted = class_names or tuple(own[label] for label in present)
    if wanted != own:
        number = np.full(len(own), -1, np.int32)
        number[present] = array_record.map_classes([own[label] for label in present], wanted, where=str(path))
        labels = number[index.records.labels]
        if (labels < 0).any():
            absent = own[int(index.records.labels[labels < 0][0])]
            raise UsageError(f"{path}: {absent!r} in Testing is none of the classes {', '.join(wanted)} of Training")
        index = dataclasses.replace(index, records=dataclasses.replace(index.records, labels=labels))
    table, name = GroupsTable({}, {}), path / groups_table.FILE
    if name.exists() and len(index) <= splits.MAX_COMPARED:  # larger sets have this in the index
        table = groups_table.parse(name.read_bytes(), name=str(name))
    return Source(
        description=f"{description['description']}, prepared in {path}",
        class_names=wanted,
        records=index.records,
        groups=table.groups,
        patients=table.patients,
        read=reader,
        synthetic=description["synthetic"],
        divided=description["divided"],
        index=index,
    )


def _open_listing(listing: Listing, *, class_names: tuple[str, ...] | None) -> Source:
    """Opens a folder or zip of class folders."""
    layout = folder_layout.find_layout(listing, class_names=class_names)
    where = f"{listing.title}/{layout.root}".rstrip("/")
    warnings = [*listing.warnings, *layout.warnings]
    if class_names is None:
        class_names, number = _list_training_classes(layout, where=where)
        warnings += [
            f"{where}/{folder.path} is empty: {folder.name} is not evaluated"
            for folder in layout.empty
            if folder.split == TESTING
        ]
        missing = [name for name in class_labels.BRAIN_TUMOR_CLASSES if name not in class_names]
        if set(class_names) < set(class_labels.BRAIN_TUMOR_CLASSES):
            warnings.append(
                f"{where} has no images of {', '.join(missing)}: the classes are {', '.join(class_names)} alone"
            )
        if all(folder.split == TRAINING for folder in layout.folders):
            warnings.append(
                f"{where} has no Testing folder with class folders: the report covers the validation images only"
            )
    else:
        number = {name: i for i, name in enumerate(class_names)}
    number = _number_folders(layout, number, class_names, where=where)
    label = {file: (number[folder.name], folder.split) for folder in layout.folders for file in folder.files}
    repeated = listing.find_repeated([layout.root + path for path in label])
    if repeated:
        warnings.append(
            f"links in {listing.title} to images that are counted already ({len(repeated)}), such as {min(repeated)}: "
            f"left out"
        )
    records = tuple(Record(path, *label[path]) for path in sorted(label) if layout.root + path not in repeated)
    table = _read_groups(listing, layout, [record.path for record in records])
    return Source(
        description=f"{listing.kind} {listing.title}",
        class_names=class_names,
        records=records,
        groups=table.groups,
        patients=table.patients,
        read=lambda path: listing.read(layout.root + path),
        warnings=(*warnings, *table.warnings),
        divided=layout.divided,
    )


def _read_groups(listing: Listing, layout: Layout, paths: Sequence[str]) -> GroupsTable:
    """Reads the `groups.csv` beside the class folders' root, or beside one of the folders around that."""
    tables = {path.lower(): path for path in listing.names if groups_table.is_name_of_table(path)}
    parts = layout.root.split("/")[:-1]
    for depth in range(len(parts), -1, -1):
        folder = "".join(f"{part}/" for part in parts[:depth])
        path = tables.get((folder + groups_table.FILE).lower())
        if path:
            name, prefix = f"{listing.title}/{path}", layout.root.removeprefix(folder)
            return groups_table.parse(listing.read(path), name=name, paths=paths, prefix=prefix)
    warnings = [
        f"{listing.title}/{path} is not used: move it to {listing.title}/{layout.root}, with paths from there"
        for path in sorted(tables.values())[:1]
    ] or [
        f"{listing.title}/{path} is not used: save it as {groups_table.FILE}, a table of text with commas"
        for path in sorted(filter(groups_table.is_like_table, listing.names))[:1]
    ]
    return GroupsTable({}, {}, tuple(warnings))


def _list_training_classes(layout: Layout, *, where: str) -> tuple[tuple[str, ...], dict[str, int]]:
    for folder in layout.empty:
        if folder.split == TRAINING and folder.below:
            raise UsageError(
                f"{where}/{folder.path} holds its images in folders of its own, such as {folder.below}: move them "
                f"directly into {folder.path}"
            )
        if folder.split == TRAINING:
            raise UsageError(f"{where}/{folder.path} is an empty class folder: put images there or remove it")
    training = {folder.name for folder in layout.folders if folder.split == TRAINING}
    if not training:
        raise UsageError(f"{where} has no images in Training/<class>/: there is nothing to train on")
    return class_labels.map_folders_to_classes(training)


def _number_folders(
    layout: Layout, number: dict[str, int], class_names: tuple[str, ...], *, where: str
) -> dict[str, int]:
    """Returns the class number of every folder; Testing folders may be aliases."""
    known = {class_names[i]: i for i in sorted(number.values())}
    number = dict(number)
    for folder in layout.folders:
        if folder.name not in number:
            name = class_labels.canonicalise(folder.name)
            if name not in known:
                raise UsageError(f"{where}/{folder.path}: {folder.name!r} is none of the classes {', '.join(known)}")
            number[folder.name] = known[name]
    return number

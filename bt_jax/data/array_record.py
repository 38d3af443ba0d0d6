"""Prepared data sets: images in ArrayRecord files, with an index. The only module that imports tensorflow-datasets.

A prepared folder is a data set of tensorflow-datasets with the splits `train` and `test`, which
`tfds.builder_from_directory` can open. Each record holds the bytes of an image file, with label, path, group, patient,
size and hashes. The folder also contains `index/` (the records without the images, as memory-mapped arrays),
`groups.csv` and `bt_jax.json`.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bt_jax.common import files, locks
from bt_jax.common.errors import UsageError
from bt_jax.data import class_labels, fingerprints, groups_table, kaggle_patients, splits
from bt_jax.data.io.decode import ImageError, decode_image
from bt_jax.data.records import Index, Records, Source, StringArray, factorize

DESCRIPTION_FILE = "bt_jax.json"
SCHEMA = 1
_BLOCK = 1024  # images whose facts are stored in one file; an interrupted conversion loses at most one block
_NAME, _VERSION = "images", "1.0.0"


class ArrayRecordReader:
    """Reads the image files of a prepared folder by path or row. Thread-safe, and can be pickled."""

    def __init__(self, folder: pathlib.Path, records: Records):
        self._folder, self._records = folder, records
        self._lock = threading.Lock()
        self._sources: dict[bool, Any] = {}
        # The position of each row in its split.
        self._places = np.where(records.training, np.cumsum(records.training), np.cumsum(~records.training)) - 1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_sources": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __call__(self, path: str) -> bytes:
        """Returns the bytes of the image file with a path."""
        row = self._records.paths.find(path)
        if row is None:
            raise FileNotFoundError(f"{path} is not in {self._folder}")
        return self.read_row(row)

    def read_row(self, row: int) -> bytes:
        """Returns the bytes of the image file in a row."""
        training = bool(self._records.training[row])
        source = self._sources.get(training)
        if source is None:
            with self._lock:
                source = self._sources.setdefault(training, _open_data_source(self._folder, training=training))
        record = source[int(self._places[row])]
        if record["path"].decode() != self._records.paths[row]:
            raise OSError(f"{self._folder} is damaged: row {row} holds {record['path'].decode()}: prepare it again")
        return bytes(record["image"])


def _open_data_source(folder: pathlib.Path, *, training: bool) -> Any:
    tfds = _import_tfds()
    builder = tfds.builder_from_directory(str(folder))
    # The decoder of tensorflow-datasets wraps 16-bit images modulo 256.
    return builder.as_data_source("train" if training else "test", decoders={"image": tfds.decode.SkipDecoding()})


def _import_tfds() -> Any:
    import tensorflow_datasets as tfds  # the import takes half a second

    tfds.disable_progress_bar()
    return tfds


def is_prepared(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds a prepared data set."""
    return (folder / DESCRIPTION_FILE).is_file()


def open_folder(folder: pathlib.Path) -> tuple[dict[str, Any], Index, ArrayRecordReader]:
    """Opens a prepared folder: its description, index and reader.

    Raises:
      UsageError: the folder is incomplete, or from another version.
    """
    files.check_utf8(folder)
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_bytes())
        if description.get("schema") != SCHEMA:
            raise UsageError(f"{folder} was prepared by another version of bt_jax: prepare it again")
        index = Index.load(folder / "index", grouping=description["grouping"])
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder} is damaged ({type(error).__name__}: {error}): prepare it again") from None
    return description, index, ArrayRecordReader(folder, index.records)


def map_classes(names: Sequence[str], class_names: Sequence[str], *, where: str) -> np.ndarray:
    """Maps the classes of a data set to class numbers in `class_names`.

    Raises:
      UsageError: a class is not in `class_names`.
    """
    found = [name if name in class_names else class_labels.canonicalise(name) for name in names]
    for name, known in zip(names, found, strict=True):
        if known not in class_names:
            raise UsageError(f"{where}: {name!r} is none of the classes {', '.join(class_names)}")
    return np.array([class_names.index(known) for known in found], np.int32)


def prepare(
    source: Source,
    out: pathlib.Path,
    *,
    max_unreadable: int,
    warn: Callable[[str], None],
    progress: Callable[[int, int], None],
    threads: int | None = None,
) -> dict[str, Any]:
    """Writes a prepared folder, under a temporary name until it is complete.

    After an interruption, the next call reuses the facts about the images and writes the records again. If `out` is
    already prepared from images with the same names, nothing is done.

    Args:
      source: the images.
      out: the folder; it must be absent, empty, or prepared from the same images with the same classes.
      max_unreadable: number of unreadable files that may be left out.
      warn: called with one line for each file left out.
      progress: called with the number of images decoded, and the number of all.
      threads: number of decoding threads; None is one per core.

    Returns:
      The content of `bt_jax.json`.

    Raises:
      UsageError: `out` is something else, another process is preparing it, or too many files are unreadable.
    """
    files.check_utf8(out)
    made_from = _hash_names(source)
    if is_prepared(out):
        found = open_folder(out)[0]
        if found["made_from"] == made_from:
            return found
        before, now = (", ".join(names) for names in (found["class_names"], source.class_names))
        other = "from other images" if before == now else f"with the classes {before}, and the images have {now}"
        raise UsageError(f"{out} is prepared {other}: remove it, or choose another --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not a prepared data set: remove it, or choose another --out")
    making = out.with_name(f".{out.name}.preparing")
    with _lock(making):
        decoded = _inspect_all(making / f"facts-{made_from[:16]}", source, progress=progress, threads=threads)
        if len(decoded.unreadable) > max_unreadable:
            first = "; ".join(decoded.unreadable[:10])
            raise UsageError(
                f"{len(decoded.unreadable)} of {len(source.records)} files are not readable images, "
                f"but --max_unreadable allows {max_unreadable}: {first}"
            )
        for line in decoded.unreadable:
            warn(f"left out: {line}")
        index = _build_index(decoded, source, warn=warn)
        _write_records(making, index, decoded.hashes, source)
        data = making / _NAME / _VERSION
        index.save(data / "index")
        groups, patients = source.groups, source.patients
        if groups or patients:
            rows = [(path, groups.get(path, ""), patients.get(path, "")) for path in sorted({**groups, **patients})]
            files.write_csv(data / groups_table.FILE, ("path", "group", "patient"), rows)
        content = {
            "schema": SCHEMA,
            "description": source.description,
            "class_names": list(source.class_names),
            "synthetic": source.synthetic,
            "divided": source.divided,
            "grouping": index.grouping,
            "images": len(index),
            "made_from": made_from,
        }
        files.write_json(data / DESCRIPTION_FILE, content)
        if out.exists():
            out.rmdir()  # it is empty
        data.rename(out)
        shutil.rmtree(making)
    return content


def _hash_names(source: Source) -> str:
    """Returns a hash that identifies the images of a source by names, labels and splits."""
    digest = hashlib.sha256(json.dumps([SCHEMA, *source.class_names]).encode())
    for record in source.records:
        digest.update(f"{record.path}\0{record.label}\0{record.split}\0".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"another process is preparing {folder}: wait for it, or choose another --out"
    with locks.lock(folder / "lock", busy=busy):
        yield


class _DecodedFacts:
    """Facts from decoding the images: `rows` are the readable ones, and the columns have an entry for each of these."""

    def __init__(self, blocks: Sequence[Mapping[str, np.ndarray]]):
        self.rows, self.prints, self.hashes, self.sizes = (
            np.concatenate([block[name] for block in blocks]) for name in ("rows", "prints", "hashes", "sizes")
        )
        self.thumbnails = [block["thumbnails"] for block in blocks]
        self.unreadable = [str(line) for block in blocks for line in block["unreadable"].tolist()]


def _inspect_all(
    folder: pathlib.Path, source: Source, *, progress: Callable[[int, int], None], threads: int | None
) -> _DecodedFacts:
    """Decodes each image once, except blocks that an interrupted conversion has finished."""
    records = source.records
    blocks = []
    size = fingerprints.THUMBNAIL_SIZE
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for start in range(0, len(records), _BLOCK):
            path = folder / f"{start}.npz"
            part = [records[row] for row in range(start, min(start + _BLOCK, len(records)))]
            if not path.exists():
                found = list(pool.map(lambda record: _inspect_file(source.read, record.path), part))
                good = [(start + row, facts) for row, facts in enumerate(found) if not isinstance(facts, str)]
                block = {
                    "rows": np.array([row for row, _ in good], np.int64),
                    "prints": np.array([facts[0] for _, facts in good], "S32"),
                    "hashes": np.array([facts[1] for _, facts in good], "S64"),
                    "sizes": np.array([facts[2] for _, facts in good], np.int32).reshape(-1, 2),
                    "thumbnails": np.array([facts[3] for _, facts in good], np.uint8).reshape(-1, 2, size, size),
                    "unreadable": np.array([facts for facts in found if isinstance(facts, str)], str),
                }
                with files.replace_atomically(path) as temporary:
                    np.savez(temporary, allow_pickle=False, **block)
            with np.load(path, allow_pickle=False) as content:
                blocks.append({name: content[name] for name in content.files})
            if len(records) > splits.MAX_COMPARED:
                blocks[-1]["thumbnails"] = blocks[-1]["thumbnails"][:0]
            progress(min(start + _BLOCK, len(records)), len(records))
    return _DecodedFacts(blocks)


def _inspect_file(read: Callable[[str], bytes], path: str) -> tuple[str, str, tuple[int, ...], np.ndarray] | str:
    try:
        content = read(path)
        image = decode_image(content, name=path)
    except (ImageError, OSError) as error:
        return str(error)
    hash_ = hashlib.sha256(content).hexdigest()
    return fingerprints.fingerprint(image), hash_, image.shape[::-1], fingerprints.make_thumbnails(image)


def _build_index(decoded: _DecodedFacts, source: Source, *, warn: Callable[[str], None]) -> Index:
    kept = Records.from_rows(source.records[row] for row in decoded.rows.tolist())
    prints = StringArray(decoded.prints)
    training = np.flatnonzero(kept.training)
    paths = list(kept.paths[training])
    compared = len(source.records) <= splits.MAX_COMPARED
    if not compared:
        warn(f"{len(kept):,} images are too many for a near-duplicate search: groups.csv should name all patients")
    thumbnails = np.concatenate(decoded.thumbnails)
    names, grouping = splits.group_images(
        paths=paths,
        fingerprints=list(prints[training]),
        thumbnails=thumbnails[training] if compared else thumbnails,
        table=source.groups,
        similar=None if compared else (),
    )
    group_numbers, group_names = factorize(names)
    all_groups = np.full(len(kept), -1, np.int32)
    all_groups[training] = group_numbers
    known = kaggle_patients.load_patients()
    patients = (
        source.patients.get(path, known.get(print_, "")) for path, print_ in zip(kept.paths, prints, strict=True)
    )
    patient_numbers, patient_names = factorize(patients)
    return Index(
        records=kept,
        groups=all_groups,
        group_names=group_names,
        patients=patient_numbers,
        patient_names=patient_names,
        fingerprints=prints,
        sizes=decoded.sizes,
        thumbnails=thumbnails,
        grouping=grouping,
    )


def _write_records(folder: pathlib.Path, index: Index, hashes: np.ndarray, source: Source) -> None:
    """Writes the tensorflow-datasets data set below a folder, and replaces an incomplete one."""
    tfds = _import_tfds()
    shutil.rmtree(folder / _NAME, ignore_errors=True)
    builder = _make_builder(tfds, index, hashes, source, data_dir=str(folder))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints lines about downloads
        builder.download_and_prepare()


def _make_builder(tfds: Any, index: Index, hashes: np.ndarray, source: Source, *, data_dir: str) -> Any:
    def generate_examples(training: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        for place, row in enumerate(np.flatnonzero(index.records.training == training).tolist()):
            record = index.records[row]
            content = source.read(record.path)
            if hashlib.sha256(content).hexdigest() != hashes[row].decode():
                raise UsageError(f"{record.path} has changed since it was decoded: start again")
            group, patient = int(index.groups[row]), int(index.patients[row])
            width, height = index.sizes[row].tolist()
            yield (
                place,
                {
                    "image": content,
                    "label": record.label,
                    "path": record.path,
                    "group": index.group_names[group] if group >= 0 else "",
                    "patient": index.patient_names[patient] if patient >= 0 else "",
                    "sha256": hashes[row].decode(),
                    "fingerprint": index.fingerprints[row],
                    "width": width,
                    "height": height,
                },
            )

    class Images(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[misc, name-defined, call-arg]
        """Images in class folders, as bt_jax reads them."""

        name = _NAME
        VERSION = tfds.core.Version(_VERSION)

        def _info(self) -> Any:
            texts = {name: tfds.features.Text() for name in ("path", "group", "patient", "sha256", "fingerprint")}
            features = {
                "image": tfds.features.Image(shape=(None, None, None)),
                "label": tfds.features.ClassLabel(names=list(source.class_names)),
                "width": np.int32,
                "height": np.int32,
                **texts,
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description="Images in class folders, prepared by bt_jax.",
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,  # rows stay sorted by path
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            there = [training for training in (False, True) if (index.records.training == training).any()]
            return {"train" if training else "test": generate_examples(training) for training in there}

        def _generate_examples(self) -> Any:
            raise NotImplementedError("the split generators yield the examples")

    return Images(data_dir=data_dir, file_format="array_record")

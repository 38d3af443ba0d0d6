"""Inspection of every file of a source: fingerprint and thumbnails, unusual properties, and cues to the class.

Each file is read once. Decoded images are not kept; the facts about an image take some 9 kB.
"""

import concurrent.futures
import dataclasses
import io
import itertools
import os
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image

from bt_jax.data import fingerprints, preprocess
from bt_jax.data.io.decode import IMAGE_SUFFIXES, ImageError, decode_image
from bt_jax.data.sources import Record, Source

# Properties without medical meaning that may predict the class, in the order of `Inspection.cues`.
CUES = ("width", "height", "aspect", "border", "brightness")
CUE_UNITS = {
    "width": "pixels",
    "height": "pixels",
    "aspect": "width / height",
    "border": "%",
    "brightness": "grey levels",
}

# The kinds of unusual files, in the order of reports, and their meanings.
ODDITIES = {
    "colour": "colour pixels",
    "deep": "16 bits or more a pixel",
    "alpha": "an alpha channel, composited over black",
    "animated": "several frames, of which the first is used",
    "tiny": "a side shorter than 64 pixels",
    "elongated": "one side more than twice as long as the other",
    "extension": "content in another format than the file name says",
    "turned": "rotated or mirrored by its EXIF orientation",
    "flat": "nearly constant pixels",
    "damaged": "a readable image in an otherwise damaged file",
}
_SHORTEST_SIDE = 64
_LARGEST_ASPECT = 2.0
_GREY_TOLERANCE = 8  # grey levels between channels of a reduced image; JPEG compression of grey makes less
_FLAT = 2.0  # standard deviation in grey levels
_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp"},
    "PNG": {".png"},
    "BMP": {".bmp", ".dib"},
    "DIB": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "PPM": {".pgm", ".ppm", ".pnm", ".pbm"},
}
_LONGER_SIDE = 256  # pixels, of the copy in which the head is searched
_IN_FLIGHT = 64  # files queued or being read; bounds the memory for any number of files


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Facts about all readable images, and the unreadable files.

    Attributes:
      records: path, label and split.
      fingerprints: [N] hexadecimal hashes of the decoded pixels.
      thumbnails: [N, 2, 64, 64] uint8.
      cues: [N, 5] float32, see `CUES`.
      oddities: [N] sets of kinds of `ODDITIES`.
      unreadable: record and reason.
    """

    records: tuple[Record, ...]
    fingerprints: tuple[str, ...]
    thumbnails: np.ndarray
    cues: np.ndarray
    oddities: tuple[frozenset[str], ...]
    unreadable: tuple[tuple[Record, str], ...]


def inspect(
    source: Source, *, progress: Callable[[int, int], None] = lambda done, total: None, threads: int | None = None
) -> Inspection:
    """Reads all files of a source, in parallel, and lists those that cannot be read.

    Args:
      source: the files.
      progress: called with the number of files read, and the number of all.
      threads: number of threads; None is one per core.
    """
    total = len(source.records)
    size = fingerprints.THUMBNAIL_SIZE
    thumbnails = np.empty((total, 2, size, size), np.uint8)
    cues = np.empty((total, len(CUES)), np.float32)
    kept: list[Record] = []
    hashes: list[str] = []
    oddities: list[frozenset[str]] = []
    unreadable: list[tuple[Record, str]] = []
    with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        left = iter(source.records)
        waiting = [
            (record, pool.submit(_inspect_file, source, record)) for record in itertools.islice(left, _IN_FLIGHT)
        ]
        for done in range(1, total + 1):
            record, future = waiting.pop(0)
            waiting += [
                (following, pool.submit(_inspect_file, source, following)) for following in itertools.islice(left, 1)
            ]
            look = future.result()
            if isinstance(look, str):
                unreadable.append((record, look))
            else:
                thumbnails[len(kept)], cues[len(kept)] = look.thumbnails, look.cues
                hashes.append(look.fingerprint)
                oddities.append(look.oddities)
                kept.append(record)
            progress(done, total)
    return Inspection(
        tuple(kept), tuple(hashes), thumbnails[: len(kept)], cues[: len(kept)], tuple(oddities), tuple(unreadable)
    )


@dataclasses.dataclass(frozen=True)
class _FileFacts:
    fingerprint: str
    thumbnails: np.ndarray
    cues: tuple[float, ...]
    oddities: frozenset[str]


def _inspect_file(source: Source, record: Record) -> _FileFacts | str:
    """Returns the facts about a file, or the reason why it cannot be read."""
    try:
        content = source.read(record.path)
        image = decode_image(content, name=record.path)
    except ImageError as error:
        return str(error).removeprefix(f"{record.path}: ")
    except OSError as error:
        return error.strerror or str(error).removeprefix(f"{record.path}: ")
    return _FileFacts(
        fingerprints.fingerprint(image),
        fingerprints.make_thumbnails(image),
        measure_cues(image),
        find_oddities(content, image, name=record.path),
    )


def measure_cues(image: np.ndarray) -> tuple[float, ...]:
    """Measures the `CUES` of a decoded image [H, W].

    The border is the share of the frame outside of the head's bounding box, in percent. The brightness is the mean
    pixel on a scale from 0 to 255.
    """
    height, width = image.shape
    scaled = image if image.dtype == np.uint8 else (image / max(int(image.max()), 1) * 255).astype(np.uint8)
    frame = Image.fromarray(scaled)
    if max(frame.size) > _LONGER_SIDE:
        scale = _LONGER_SIDE / max(frame.size)
        frame = frame.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX)
    (left, top, right, bottom), _ = preprocess.find_head(frame, margin=0.0)
    border = 100 * (1 - (right - left) * (bottom - top) / (frame.width * frame.height))
    brightness = float(image.mean()) * 255 / np.iinfo(image.dtype).max
    return width, height, width / height, max(0.0, border), brightness


def find_oddities(content: bytes, image: np.ndarray, *, name: str) -> frozenset[str]:
    """Returns the kinds of `ODDITIES` of a readable file; `image` [H, W] are its decoded pixels."""
    found = set()
    # The first frame was decoded already; on the rest of the file Pillow may raise nearly any exception.
    try:
        with Image.open(io.BytesIO(content)) as file:
            found |= _find_file_oddities(file, suffix=pathlib.PurePosixPath(name).suffix.lower())
    except Exception:
        found.add("damaged")
    if image.dtype != np.uint8:
        found.add("deep")
    height, width = image.shape
    if min(height, width) < _SHORTEST_SIDE:
        found.add("tiny")
    if max(height, width) > _LARGEST_ASPECT * min(height, width):
        found.add("elongated")
    if float(image.std()) * 255 / np.iinfo(image.dtype).max < _FLAT:
        found.add("flat")
    return frozenset(found)


def _find_file_oddities(file: Image.Image, *, suffix: str) -> set[str]:
    found = set()
    if suffix not in _SUFFIXES.get(file.format or "", IMAGE_SUFFIXES):
        found.add("extension")
    if getattr(file, "n_frames", 1) > 1:
        found.add("animated")
    if file.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in file.info:
        found.add("alpha")
    if file.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        found.add("turned")
    if file.mode not in ("L", "1", "LA", "La", "I", "F") and not file.mode.startswith("I;16") and _is_coloured(file):
        found.add("colour")
    return found


def _is_coloured(file: Image.Image) -> bool:
    """Returns whether channels differ by more than compression of a grey image explains, in a reduced first frame."""
    file.seek(0)
    if file.format == "JPEG" and file.mode == "RGB":
        file.draft("RGB", (64, 64))
    small = file.convert("RGB")
    small.thumbnail((64, 64), Image.Resampling.BOX)
    red, green, blue = (np.asarray(channel, np.int16) for channel in small.split())
    apart = np.maximum(np.abs(red - green), np.abs(green - blue))
    return bool(np.percentile(apart, 99) > _GREY_TOLERANCE)

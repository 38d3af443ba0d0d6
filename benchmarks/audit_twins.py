"""Measures how well the audit finds altered copies of images, and its duration by number of images.

    python benchmarks/audit_twins.py --data=DIR --json=benchmarks/audit_twins.json
    python benchmarks/audit_twins.py --data=DIR --scale=3133,10000 --json=benchmarks/audit_scale.json

The first command alters images of DIR (a folder or zip in the Kaggle layout) in known ways, and searches the altered
copies among all images of DIR. The second one writes folders with that many altered copies of images of DIR, and
audits them.
"""

import argparse
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from bt_jax.audit import inspection
from bt_jax.common import files
from bt_jax.data import fingerprints, sources
from bt_jax.data.dedup import near_duplicates
from bt_jax.data.io.decode import decode_image

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def resize(scale: float) -> Change:
    """Resizes both sides by a factor."""

    def change(image: Image.Image, _: np.random.Generator) -> Image.Image:
        return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)

    return change


def compress_jpeg(quality: int) -> Change:
    """Compresses as JPEG."""

    def change(image: Image.Image, _: np.random.Generator) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.fromarray(decode_image(buffer.getvalue(), name="copy"))

    return change


def crop(share: float) -> Change:
    """Crops up to a fraction of width and height, from both sides in a random proportion."""

    def change(image: Image.Image, generator: np.random.Generator) -> Image.Image:
        left, right = image.width * generator.uniform(0, share / 2, 2)
        top, bottom = image.height * generator.uniform(0, share / 2, 2)
        return image.crop((round(left), round(top), round(image.width - right), round(image.height - bottom)))

    return change


def add_border(share: float) -> Change:
    """Adds a black border of up to a fraction of a side."""

    def change(image: Image.Image, generator: np.random.Generator) -> Image.Image:
        left, top, right, bottom = (round(image.width * generator.uniform(0, share)) for _ in range(4))
        wide = Image.new("L", (image.width + left + right, image.height + top + bottom))
        wide.paste(image, (left, top))
        return wide

    return change


def rotate(degrees: float) -> Change:
    """Rotates by an angle in a random direction."""

    def change(image: Image.Image, generator: np.random.Generator) -> Image.Image:
        return image.rotate(degrees * generator.choice([-1, 1]), Image.Resampling.BICUBIC)

    return change


def reorient(orientation: int) -> Change:
    """Rotates by a multiple of 90 degrees, mirrors, or both."""

    def change(image: Image.Image, _: np.random.Generator) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(near_duplicates.reorient(np.asarray(image), orientation)))

    return change


def adjust_tone(gain: float = 1, offset: float = 0, gamma: float = 1) -> Change:
    """Changes contrast, brightness or gamma."""

    def change(image: Image.Image, _: np.random.Generator) -> Image.Image:
        values = 255 * (np.asarray(image, np.float32) / 255) ** gamma * gain + offset
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))

    return change


def chain(*changes: Change) -> Change:
    """Applies all changes, one after the other."""

    def change(image: Image.Image, generator: np.random.Generator) -> Image.Image:
        for each in changes:
            image = each(image, generator)
        return image

    return change


CHANGES: dict[str, Change] = {
    "resized to 25 %": resize(0.25),
    "resized to 60 %": resize(0.6),
    "resized to 150 %": resize(1.5),
    "JPEG quality 20": compress_jpeg(20),
    "JPEG quality 50": compress_jpeg(50),
    "cropped by up to 5 %": crop(0.05),
    "cropped by up to 10 %": crop(0.1),
    "cropped by up to 20 %": crop(0.2),
    "border of up to 15 % a side": add_border(0.15),
    "turned by 3 degrees": rotate(3),
    "turned by 6 degrees": rotate(6),
    "turned by 10 degrees": rotate(10),
    "turned by 15 degrees": rotate(15),
    "rotated by 90 degrees": reorient(1),
    "rotated by 180 degrees": reorient(2),
    "rotated by 270 degrees": reorient(3),
    "mirrored": reorient(4),
    "mirrored, rotated by 90 degrees": reorient(5),
    "contrast 150 %, clipped": adjust_tone(gain=1.5, offset=-20),
    "contrast 40 %, brighter": adjust_tone(gain=0.4, offset=60),
    "gamma 0.7": adjust_tone(gamma=0.7),
    "gamma 1.5": adjust_tone(gamma=1.5),
    "60 %, cropped by up to 5 %, JPEG 50": chain(resize(0.6), crop(0.05), compress_jpeg(50)),
    "mirrored, 60 %, JPEG 50": chain(reorient(4), resize(0.6), compress_jpeg(50)),
}


def open_image(source: sources.Source, path: str) -> Image.Image:
    """Opens an image in 8 bits, decoded as in the audit."""
    image = decode_image(source.read(path), name=path)
    return Image.fromarray(image if image.dtype == np.uint8 else (image // 257).astype(np.uint8))


def measure_accuracy(data: str, count: int) -> list[dict[str, object]]:
    """Returns a row for each change: recall over `count` images, and precision over the pairs found."""
    source = sources.open_path(data, field="--data")
    originals = inspection.inspect(source)
    among_themselves = near_duplicates.find_near_duplicates(originals.thumbnails)
    pairs = zip(among_themselves.first.tolist(), among_themselves.second.tolist(), strict=True)
    same = [pair for pair, is_duplicate in zip(pairs, among_themselves.is_duplicate, strict=True) if is_duplicate]
    same += near_duplicates.pair_equal_values(originals.fingerprints)
    cluster = near_duplicates.find_components(len(originals.records), same)
    chosen = np.random.default_rng(0).choice(len(originals.records), min(count, len(originals.records)), replace=False)
    rows: list[dict[str, object]] = []
    for name, change in CHANGES.items():
        generator = np.random.default_rng(1)
        copies = np.stack([
            fingerprints.make_thumbnails(np.asarray(change(open_image(source, originals.records[k].path), generator)))
            for k in chosen
        ])  # fmt: skip
        found = near_duplicates.list_near_duplicates(copies, originals.thumbnails)
        right = cluster[chosen[found[:, 0]]] == cluster[found[:, 1]]
        recall = len(set(found[right, 0].tolist())) / len(chosen)
        rows.append({"change": name, "recall": recall, "precision": float(right.mean()) if len(right) else None})
        print(f"{name:40} recall {recall:.3f}, precision {rows[-1]['precision']}, {len(found)} pairs")
    return rows


def measure_scale(data: str, counts: list[int]) -> list[dict[str, object]]:
    """Returns a row for each number of images: seconds and peak memory of a whole audit."""
    source = sources.open_path(data, field="--data")
    changes = list(CHANGES.values())
    rows: list[dict[str, object]] = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            generator = np.random.default_rng(0)
            for k in range(count):
                record = source.records[k % len(source.records)]
                image = open_image(source, record.path)
                if k >= len(source.records):
                    image = changes[generator.integers(len(changes))](image, generator)
                parts = pathlib.PurePosixPath(record.path)
                path = pathlib.Path(folder, "images", *parts.parts[:-1], f"{k} {parts.stem}.jpg")
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path, quality=90)
            started = time.monotonic()
            command = [sys.executable, "-m", "bt_jax.audit", f"--data={folder}/images", f"--out={folder}/out"]
            process = subprocess.Popen(command)
            _, status, used = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"the audit of {count} images failed")
            rows.append({
                "images": count,
                "seconds": round(time.monotonic() - started, 1),
                "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
                "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            })  # fmt: skip
            print(rows[-1])
    return rows


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder or zip in the Kaggle layout")
    parser.add_argument("--json", required=True, help="file for the table")
    parser.add_argument("--images", type=int, default=300, help="number of images to alter in each way")
    parser.add_argument("--scale", default="", help="numbers of images to audit, such as 3000,10000")
    arguments = parser.parse_args()
    if arguments.scale:
        rows = measure_scale(arguments.data, [int(count) for count in arguments.scale.split(",")])
    else:
        rows = measure_accuracy(arguments.data, arguments.images)
    files.write_json(arguments.json, {"schema": 1, "rows": rows})


if __name__ == "__main__":
    main()

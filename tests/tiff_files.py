"""TIFF and PNG files of any kind of pixels in memory, written from the standards: Pillow writes few of them."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

_FORMATS = {"u": 1, "i": 2, "f": 3}


def tiff(
    values: np.ndarray,
    *,
    photometric: int = 1,
    order: str = "<",
    planes: bool = False,
    packed: bool = False,
    extra: Sequence[int] = (),
    colours: Sequence[int] = (),
    **more: int,
) -> bytes:
    """A TIFF file of one strip for each plane.

    Args:
      values: [H, W] or [H, W, samples].
      photometric: 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr.
      order: `<` or `>`.
      planes: whether each sample has a plane of its own.
      packed: whether the strips are compressed (deflate).
      extra: ExtraSamples.
      colours: ColorMap.
      **more: other tags of type SHORT, as `tag_339=4`.
    """
    height, width = values.shape[:2]
    stacked = values.reshape(height, width, -1)
    samples = stacked.shape[2]
    stored = stacked.astype(values.dtype.newbyteorder(order))
    strips = [np.ascontiguousarray(stored[..., k]).tobytes() for k in range(samples)] if planes else [stored.tobytes()]
    if packed:
        strips = [zlib.compress(strip) for strip in strips]
    shorts = {
        258: [values.dtype.itemsize * 8] * samples, 259: [8 if packed else 1], 262: [photometric], 277: [samples],
        284: [2 if planes else 1], 320: colours, 338: extra, 339: [_FORMATS[values.dtype.kind]] * samples,
    } | {int(name.removeprefix("tag_")): [value] for name, value in more.items()}  # fmt: skip
    offsets, place = [], 8
    for strip in strips:
        offsets.append(place)
        place += len(strip)
    longs = {256: [width], 257: [height], 273: offsets, 278: [height], 279: [len(strip) for strip in strips]}
    count = sum(1 for tag_values in (*shorts.values(), *longs.values()) if tag_values)
    beyond = place + 2 + 12 * count + 4
    entries, tail = [], b""
    for tag, kind, form, tag_values in sorted(
        [(tag, 3, "H", list(found)) for tag, found in shorts.items() if found]
        + [(tag, 4, "I", list(found)) for tag, found in longs.items()]
    ):
        content = struct.pack(f"{order}{len(tag_values)}{form}", *tag_values)
        if len(content) > 4:
            content, tail = struct.pack(order + "I", beyond + len(tail)), tail + content
        entries.append(struct.pack(order + "HHI", tag, kind, len(tag_values)) + content.ljust(4, b"\0"))
    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, place)
    return header + b"".join(strips) + struct.pack(order + "H", count) + b"".join(entries) + bytes(4) + tail


def png(values: np.ndarray, *, bits: int, colour: int = 0, transparent: Sequence[int] = ()) -> bytes:
    """A PNG file of [H, W] or [H, W, samples] values; `transparent` is what its chunk tRNS says."""
    height, width = values.shape[:2]
    if bits < 8:
        each = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        rows = np.packbits(each.reshape(height, -1), axis=1)
    else:
        rows = np.frombuffer(values.astype(f">u{bits // 8}").tobytes(), np.uint8).reshape(height, -1)
    filtered = np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes()

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    trns = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + trns + chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND", b"")

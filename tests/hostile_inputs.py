"""Files that nobody should be harmed by: damaged, mislabelled, enormous, odd. The same at every call.

    python -m tests.hostile_inputs FOLDER

writes them into a folder, to be tried with any program.
"""

import functools
import gzip
import io
import pathlib
import struct
import sys
import zipfile
import zlib

import numpy as np
from PIL import ExifTags, Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from tests import medical_files
from tests.tiff_files import tiff


def scan(height: int = 48, width: int = 64) -> np.ndarray:
    """A bright ellipse with some texture on black: [H, W] uint8."""
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    inside = rows**2 + columns**2 < 0.7
    return np.where(inside, 120 + 60 * np.sin(9 * rows) * np.cos(7 * columns), 4).astype(np.uint8)


def image(picture: Image.Image | None = None, kind: str = "PNG", **options: object) -> bytes:
    """The file of a picture, by default of `scan`."""
    buffer = io.BytesIO()
    (picture or Image.fromarray(scan())).save(buffer, format=kind, **options)
    return buffer.getvalue()


@functools.cache
def intact() -> dict[str, bytes]:
    """Files that can be read, of every kind, each odd in one way at most."""
    grey = Image.fromarray(scan())
    colour = Image.merge("RGB", (grey, grey.rotate(180), grey))
    deep = scan().astype(np.uint16) * 200
    made = {f"grey.{kind.lower()}": image(kind=kind) for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")}
    made |= {
        "colour.png": image(colour),
        "colour.jpg": image(colour, "JPEG"),
        "progressive.jpg": image(colour, "JPEG", progressive=True),
        "cmyk.jpg": image(colour.convert("CMYK"), "JPEG"),
        "cmyk.tif": image(colour.convert("CMYK"), "TIFF"),
        "ycbcr.tif": image(colour.convert("YCbCr"), "TIFF"),
        "lab.tif": image(Image.merge("LAB", (grey, grey, grey)), "TIFF"),
        "palette.png": image(colour.quantize(16)),
        "palette.gif": image(colour.quantize(16), "GIF"),
        "palette_transparent.png": image(colour.quantize(16), transparency=3),
        "alpha.png": image(colour.convert("RGBA")),
        "alpha.webp": image(colour.convert("RGBA"), "WEBP"),
        "grey_alpha.png": image(grey.convert("LA")),
        "bilevel.png": image(grey.convert("1")),
        "bilevel.tif": image(grey.convert("1"), "TIFF", compression="group4"),
        "deep.png": image(Image.fromarray(deep)),
        "deep.tif": image(Image.fromarray(deep), "TIFF"),
        "integers.tif": image(Image.fromarray(deep.astype(np.int32) - 9000), "TIFF"),
        "floats.tif": image(Image.fromarray(deep.astype(np.float32) / 7 - 99), "TIFF"),
        "not_a_number.tif": image(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"),
        "infinite.tif": image(Image.fromarray(np.array([[np.inf, 1], [0, -np.inf]], np.float32)), "TIFF"),
        "huge_floats.tif": image(Image.fromarray(np.array([[3e38, 1], [0, -3e38]], np.float32)), "TIFF"),
        "animated.gif": image(grey, "GIF", save_all=True, append_images=[grey.rotate(90 * k) for k in range(1, 4)]),
        "animated.webp": image(grey, "WEBP", save_all=True, append_images=[grey.rotate(180)]),
        "animated.png": image(grey, save_all=True, append_images=[grey.rotate(180)]),
        "pages.tif": image(grey, "TIFF", save_all=True, append_images=[grey.rotate(180)] * 3),
        "one_pixel.png": image(Image.new("L", (1, 1), 7)),
        "one_row.png": image(Image.new("L", (999, 1), 7)),
        "one_column.png": image(Image.new("L", (1, 999), 7)),
        "black.png": image(Image.new("L", (64, 64))),
        "white.png": image(Image.new("L", (64, 64), 255)),
        "interlaced_like.png": image(colour, optimize=True),
        "lzw.tif": image(grey, "TIFF", compression="tiff_lzw"),
        "deflate.tif": image(grey, "TIFF", compression="tiff_deflate"),
        "jpeg.tif": image(colour, "TIFF", compression="jpeg"),
        "text_chunk.png": _with_text(b"hidden message " * 50),
        "bad_exif.jpg": image(grey, "JPEG", exif=b"Exif\0\0nonsense"),
        "bad_profile.jpg": image(colour, "JPEG", icc_profile=b"no profile at all"),
        "more_after_the_end.png": image() + b"<script>alert(1)</script>" * 99,
        "more_after_the_end.jpg": image(kind="JPEG") + b"PK\x03\x04" + b"\0" * 999,
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        made[f"turned_{orientation}.jpg"] = image(grey, "JPEG", exif=exif)
    exif = Image.Exif()
    made |= {
        "inverted_deep.tif": tiff(deep, photometric=0),
        "signed_bytes.tif": tiff(scan().view(np.int8)),
        "big_endian_packed.tif": tiff(deep.astype(np.int32) - 9000, order=">", packed=True),
        "planes.tif": tiff(np.asarray(colour), photometric=2, planes=True),
        "deep.pgm": b"P5 64 48 65535\n" + deep.astype(">u2").tobytes(),
    }
    exif[ExifTags.Base.Orientation] = 77
    made["turned_77.jpg"] = image(grey, "JPEG", exif=exif)
    return made | _intact_dicom(deep, np.asarray(colour)) | _intact_nifti()


def _intact_dicom(deep: np.ndarray, colour: np.ndarray) -> dict[str, bytes]:
    dicom, grey = medical_files.dicom, scan()
    frames = np.stack([grey, grey[::-1], grey[:, ::-1]])
    shared, per_frame, window = Dataset(), [], Dataset()
    window.WindowCenter, window.WindowWidth = 128, 256
    shared.FrameVOILUTSequence = [window]
    for number in range(3):
        item, values = Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept = number + 1, -5
        item.PixelValueTransformationSequence = [values]
        per_frame.append(item)
    bare = dicom(grey)
    made = {
        "plain.dcm": bare,
        "deep.dcm": dicom(deep),
        "signed.dcm": dicom(deep.astype(np.int16) - 999),
        "long.dcm": dicom(deep.astype(np.uint32) * 1000),
        "rescaled.dcm": dicom(deep, RescaleSlope="0.37", RescaleIntercept="-1024"),
        "zero_slope.dcm": dicom(deep, RescaleSlope="0", RescaleIntercept="-1024"),
        "negative_slope.dcm": dicom(deep, RescaleSlope="-1", RescaleIntercept="0"),
        "window.dcm": dicom(deep, WindowCenter=20000, WindowWidth=30000),
        "windows.dcm": dicom(deep, WindowCenter=[20000, 1], WindowWidth=[30000, 2]),
        "window_of_one.dcm": dicom(deep, WindowCenter=20000, WindowWidth=1),
        "window_of_nothing.dcm": dicom(deep, WindowCenter=20000, WindowWidth=0),
        "negative_window.dcm": dicom(deep, WindowCenter=20000, WindowWidth=-5),
        "window_elsewhere.dcm": dicom(deep, WindowCenter=-9999, WindowWidth=10),
        "sigmoid.dcm": dicom(deep, WindowCenter=20000, WindowWidth=30000, VOILUTFunction="SIGMOID"),
        "exact.dcm": dicom(deep, WindowCenter=20000, WindowWidth=30000, VOILUTFunction="LINEAR_EXACT"),
        "inverted.dcm": dicom(255 - grey, PhotometricInterpretation="MONOCHROME1"),
        "inverted_deep.dcm": dicom(60000 - deep, PhotometricInterpretation="MONOCHROME1"),
        "frames.dcm": dicom(frames, frames=3),
        "enhanced.dcm": dicom(
            frames, frames=3, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=per_frame
        ),
        "colour.dcm": dicom(colour),
        "planes.dcm": dicom(colour, PlanarConfiguration=1),
        "padded.dcm": dicom(np.where(deep < 999, -2000, deep.astype(np.int16)), PixelPaddingValue=-2000),
        "chest.dcm": dicom(grey, Modality="CT", BodyPartExamined="CHEST"),
        "implicit.dcm": dicom(grey, syntax="1.2.840.10008.1.2"),
        "voi_table.dcm": dicom(grey, VOILUTSequence=[medical_files.table(np.arange(256) ** 2, first=0, bits=16)]),
        "modality_table.dcm": dicom(
            grey, ModalityLUTSequence=[medical_files.table(np.arange(256)[::-1] * 16, first=0, bits=12)]
        ),
        "no_preamble.dcm": bare[132:],
        "tiff_in_the_preamble.dcm": image(kind="TIFF")[:128].ljust(128, b"\0") + bare[128:],
        "no_extension": bare,
        "a_picture_by_its_name.jpg": bare,
    }
    undefined = medical_files.dataset(grey, VOILUTSequence=[medical_files.table(np.arange(256), first=0, bits=8)])
    undefined["VOILUTSequence"].is_undefined_length = True
    made |= {
        "sequences_of_undefined_length.dcm": medical_files.encoded(undefined),
        "elongated.dcm": dicom(grey, PixelSpacing=[1, 2]),
        "elongated_without_end.dcm": dicom(grey, PixelAspectRatio=[1, 2_000_000_000]),
        "dose.dcm": dicom(grey, Modality="RTDOSE", SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2"),
        "plain.dcm.gz": gzip.compress(bare, mtime=0),
    }
    made["deflated.dcm"] = deflated(medical_files.dataset(grey, syntax="1.2.840.10008.1.2.1.99"))
    for name, syntax, content in (
        ("jpeg.dcm", "1.2.840.10008.1.2.4.50", image(kind="JPEG")),
        ("jpeg_2000.dcm", "1.2.840.10008.1.2.4.90", image(kind="JPEG2000", irreversible=False)),
        ("run_lengths.dcm", "1.2.840.10008.1.2.5", _run_lengths(grey)),
    ):
        made[name] = _encapsulated(grey, syntax, content)
    return made


def _intact_nifti() -> dict[str, bytes]:
    nifti, volume = medical_files.nifti, np.stack([scan().T] * 4, -1).astype(np.int16)
    return {
        "volume.nii": nifti(volume, np.diag([1, 1, 5, 1.0])),
        "volume.nii.gz": nifti(volume, np.diag([1, 1, 5, 1.0]), packed=True),
        "members.nii.gz": gzip.compress(nifti(volume)[:999], mtime=0) + gzip.compress(nifti(volume)[999:], mtime=0),
        "elongated.nii": nifti(volume, np.diag([1, 3, 5, 1.0])),
        "volume_2.nii": nifti(volume, version=2),
        "floats.nii": nifti(volume.astype(np.float32) / 3),
        "doubles.nii": nifti(volume.astype(np.float64)),
        "bytes.nii": nifti(volume.astype(np.uint8)),
        "not_a_number.nii": nifti(np.full((6, 6, 2), np.nan, np.float32)),
        "flat.nii": nifti(volume[:, :, 0]),
        "time.nii": nifti(np.stack([volume, volume], -1)),
        "sagittal.nii": nifti(volume, np.array([[0, 0, 4, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])),
        "mirrored.nii": nifti(volume, np.diag([-1, -1, 2, 1.0])),
        "a_table_by_its_name.csv": nifti(volume),
    }


@functools.cache
def broken() -> dict[str, bytes]:
    """Files that cannot be read, or only with luck."""
    made: dict[str, bytes] = {"empty.png": b"", "one_byte.png": b"\x89", "zeros.png": bytes(4096)}
    good = intact()
    for name in ("grey.png", "grey.jpeg", "grey.bmp", "grey.tiff", "grey.webp", "grey.gif", "plain.dcm", "volume.nii",
                 "volume.nii.gz", "jpeg_2000.dcm", "run_lengths.dcm", "deflated.dcm", "frames.dcm"):  # fmt: skip
        content = good[name]
        for kept in (0.02, 0.3, 0.6, 0.9):
            made[f"cut_{int(kept * 100)}_{name}"] = content[: max(5, int(len(content) * kept))]
        flipped = bytearray(content)
        for place in np.random.default_rng(len(content)).integers(0, len(content), 40):
            flipped[place] ^= 0x5A
        made[f"damaged_{name}"] = bytes(flipped)
        made[f"zeroed_{name}"] = content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    made |= _enormous() | _mislabelled() | _polyglots() | _broken_dicom() | _broken_nifti()
    return made


def _enormous() -> dict[str, bytes]:
    """Small files that claim to be large, and small ones that are."""
    bitmap = bytearray(image(Image.new("L", (1, 1)), "BMP"))
    bitmap[18:26] = struct.pack("<ii", 60000, 60000)
    negative = bytearray(bitmap)
    negative[18:26] = struct.pack("<ii", -1, -(2**31))
    gif = bytearray(image(kind="GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    jpeg = bytearray(image(kind="JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    return {
        "60000x60000.bmp": bytes(bitmap),
        "negative.bmp": bytes(negative),
        "65535x65535.gif": bytes(gif),
        "65535x65535.jpg": bytes(jpeg),
        "100000x100000.png": _png_header(100_000, 100_000),
        "2147483647.png": _png_header(2**31 - 1, 2**31 - 1),
        "no_width.png": _png_header(0, 9),
        "8001x8000.png": _bomb(8001, 8000),
        "black_7000x7000.png": _bomb(7000, 7000),
        "100000x100000.pgm": b"P5 100000 100000 255\n",
        "text_bomb.png": _with_text(b"a" * 70_000_000),
        "gzip_bomb.nii.gz": gzip.compress(medical_files.nifti(np.zeros((2, 2, 2), np.uint8)) + bytes(2**21), mtime=0),
        "tiff_60000.tif": image(kind="TIFF").replace(struct.pack("<H", 64), struct.pack("<H", 60000), 1),
    }


def _mislabelled() -> dict[str, bytes]:
    good = intact()
    return {
        "text.jpg": b"This is not an image.\n" * 20,
        "page.png": b"<!doctype html><html><body>404</body></html>",
        "drawing.svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>",
        "document.jpg": b"%PDF-1.7\n1 0 obj\n<< >>\nendobj\n",
        "program.png": b"\x7fELF" + bytes(500),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ls) system\n",
        "photo.heic.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
        "array.png": b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }\n" + bytes(24),
        "pickle.png": b"cos\nsystem\n(S'touch pwned'\ntR.",
        "table.dcm": b"path,label\na,b\n",
        "picture.nii.gz": gzip.compress(good["grey.png"], mtime=0),
        "picture_2.nii": good["grey.png"][:20],
        "wide_text.png": "Fichero de texto, no una imagen".encode("utf-16"),
        "matlab.png": b"MATLAB 5.0 MAT-file" + bytes(200),
        "hdf5.png": b"\x89HDF\r\n\x1a\n" + bytes(200),
        "jpeg_2000.jpg": image(kind="JPEG2000"),
        "icon.png": b"\0\0\1\0\1\0\x10\x10" + bytes(300),
        "volume.mgz": gzip.compress(struct.pack(">7i", 1, 4, 4, 4, 1, 3, 0) + bytes(512), mtime=0),
        "volume.nrrd": b"NRRD0004\ntype: short\ndimension: 3\n",
        "volume.mha": b"ObjectType = Image\nNDims = 3\n",
        "surface.gii": b'<?xml version="1.0"?><GIFTI Version="1.0">',
        "doubles.tif": tiff(scan().astype(np.float64)),
        "12_bits.jpg": image(kind="JPEG").replace(b"\xff\xc0\x00\x0b\x08", b"\xff\xc1\x00\x0b\x0c"),
        "random.png": np.random.default_rng(5).bytes(5000),
        "magic_only.jpg": b"\xff\xd8\xff",
        "magic_only.tif": b"II*\0",
        "magic_only.webp": b"RIFF\x10\0\0\0WEBPVP8 ",
        "magic_only.gif": b"GIF89a",
        "magic_only.bmp": b"BM",
        "magic_only.dcm": bytes(128) + b"DICM",
        "circle.tif": _circular_tiff(),
    }


def _polyglots() -> dict[str, bytes]:
    """Two kinds of file in one."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("inner.png"), image())
    preamble = image(kind="GIF")[:128]
    return {
        "gif_and_dicom": preamble.ljust(128, b"\0") + medical_files.dicom(scan())[128:],
        "png_and_broken_dicom": image()[:128].ljust(128, b"\0") + b"DICM" + bytes(99),
        "jpeg_and_zip.jpg": image(kind="JPEG") + packed.getvalue(),
        "bmp_and_script.bmp": b"BM=1;/*" + image(kind="BMP")[7:] + b"*/alert(1)",
        "pdf_and_jpeg.jpg": b"%PDF-1.4\n" + image(kind="JPEG"),
        "gzip_of_gzip.nii.gz": gzip.compress(
            gzip.compress(medical_files.nifti(np.zeros((4, 4, 4), np.uint8)), mtime=0), mtime=0
        ),
    }


def _broken_dicom() -> dict[str, bytes]:
    dicom, grey = medical_files.dicom, scan()
    changes: dict[str, dict[str, object]] = {
        "no_pixels": {"PixelData": None}, "no_rows": {"Rows": None}, "zero_rows": {"Rows": 0},
        "many_rows": {"Rows": 65535, "Columns": 65535}, "some_more_rows": {"Rows": 49}, "no_bits": {"BitsStored": None},
        "bits_of_7": {"BitsAllocated": 7}, "bits_of_64": {"BitsAllocated": 64}, "four_samples": {"SamplesPerPixel": 4},
        "zero_samples": {"SamplesPerPixel": 0}, "many_frames": {"NumberOfFrames": 2_000_000_000},
        "no_frames": {"NumberOfFrames": 0}, "negative_frames": {"NumberOfFrames": -1},
        "frames_of_nothing": {"NumberOfFrames": 7}, "no_interpretation": {"PhotometricInterpretation": None},
        "odd_interpretation": {"PhotometricInterpretation": "OCTARINE"},
        "palette_without": {"PhotometricInterpretation": "PALETTE COLOR"}, "no_pixels_at_all": {"PixelData": b""},
        "more_stored_than_there": {"BitsStored": 16}, "high_bit": {"HighBit": 99},
    }  # fmt: skip
    made = {f"{name}.dcm": dicom(grey, **tags) for name, tags in changes.items()}
    intact_file = dicom(grey)
    endless_jp2 = image(kind="JPEG2000").replace(b"\0\0\0\x14ftyp", bytes(4) + b"ftyp")
    empty_table = Dataset()
    empty_table.add_new("LUTDescriptor", "US", [0, 0, 99])
    empty_table.add_new("LUTData", "OW", b"")
    made |= {
        "garbled_slope.dcm": dicom(grey, RescaleSlope="1", RescaleIntercept="0").replace(
            b"DS\x02\x000 ", b"DS\x02\x00x!"
        ),
        "unknown_syntax.dcm": _encapsulated(grey, "1.2.3.4", b"??"),
        "video.dcm": _encapsulated(grey, "1.2.840.10008.1.2.4.102", b"??"),
        "lossless_jpeg.dcm": _encapsulated(grey, "1.2.840.10008.1.2.4.70", b"\xff\xd8??"),
        "jpeg_ls.dcm": _encapsulated(grey, "1.2.840.10008.1.2.4.80", b"\xff\xd8??"),
        "broken_jpeg.dcm": _encapsulated(grey, "1.2.840.10008.1.2.4.50", b"\xff\xd8??"),
        "broken_jpeg_2000.dcm": _encapsulated(grey, "1.2.840.10008.1.2.4.90", b"\0\0\0\x0cjP  ??"),
        "box_without_end.dcm": _encapsulated(grey, "1.2.840.10008.1.2.4.90", endless_jp2),
        "broken_run_lengths.dcm": _encapsulated(grey, "1.2.840.10008.1.2.5", bytes(64) + b"\x7f"),
        "other_jpeg.dcm": _encapsulated(grey, "1.2.840.10008.1.2.4.50", image(Image.new("L", (9, 9)), "JPEG")),
        "no_items.dcm": _encapsulated(grey, "1.2.840.10008.1.2.4.50", None),
        **{f"nested_{depth}.dcm": _nested(intact_file, depth) for depth in (30, 200, 20_000)},
        "empty_table.dcm": dicom(grey, VOILUTSequence=[empty_table]),
        "empty_sequences.dcm": dicom(grey, VOILUTSequence=[], ModalityLUTSequence=[]),
        "deflate_bomb.dcm": deflated(medical_files.dataset(grey, syntax="1.2.840.10008.1.2.1.99"), more=2**21),
        "length_beyond_the_end.dcm": _with_length(intact_file, 2**31),
        "undefined_length.dcm": _with_length(intact_file, 2**32 - 1),
        "zeros_after_it.dcm": intact_file + bytes(2**20),
        "twice.dcm": intact_file + intact_file,
        "big_endian.dcm": intact_file.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0"),
        "no_header.dcm": bytes(128) + b"DICM" + intact_file[400:],
    }
    return made


def _broken_nifti() -> dict[str, bytes]:
    good = bytearray(medical_files.nifti(np.zeros((6, 5, 4), np.int16)))
    fields = {
        "dimensions_of_200": (40, struct.pack("<h", 200)), "no_dimensions": (40, struct.pack("<h", 0)),
        "one_dimension": (40, struct.pack("<h", 1)),
        "seven_dimensions": (40, struct.pack("<8h", 7, 2, 2, 2, 1, 1, 1, 1)),
        "zero_width": (42, struct.pack("<h", 0)), "negative_width": (42, struct.pack("<h", -5)),
        "huge": (42, struct.pack("<3h", 32767, 32767, 32767)), "unknown_type": (70, struct.pack("<h", 12345)),
        "complex": (70, struct.pack("<hh", 32, 64)), "colours": (70, struct.pack("<hh", 128, 24)),
        "longest": (70, struct.pack("<hh", 1536, 128)), "offset_elsewhere": (108, struct.pack("<f", 1e9)),
        "negative_offset": (108, struct.pack("<f", -50)), "offset_not_a_number": (108, struct.pack("<f", np.nan)),
        "slope_not_a_number": (112, struct.pack("<ff", np.nan, np.nan)),
        "infinite_slope": (112, struct.pack("<ff", np.inf, 1)), "huge_slope": (112, struct.pack("<ff", 3e38, 3e38)),
        "affine_not_a_number": (280, struct.pack("<12f", *[np.nan] * 12)), "two_files": (344, b"ni1\0"),
        "other_order": (0, struct.pack(">i", 348)), "spacing_of_nothing": (76, bytes(32)),
        "surface": (68, struct.pack("<h", 1009)), "connectivity": (68, struct.pack("<h", 3001)),
        "nowhere": (254, struct.pack("<h", 1) + bytes(72)),
    }  # fmt: skip
    made = {}
    for name, (place, value) in fields.items():
        content = bytearray(good)
        content[place : place + len(value)] = value
        made[f"{name}.nii"] = bytes(content)
    return made


def deflated(made: Dataset, *, more: int = 0) -> bytes:
    """A deflated DICOM file, with so many zeros after what belongs to it."""
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    plain = medical_files.encoded(made)
    meta_end = 144 + struct.unpack("<I", plain[140:144])[0]
    header = plain[:meta_end]
    # The other name is longer by three bytes and filled up to an even number.
    old, new = b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.1.99"
    assert old in header
    header = header.replace(old, new)
    header = header[:140] + struct.pack("<I", len(header) - 144) + header[144:]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return header + packer.compress(plain[meta_end:] + bytes(more)) + packer.flush()


def _encapsulated(pixels: np.ndarray, syntax: str, content: bytes | None) -> bytes:
    """A DICOM file with compressed pixels; None for none of them."""
    made = medical_files.dataset(pixels, syntax=syntax)
    made.PixelData = encapsulate([content]) if content is not None else b"\xfe\xff\x00\xe0\0\0\0\0"
    made["PixelData"].is_undefined_length = True
    made["PixelData"].VR = "OB"
    return medical_files.encoded(made, implicit_vr=False, little_endian=True, enforce_file_format=False)


def _run_lengths(pixels: np.ndarray) -> bytes:
    """A frame in the run lengths of DICOM, all of them literal."""
    rows = b"".join(bytes([len(row) - 1]) + row.tobytes() for row in pixels)
    return struct.pack("<16I", 1, 64, *[0] * 14) + rows + b"\0" * (len(rows) % 2)


def _nested(content: bytes, depth: int) -> bytes:
    """A DICOM file with sequences in sequences before its pixels."""
    begin = struct.pack("<HH2sHI", 0x0028, 0x3010, b"SQ", 0, 2**32 - 1) + struct.pack("<HHI", 0xFFFE, 0xE000, 2**32 - 1)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    place = content.index(b"\xe0\x7f\x10\x00OB\0\0")
    return content[:place] + begin * depth + end * depth + content[place:]


def _with_length(content: bytes, length: int) -> bytes:
    """A DICOM file with another length of its pixels."""
    place = content.index(b"\xe0\x7f\x10\x00OB\0\0") + 8
    return content[:place] + struct.pack("<I", length) + content[place + 4 :]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png_header(width: int, height: int) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(99))) + _chunk(b"IEND", b"")


def _bomb(width: int, height: int) -> bytes:
    """A black PNG, a thousandth as large as its pixels."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _with_text(text: bytes) -> bytes:
    content = image()
    return content[:33] + _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(text, 9)) + content[33:]


def _circular_tiff() -> bytes:
    """Directories that name each other as the next."""

    def entry(tag: int, kind: int, value: int) -> bytes:
        return struct.pack("<HHII", tag, kind, 1, value)

    entries = [entry(256, 3, 2), entry(257, 3, 2), entry(258, 3, 8), entry(259, 3, 1), entry(262, 3, 1),
               entry(273, 4, 8), entry(277, 3, 1), entry(278, 3, 2), entry(279, 4, 4)]  # fmt: skip
    return b"II*\0\x0c\0\0\0\1\2\3\4" + struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 12)


def corpus() -> dict[str, bytes]:
    """All of them by name."""
    return {**intact(), **broken()}


def write(folder: pathlib.Path) -> None:
    """All of them as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in corpus().items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
    print(f"{len(corpus())} files in {sys.argv[1]}")

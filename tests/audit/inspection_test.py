import io

import numpy as np
import pytest
from PIL import Image

from bt_jax.audit import inspection
from bt_jax.data import fingerprints
from bt_jax.data.io import decode
from bt_jax.data.phantoms import phantom


def picture(seed: int = 0, *, height: int = 100, width: int = 90) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(20, 236, (6, 6), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def oddities(content: bytes, name: str = "x.png") -> set[str]:
    return set(inspection.find_oddities(content, decode.decode_image(content, name=name), name=name))


GREY = Image.fromarray(picture())
TWO_HUES = Image.merge("RGB", (GREY, Image.fromarray(picture(1)), GREY))
TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (encoded(GREY, "PNG"), "x.png", set()),
        (encoded(GREY, "JPEG"), "x.JPG", set()),
        (encoded(GREY.convert("RGB"), "JPEG", quality=40), "x.jpeg", set()),
        (encoded(GREY.convert("RGB"), "PNG"), "x.png", set()),
        (encoded(GREY.convert("P"), "PNG"), "x.png", set()),
        (encoded(TWO_HUES, "PNG"), "x.png", {"colour"}),
        (encoded(TWO_HUES, "JPEG"), "x.jpg", {"colour"}),
        (encoded(TWO_HUES, "GIF"), "x.gif", {"colour"}),
        (encoded(Image.fromarray(picture().astype(np.uint16) * 257), "PNG"), "x.png", {"deep"}),
        (encoded(Image.merge("LA", (GREY, GREY)), "PNG"), "x.png", {"alpha"}),
        (encoded(GREY, "PNG"), "x.jpg", {"extension"}),
        (encoded(GREY, "JPEG"), "x.jfif", set()),
        (encoded(GREY, "PNG"), "x", {"extension"}),
        (encoded(GREY, "GIF", save_all=True, append_images=[GREY.rotate(90)]), "x.gif", {"animated"}),
        (encoded(GREY, "JPEG", exif=TURNED), "x.jpg", {"turned"}),
        (encoded(Image.fromarray(picture(height=40, width=60)), "PNG"), "x.png", {"tiny"}),
        (encoded(Image.fromarray(picture(height=70, width=150)), "PNG"), "x.png", {"elongated"}),
        (encoded(Image.fromarray(np.full((80, 80), 8, np.uint8)), "PNG"), "x.png", {"flat"}),
        (encoded(Image.fromarray(np.full((80, 80), 60000, np.uint16)), "PNG"), "x.png", {"flat", "deep"}),
    ],
)
def test_oddities(content, name, expected):
    assert oddities(content, name) == expected
    assert expected <= inspection.ODDITIES.keys()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_file_that_can_be_read_in_part_is_damaged():
    exif = b"Exif\x00\x00II*\x00" + b"\xff" * 20
    assert oddities(encoded(GREY, "JPEG", exif=exif), "x.jpg") <= {"damaged"}
    frames = [Image.fromarray(picture(k)) for k in range(3)]
    cut = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])[:15000]
    assert "damaged" in oddities(cut, "x.tif")


def test_cues():
    image = phantom.render(0, label="glioma_tumor", seed=0).image
    height, width = image.shape
    cues = dict(zip(inspection.CUES, inspection.measure_cues(image), strict=True))
    assert (cues["width"], cues["height"], cues["aspect"]) == (width, height, width / height)
    assert cues["brightness"] == pytest.approx(image.mean())
    padded = dict(zip(inspection.CUES, inspection.measure_cues(np.pad(image, 200)), strict=True))
    head = (1 - cues["border"] / 100) * image.size
    assert padded["border"] == pytest.approx(100 * (1 - head / ((height + 400) * (width + 400))), abs=4)
    assert padded["border"] > cues["border"] + 20


def test_cues_of_16_bits_are_those_of_8():
    image = picture()
    np.testing.assert_allclose(
        inspection.measure_cues(image.astype(np.uint16) * 257), inspection.measure_cues(image), rtol=1e-3, atol=0.5
    )


def test_a_folder_is_read_in_order_and_what_is_no_image_is_listed(kaggle):
    kaggle.write("Training/no_tumor/a note.txt", "not an image")
    kaggle.write("Training/no_tumor/empty.png", b"")
    kaggle.write("Testing/no_tumor/half.jpg", encoded(GREY, "JPEG")[:300])
    kaggle.write("Testing/no_tumor/colour.jpg", encoded(TWO_HUES, "JPEG"))
    source = kaggle.open()
    seen = []
    found = inspection.inspect(source, progress=lambda done, total: seen.append((done, total)))
    unreadable = {record.path: reason for record, reason in found.unreadable}
    assert unreadable.keys() == {
        "Training/no_tumor/a note.txt", "Training/no_tumor/empty.png", "Testing/no_tumor/half.jpg"
    }  # fmt: skip
    assert unreadable["Training/no_tumor/empty.png"] == "the file is empty"
    assert unreadable["Training/no_tumor/a note.txt"] == "not an image in a known format"
    assert found.records == tuple(record for record in source.records if record.path not in unreadable)
    assert seen == [(k, len(source.records)) for k in range(1, len(source.records) + 1)]
    assert len(found.fingerprints) == len(found.records) == len(found.cues) == len(found.oddities) == 12
    for row in (0, 7):
        image = decode.decode_image(source.read(found.records[row].path), name="x")
        assert found.fingerprints[row] == fingerprints.fingerprint(image)
        np.testing.assert_array_equal(found.thumbnails[row], fingerprints.make_thumbnails(image))
        np.testing.assert_allclose(found.cues[row], inspection.measure_cues(image), rtol=1e-6)
    by_path = dict(zip((record.path for record in found.records), found.oddities, strict=True))
    assert by_path["Testing/no_tumor/colour.jpg"] == {"colour"}


def test_a_file_that_is_gone_is_unreadable(kaggle):
    source = kaggle.open()
    (kaggle.path / source.records[0].path).unlink()
    found = inspection.inspect(source, threads=2)
    assert [(record.path, reason) for record, reason in found.unreadable] == [
        (source.records[0].path, "No such file or directory")
    ]
    assert len(found.records) == len(source.records) - 1

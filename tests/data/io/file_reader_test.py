"""Whatever the bytes are: slices, or one sentence about what is wrong."""

import re
import time
import warnings

import numpy as np
import pytest

from bt_jax.data.io import decode, file_reader
from bt_jax.data.io.slices import Limits, UnreadableError
from tests import hostile_inputs, medical_files

LONGEST = 5.0  # seconds for one input, on a machine that is busy with other things

# Images that Pillow opens and then has no way to grey for.
WITHOUT_GREY = {"lab.tif"}


def outcome(content: bytes, **limits: int) -> list[file_reader.Slice] | str:
    """The slices, or the reason why there are none (or no more)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow tells about odd files
        try:
            return list(file_reader.read_slices(content, limits=Limits(**limits)))
        except UnreadableError as error:
            return str(error)


def test_the_corpus_is_large_and_the_same_each_time():
    names = hostile_inputs.corpus()
    assert len(names) >= 280
    hostile_inputs.intact.cache_clear()
    hostile_inputs.broken.cache_clear()
    assert hostile_inputs.corpus() == names


@pytest.mark.parametrize("name", hostile_inputs.corpus())
def test_every_hostile_input_gives_slices_or_one_sentence(name):
    content = hostile_inputs.corpus()[name]
    begin = time.monotonic()
    found = outcome(content, unpacked_bytes=2**20)
    assert time.monotonic() - begin < LONGEST
    if isinstance(found, str):
        assert name in hostile_inputs.broken() or name in WITHOUT_GREY, found
        assert 10 < len(found) < 200 and "\n" not in found and found == found.strip()
        assert medical_files.SECRET not in found
        return
    assert found
    for slice_ in found:
        assert slice_.image.ndim == 2 and slice_.image.size and slice_.image.dtype in (np.uint8, np.uint16)
        assert all(re.fullmatch(r"[A-Z][^\n]*\.", sentence) for sentence in slice_.warnings)


def test_images_are_decoded_as_for_training():
    for name, content in hostile_inputs.intact().items():
        if name.endswith((".png", ".jpg", ".jpeg", ".tif", ".gif", ".webp")) and not file_reader.dicom.is_dicom(
            content
        ):
            found = outcome(content)
            if not isinstance(found, str):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    image = decode.decode_image(content, name=name)
                factor = max(1, image.max() // max(1, found[0].image.max()))
                np.testing.assert_array_equal(found[0].image.astype(int) * factor, image)


def test_frames_that_are_left_out_are_told():
    for name in ("animated.gif", "animated.webp", "animated.png", "pages.tif"):
        (found,) = outcome(hostile_inputs.intact()[name])
        assert found.warnings == ("The file has several frames, of which only the first was read.",)
    (still,) = outcome(hostile_inputs.intact()["grey.gif"])
    assert still.warnings == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty.png", "the file is empty"),
        ("document.jpg", "not an image but a PDF document"),
        ("photo.heic.jpg", "HEIC or AVIF"),
        ("page.png", "not an image but text"),
        ("array.png", "a NumPy array"),
        ("pickle.png", "not an image in a known format"),
        ("postscript.png", "not an image in a known format"),
        ("100000x100000.png", "more pixels than the limit"),
        ("text_bomb.png", "too large"),
    ],
)
def test_what_people_take_for_an_image(name, said):
    assert said in str(outcome(hostile_inputs.corpus()[name]))


def test_limits():
    content = hostile_inputs.image()
    assert "bytes are more than the limit of 10" in str(outcome(content, file_bytes=10))
    assert "64x48 pixels are more than the limit of 3,071" in str(outcome(content, pixels=64 * 48 - 1))
    assert not isinstance(outcome(content, pixels=64 * 48, file_bytes=len(content)), str)


def test_files_are_recognised_by_their_first_bytes():
    for name, content in hostile_inputs.intact().items():
        if not name.endswith(".gz"):
            assert file_reader.is_recognised(content[: file_reader.START]), name
    for text in (b"", b"path,label\n", b"#!/bin/sh\n", b"# Read me\n", b"\x7fELF" + bytes(200), b"MZ" + bytes(200)):
        assert not file_reader.is_recognised(text), text

"""Records of the files of a request."""

import base64
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from bt_jax.common.messages import Message
from bt_jax.inference.predictor import Prediction
from bt_jax.serve import api
from bt_jax.serve.api import Api, RequestOptions, Upload
from bt_jax.serve.batching import BusyError
from bt_jax.serve.settings import Settings
from tests import hostile_inputs, medical_files


@pytest.fixture
def answering(engine, settings) -> Api:
    return Api(engine, settings)


def volume(slices: int = 20) -> bytes:
    stack = np.stack([np.roll(hostile_inputs.scan(), k, axis=0).T for k in range(slices)], -1)
    return medical_files.nifti(stack, np.diag([-1, -1, 5, 1.0]))


def picture(address: str) -> np.ndarray:
    assert address.startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        return np.asarray(image)


def test_files_in_their_order_and_errors_among_them(answering):
    uploads = [Upload("a.png", hostile_inputs.image()), Upload("b.png", b""), Upload("v.nii", volume(20)),
               Upload("a.png", hostile_inputs.image())]  # fmt: skip
    found = answering.predict(uploads, RequestOptions())
    assert [record["path"] for record in found] == ["a.png", "b.png", *(f"v.nii#{k}" for k in range(1, 21)), "a.png"]
    assert found[1] == {"path": "b.png", "error": "the file is empty", "code": "empty", "values": {}}
    assert [record.get("slice") for record in found] == [None, None, *range(1, 21), None]
    # The two may be computed in steps of different sizes, which round differently.
    assert found[0].keys() == found[-1].keys() and found[0]["codes"] == found[-1]["codes"]
    assert found[0]["probabilities"] == pytest.approx(found[-1]["probabilities"], abs=1e-6)
    assert "picture" not in found[0]


def test_in_spanish_with_the_same_codes(answering):
    uploads = [Upload("a.png", hostile_inputs.image()), Upload("b.pdf", b"%PDF-1.4")]
    english, spanish = (answering.predict(uploads, RequestOptions(language=name)) for name in ("en", "es"))
    assert spanish[1]["error"] == "es un documento PDF, no una imagen: exporte sus imágenes como PNG"
    assert (spanish[1]["code"], spanish[1]["values"]) == (english[1]["code"], english[1]["values"])
    assert spanish[0]["warnings"][0].startswith("La imagen es pequeña (64x48 píxeles)")
    assert spanish[0]["codes"] == english[0]["codes"]
    assert spanish[0]["codes"][0] == {"code": "small", "values": {"size": "64x48"}}


def test_one_slice_of_a_volume_with_its_picture(answering):
    whole = answering.predict([Upload("v.nii", volume())], RequestOptions(picture=True, explain="gradcam"))
    assert not any("picture" in record or "heat_map" in record for record in whole)
    (one,) = answering.predict([Upload("v.nii", volume())], RequestOptions(number=7, picture=True, explain="gradcam"))
    assert one["slice"] == 7 and one["probabilities"] == pytest.approx(whole[6]["probabilities"], abs=1e-6)
    np.testing.assert_array_equal(picture(one["picture"]), np.roll(hostile_inputs.scan(), 6, axis=0))
    heat = picture(one["heat_map"]["picture"])
    assert heat.shape == (*hostile_inputs.scan().shape, 4) and heat[..., 3].max() == 255
    assert (one["heat_map"]["class"], one["heat_map"]["empty"]) == (one["prediction"], False)
    (none,) = answering.predict([Upload("v.nii", volume())], RequestOptions(number=21))
    assert none["error"] == "it has no slice 21: the number of slices is 20"


def test_the_class_that_is_explained(answering):
    (record,) = answering.predict(
        [Upload("a", hostile_inputs.image())], RequestOptions(explain="gradcam", label="no_tumor")
    )
    assert record["heat_map"]["class"] == "no_tumor" and "picture" not in record


def test_large_pictures_are_reduced(answering):
    image = hostile_inputs.image(Image.fromarray(hostile_inputs.scan(300, 1000)))
    (record,) = answering.predict([Upload("a.png", image)], RequestOptions(picture=True, explain="gradcam"))
    assert picture(record["picture"]).shape == (192, 640)
    assert picture(record["heat_map"]["picture"]).shape == (192, 640, 4)


def test_deep_pictures_fill_the_range_of_a_screen(answering):
    deep = hostile_inputs.scan().astype(np.uint16) * 7 + 5000
    (record,) = answering.predict(
        [Upload("a.png", hostile_inputs.image(Image.fromarray(deep)))], RequestOptions(picture=True)
    )
    shown = picture(record["picture"])
    assert shown.dtype == np.uint8 and (shown.min(), shown.max()) == (0, 255)


@pytest.mark.parametrize(("score", "said"), [(None, None), (0.5, 0.5), (np.inf, 1e6), (np.nan, 1e6)])
def test_doubt_is_always_a_number(score, said):
    record = api.make_record("a", None, Prediction("b", 1.0, {"b": 1.0}, (), score), "en")
    assert record["doubt"] == said


def test_a_reason_that_is_no_sentence():
    assert api.make_failure("a", "odd", "es") == {"path": "a", "error": "odd", "code": "other", "values": {}}
    assert api.make_failure("a", Message("empty", "x"), "es")["error"] == "el archivo está vacío"


def test_limits_hold_for_every_file(answering):
    large = hostile_inputs.image(Image.new("L", (1100, 1000)))
    many = medical_files.dicom(np.zeros((41, 4, 4), np.uint8), frames=41)
    found = answering.predict([Upload("a", large), Upload("b", many), Upload("c", bytes(2**20 + 1))], RequestOptions())
    assert [record["code"] for record in found] == ["too_many_pixels", "too_many_slices", "too_many_bytes"]


class Slow:
    """An engine that needs half a second for anything."""

    def __init__(self, predictor):
        self.predictor, self.seen, self.patient = predictor, [], []

    def predict(self, slices, *, deadline, patient):
        self.seen.append(len(slices))
        self.patient.append(patient)
        if time.monotonic() > deadline:
            raise BusyError(3)
        return self.predictor.predict(slices)


def test_few_slices_at_a_time_and_patience_after_the_first(predictor):
    engine = Slow(predictor)
    answered = Api(engine, Settings()).predict([Upload("v.nii", volume(40))], RequestOptions())
    assert len(answered) == 40 and engine.seen == [16, 16, 8] and engine.patient == [False, True, True]


def test_who_waits_too_long_to_be_read_is_refused(predictor):
    made = Api(Slow(predictor), Settings(seconds=0.1))
    held = threading.BoundedSemaphore(1)
    made._decoding = held
    with held, pytest.raises(BusyError):
        made.predict([Upload("a.png", hostile_inputs.image())], RequestOptions())
    assert len(made.predict([Upload("a.png", hostile_inputs.image())], RequestOptions())) == 1

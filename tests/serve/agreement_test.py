"""One image, one answer: command line, interface and exported files say the same of it."""

import csv
import io
import json
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from bt_jax.data.io.decode import decode_image, encode_png
from bt_jax.data.phantoms import phantom
from bt_jax.inference import convert, loading
from bt_jax.inference.predictor import Predictor
from bt_jax.inference.trained_model import TrainedModel
from bt_jax.serve.api import Api, RequestOptions, Upload
from bt_jax.serve.engine import Engine
from bt_jax.serve.settings import Settings
from tests import medical_files, runs, small_models

FORMS = ("safetensors", "stablehlo", "onnx")


def images() -> dict[str, bytes]:
    """A slice of each class as PNG and as DICOM, one with 16 bits, and a JPEG."""
    made = {}
    for number, label in enumerate(("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")):
        image = phantom.render(number, label=label, seed=3).image
        made[f"{number}.png"], made[f"{number}.dcm"] = encode_png(image), medical_files.dicom(image)
    deep = (image.astype(np.uint16) * 200 + 7)[: image.shape[0] // 2 * 2]
    made["4.png"], made["4.dcm"] = encode_png(deep), medical_files.dicom(deep)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG")
    made["5.jpg"] = buffer.getvalue()
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Images, and a model with temperature and doubt as files of all kinds."""
    folder = tmp_path_factory.mktemp("agreement")
    model = small_models.write(folder / "model.safetensors", "cnn", size=32, filters=(6, 8), hidden=(8,), members=2)
    for form in FORMS[1:]:
        convert.write(folder / f"model.{form}", model, form=form, images=small_models.images(4, 32))
    for name, content in images().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def model(folder) -> TrainedModel:
    return loading.load(folder / "model.safetensors", batch_size=4)


def by_interface(path: pathlib.Path) -> dict[str, list[float]]:
    engine = Engine(Predictor.load([str(path)], batch_size=4), batch_size=4)
    try:
        engine.start()
        found = Api(engine, Settings()).predict([Upload(*file) for file in images().items()], RequestOptions())
        return {record["path"]: list(record["probabilities"].values()) for record in found}
    finally:
        engine.close()


def by_onnx(path: pathlib.Path, model: TrainedModel) -> dict[str, list[float]]:
    """As somebody else would do it, with nothing but the preprocessing."""
    import onnxruntime as runtime

    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pictures = {name: decode_image(one, name=name) for name, one in images().items() if not name.endswith(".dcm")}
    batch = np.stack([model.preprocessing(one) for one in pictures.values()])
    (found,) = session.run(["probabilities"], {"images": (batch / 255).astype("f4")})
    return dict(zip(pictures, found.tolist(), strict=True))


def agree(a: dict[str, list[float]], b: dict[str, list[float]]) -> None:
    assert a.keys() & b.keys()
    for name in a.keys() & b.keys():
        np.testing.assert_allclose(a[name], b[name], atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def answers(folder) -> dict[str, list[float]]:
    """Of the interface, with the safetensors file."""
    return by_interface(folder / "model.safetensors")


def test_interface_and_exported_files(folder, model, answers):
    assert len(answers) == len(images())
    agree(answers, by_interface(folder / "model.stablehlo"))
    agree(answers, by_onnx(folder / "model.onnx", model))
    # That something is compared at all: the images are told apart.
    assert np.ptp(list(answers.values()), axis=0).max() > 0.01


def test_dicom_and_png_of_the_same_slice(answers):
    for number in range(5):
        np.testing.assert_allclose(answers[f"{number}.png"], answers[f"{number}.dcm"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "stablehlo"])
def test_command_and_interface(folder, form):
    expected = by_interface(folder / f"model.{form}")
    paths = [folder / name for name in expected]
    command = [sys.executable, "-m", "bt_jax.predict", f"--model={folder / f'model.{form}'}", *map(str, paths)]
    ended = runs.run(command)
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    agree(expected, {pathlib.Path(line["path"]).name: list(line["probabilities"].values()) for line in lines})
    table = runs.run([*command, "--format=csv"])
    rows = list(csv.DictReader(io.StringIO(table.stdout)))
    for line, row in zip(lines, rows, strict=True):
        assert [float(row[name]) for name in line["probabilities"]] == list(line["probabilities"].values())

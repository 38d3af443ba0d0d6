"""The command as a user runs it."""

import csv
import json
import pathlib
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from bt_jax.data.io.decode import encode_png
from bt_jax.training import train
from tests import hostile_inputs, medical_files, phantom_folder, runs, untrained


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pathlib.Path:
    return untrained.write(tmp_path_factory.mktemp("predict") / "run")


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "bt_jax.predict", *map(str, arguments)]


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_images_folders_patterns_and_medical_files(model, tmp_path):
    """All kinds in one call: the records come in the order of the arguments, one bad file among them."""
    scan = hostile_inputs.scan(80, 96)
    series = tmp_path / "series"
    series.mkdir()
    (series / "a.png").write_bytes(encode_png(scan))
    (series / "b.jpg").write_bytes(b"not an image")
    (series / "IM0001").write_bytes(medical_files.dicom(scan))
    (series / "notes.txt").write_text("not an image either")
    (tmp_path / "frames.dcm").write_bytes(medical_files.dicom(np.stack([scan, scan[::-1]]), frames=2))
    affine = np.diag([-1, -1, 5, 1.0])  # stored as it is seen
    (tmp_path / "volume.nii.gz").write_bytes(medical_files.nifti(np.stack([scan.T] * 3, -1), affine, packed=True))
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.write(series / "a.png", "inner.png")
    ended = runs.run(command(f"--model={model}", series, tmp_path / "*.dcm", tmp_path / "volume.nii.gz",
                             tmp_path / "archive.zip", tmp_path / "absent.png"))  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f"warning: skipped 1 files in {series} whose names are not those of images, DICOM or NIfTI files",
        "warning: 2 of 10 records are errors",
    ]
    found = records(ended.stdout)
    names = [record["path"].removeprefix(f"{tmp_path}/") for record in found]
    assert names == ["series/IM0001", "series/a.png", "series/b.jpg", "frames.dcm#1", "frames.dcm#2",
                     *(f"volume.nii.gz#{k}" for k in (1, 2, 3)), "archive.zip/inner.png", "absent.png"]  # fmt: skip
    assert found[2] == {"path": str(series / "b.jpg"), "error": "not an image in a known format"}
    assert found[9] == {"path": str(tmp_path / "absent.png"), "error": "there is no such file or folder"}
    good = [record for record in found if "error" not in record]
    for record in good:
        assert list(record) == ["path", "prediction", "confidence", "probabilities", "warnings"]
        assert record["confidence"] == max(record["probabilities"].values())
        assert record["probabilities"][record["prediction"]] == record["confidence"]
        assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    # The same pixels from PNG, DICOM, NIfTI and zip: the same answer.
    answers = np.array([list(record["probabilities"].values()) for record in good])
    same = [k for k, record in enumerate(good) if not record["path"].endswith("#2") or "volume" in record["path"]]
    np.testing.assert_allclose(answers[same], np.tile(answers[1], (len(same), 1)), atol=1e-4)
    assert np.ptp(answers, axis=0).max() > 1e-3
    assert medical_files.SECRET not in ended.stdout + ended.stderr


def test_csv_into_a_file(model, tmp_path):
    name = "año, 'ñ'\n\udcff.png"  # a comma, a quote, a line break, and bytes that are no text
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(hostile_inputs.image())
    (tmp_path / "in" / "z.png").write_bytes(b"")
    out = tmp_path / "made" / "predictions.csv"
    ended = runs.run(command(f"--model={model}", "--format=csv", f"--out={out}", tmp_path / "in"))
    assert ended.returncode == 1 and ended.stdout == ""
    with out.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == ["path", "prediction", "confidence", "glioma_tumor", "meningioma_tumor", "no_tumor",
                           "pituitary_tumor", "warnings", "error"]  # fmt: skip
    assert first["path"] == f"{tmp_path}/in/año, 'ñ'\n\\udcff.png"
    assert float(first[first["prediction"]]) == float(first["confidence"])
    assert second["error"] == "the file is empty" and second["prediction"] == ""
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_heat_maps_beside_the_records(model, tmp_path):
    (tmp_path / "a.png").write_bytes(hostile_inputs.image())
    (tmp_path / "b.png").write_bytes(b"broken")
    (tmp_path / "c.dcm").write_bytes(medical_files.dicom(np.stack([hostile_inputs.scan()] * 2), frames=2))
    names = [tmp_path / name for name in ("a.png", "b.png", "c.dcm")]
    plain = runs.run(command(f"--model={model}", *names))
    ended = runs.run(command(f"--model={model}", f"--gradcam={tmp_path}/maps", *names))
    assert (ended.returncode, ended.stdout) == (1, plain.stdout), ended.stderr
    with (tmp_path / "maps" / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(tmp_path / name) for name in ("a.png", "c.dcm#1", "c.dcm#2")]
    assert {row["method"] for row in rows} == {"integrated_gradients"}  # all that a dense network has
    assert len(list((tmp_path / "maps").iterdir())) == 2 * len(rows) + 1
    for row in rows:
        assert np.load(tmp_path / "maps" / row["array"]).shape == hostile_inputs.scan().shape


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model=M", "--method=layercam", "x.png"], "--method applies to heat maps only"),
        (["--model=M", "--gradcam=maps", "--method=other", "x.png"], "--method"),
        (["--model=M"], "nothing to predict"),
        (["--model=nowhere", "x.png"], "'nowhere' holds no checkpoint"),
        (["--model=M", "--format=xml", "x.png"], "--format"),
        (["--model=M", "--views=0", "x.png"], "--views"),
    ],
)
def test_wrong_flags(model, arguments, said):
    ended = runs.run(command(*(argument.replace("=M", f"={model}") for argument in arguments)))
    assert ended.returncode == 2
    assert said in ended.stderr and len(ended.stderr.strip().splitlines()) == 1
    assert ended.stdout == ""


def test_help_has_examples_and_needs_no_jax():
    program = (
        "import runpy, sys; sys.argv = ['predict', '--help']\n"
        "try: runpy.run_module('bt_jax.predict', run_name='__main__', alter_sys=True)\n"
        "finally: assert 'jax' not in sys.modules"
    )
    ended = runs.run([sys.executable, "-c", program])
    assert ended.returncode == 0, ended.stderr
    assert "python -m bt_jax.predict --model=runs/effnet_cpu scan.png" in ended.stdout
    assert "--views" in ended.stdout


@pytest.mark.slow
def test_a_reader_that_has_seen_enough(model, tmp_path):
    (tmp_path / "a.png").write_bytes(hostile_inputs.image())
    arguments = command(f"--model={model}", "--batch_size=1", *[tmp_path / "a.png"] * 300)
    with subprocess.Popen(arguments, cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["path"].endswith("a.png")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.slow
def test_records_stream_and_an_interrupt_leaves_no_half_file(model, tmp_path):
    """A record is there before the next batch is read: here while a large folder is still being worked on."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number:04d}.png").write_bytes(encode_png(hostile_inputs.scan(48, 64)))
    arguments = command(f"--model={model}", folder)
    with subprocess.Popen(arguments, cwd=runs.ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["path"] == str(folder / "0000.png")
        assert process.poll() is None
        rest = process.stdout.read()
    assert process.returncode == 0
    assert [record["path"][-8:-4] for record in records(rest)] == [f"{number:04d}" for number in range(1, 3000)]
    out = tmp_path / "out" / "records.jsonl"
    with subprocess.Popen([*arguments, f"--out={out}"], cwd=runs.ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not (out.parent.exists() and any(path.stat().st_size for path in out.parent.iterdir())):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None and "interrupted" in process.stderr.read()
    assert process.returncode == 130
    assert list(out.parent.iterdir()) == []


@pytest.mark.slow
def test_a_trained_run_answers_as_its_report_does(tmp_path):
    """With one model, with itself as an ensemble, and with the folds of a cross-validation."""
    phantom_folder.write(tmp_path / "data", training_per_class=25, testing_per_class=4, seed=0)
    config = runs.small_config(data__source="folder", data__dir=str(tmp_path / "data"), stages__count=1)
    assert train.train_and_evaluate(config, tmp_path / "run") == 0
    report = list(csv.DictReader((tmp_path / "run/report/testing/predictions.csv").read_text().splitlines()))
    for models in ([tmp_path / "run"], [tmp_path / "run"] * 2):
        ended = runs.run(command(*(f"--model={path}" for path in models), tmp_path / "data" / "Testing"))
        assert ended.returncode == 0, ended.stderr
        found = {record["path"].split("/data/")[1]: record for record in records(ended.stdout)}
        assert found.keys() == {row["path"] for row in report}
        for row in report:
            record = found[row["path"]]
            assert record["prediction"] == row["prediction"]
            for name, probability in record["probabilities"].items():
                assert probability == pytest.approx(float(row[name]), abs=1e-4)


@pytest.mark.slow
def test_the_hostile_corpus_ends_with_a_record_for_each(model, tmp_path):
    hostile_inputs.write(tmp_path / "corpus")
    names = sorted(hostile_inputs.corpus())
    ended = runs.run(command(f"--model={model}", *(tmp_path / "corpus" / name for name in names)))
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr and medical_files.SECRET not in ended.stdout + ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    answered = [pathlib.Path(record["path"]).name.split("#")[0] for record in records(ended.stdout)]
    assert list(dict.fromkeys(answered)) == names


@pytest.mark.slow
def test_start_to_first_record_with_programs_cached(model, tmp_path):
    """A second start of a large model; the bound is generous, for machines that are busy with other tests."""
    large = tmp_path / "large"
    runs_config = runs.config(model__name="efficientnet_lite1", preprocess__size=64,
                              data__phantoms_per_class=(10, 2), data__folds=2,
                              stages__count=1, stages__head_epochs=0.1)  # fmt: skip
    assert train.train_and_evaluate(runs_config, large) == 0
    (tmp_path / "a.png").write_bytes(hostile_inputs.image())
    seconds = []
    for _ in range(2):
        begin = time.monotonic()
        assert runs.run(command(f"--model={large}", tmp_path / "a.png"), fresh=True).returncode == 0
        seconds.append(time.monotonic() - begin)
    assert seconds[1] < 15, seconds


def test_a_closed_standard_output_is_said_before_the_model_is_loaded():
    line = f"{sys.executable} -m bt_jax.predict --model=absent absent.png >&-"
    ended = subprocess.run(["bash", "-c", line], cwd=runs.ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "error: the standard output is closed: name a file for the records with --out\n"

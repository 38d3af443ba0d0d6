"""The benchmark as a command: every mode on a tiny network, its files, and what it refuses. No number is judged."""

import json
import os
import pathlib
import sys

import pytest

from bt_jax.benchmark import peer_process
from tests import runs

SMALL = {
    "model.name": "efficientnet_nano",
    "model.hidden": (8,),
    "preprocess.size": 32,
    "data.phantoms_per_class": (4, 2),
    "stages.count": 3,
    "stages.lowest_segment": "top",
}
CONTRACT = {"schema", "mode", "config", "model", "batch", "images_per_s", "compile_s", "flops_per_image",
            "bytes_per_image", "peers", "size", "dtype", "repeats", "ceiling", "achieved", "peak_memory_bytes",
            "machine", "versions", "date"}  # fmt: skip


def benchmark(*flags: str, small: bool = True, **environment: str):
    fields = [f"--config.{name}={value}" for name, value in SMALL.items()] if small else []
    # Compilation is not what is tested here: it may come from the session's cache, which the command leaves alone.
    cache = os.path.join(os.environ["BT_CACHE"], "xla")  # noqa: PTH118
    return runs.run(
        [sys.executable, "-m", "bt_jax.benchmark", *flags[:1], *fields, *flags[1:]],
        **{"JAX_COMPILATION_CACHE_DIR": cache} | environment,
    )


def measured(folder: pathlib.Path, mode: str, *flags: str, **environment: str):
    """The numbers of a run, and what it printed."""
    path = folder / f"{mode}.json"
    ended = benchmark(
        "--config=configs/effnet.py:demo", f"--mode={mode}", "--batch=4", "--repeats=2", f"--json={path}", *flags,
        **environment,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    result = json.loads(path.read_text())
    assert result.keys() >= CONTRACT
    assert (result["schema"], result["mode"], result["batch"], result["repeats"]) == (1, mode, 4, 2)
    assert result["config"] == "configs/effnet.py:demo"
    assert (result["model"], result["size"], result["dtype"]) == ("efficientnet_nano", 32, "float32")
    assert result["ceiling"]["gflops_per_s"] > 0 and result["ceiling"]["gb_per_s"] > 0
    assert result["peak_memory_bytes"]["process"] > 2**20
    return result, ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_steps(tmp_path, mode):
    result, printed = measured(tmp_path, mode)
    assert result["images_per_s"] == pytest.approx(4 / result["step_s"]["median"])
    assert result["step_s"]["min"] <= result["step_s"]["median"] <= result["step_s"]["max"]
    assert result["compile_s"] > 0
    assert result["achieved"]["gflops_per_s"] == pytest.approx(result["flops_per_image"] * result["images_per_s"] / 1e9)
    assert result["peak_memory_bytes"]["program"] > 0
    assert result["peers"] == {} and result["missing_peers"] == {}
    assert "ceiling" in printed and "bt_jax" in printed


@pytest.mark.slow
def test_stages(tmp_path):
    result, printed = measured(tmp_path, "stages", "--images=100")
    assert [stage["first_segment"] for stage in result["stages"]] == ["head", "top", "top"]
    assert [stage["program"] for stage in result["stages"]] == ["head", "top", "top"]
    assert [stage["steps"] for stage in result["stages"]] == [25, 25, 25]  # an epoch each
    assert [program["lowest_segment"] for program in result["programs"]] == ["head", "top"]
    step_s = {program["lowest_segment"]: program["step_s"]["median"] for program in result["programs"]}
    assert result["plan_s"] == pytest.approx(25 * step_s["head"] + 50 * step_s["top"])
    assert result["images_per_s"] == pytest.approx(300 / result["plan_s"])
    assert result["compile_s"] == pytest.approx(sum(program["compile_s"] for program in result["programs"]))
    assert "2-3" in printed and "share a program" in printed


@pytest.mark.slow
def test_input(tmp_path):
    result, printed = measured(tmp_path, "input")
    assert result["images"] == 16 and result["synthetic"] is True
    assert result["decode_images_per_s"] > 0
    assert result["flops_per_image"] is None and result["compile_s"] is None
    assert list(result["augmentation_ms"]) == [
        "none", "flip", "rotation", "zoom", "shift", "contrast", "brightness", "all"
    ]  # fmt: skip
    assert all(value > 0 for value in result["augmentation_ms"].values())
    assert "phantoms" in printed and "rotation" in printed


@pytest.mark.slow
def test_peers_take_part(tmp_path):
    """A python that stands for one with all peers but ONNX Runtime: it takes any script of theirs for a quick one."""
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "script, mode, batch, size, model = sys.argv[1:6]\n"
        "assert os.path.isfile(script) and (mode, batch, size) == ('infer', '4', '32'), sys.argv\n"
        "assert model == ('efficientnet_lite0' if 'runtime' in script else 'tf_efficientnet_lite0')\n"
        "ready = {'ready_s': 1.5, 'version': 'one 1'}\n"
        "absent = {'not_installed': 'no onnx'}\n"
        "print(json.dumps(absent if 'onnx_runtime' in script else ready), flush=True)\n"
        "for _ in sys.stdin:\n"
        "    print(json.dumps({'seconds': 0.001, 'peak_memory_bytes': 5}), flush=True)\n"
    )
    python.chmod(0o755)
    path = tmp_path / "result.json"
    ended = benchmark(
        "--config=configs/effnet.py:demo", "--config.model.name=efficientnet_lite0", "--mode=infer", "--batch=4",
        "--repeats=2", "--peers", f"--json={path}", BT_PEERS_PYTHON=str(python),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    result = json.loads(path.read_text())
    assert result["missing_peers"] == {
        "Keras on TensorFlow": "has no efficientnet_lite0", "ONNX Runtime": "not installed (no onnx)"
    }  # fmt: skip
    assert result["peers"].keys() == {"timm", "timm + torch.compile", "OpenVINO"}
    assert result["missing_engines"] == {} and result["engines"].keys() == {"bt_jax, ONNX Runtime", "bt_jax, OpenVINO"}
    assert result["engines"]["bt_jax, ONNX Runtime"]["ratio"] is None
    openvino = result["engines"]["bt_jax, OpenVINO"]
    assert openvino["version"].startswith("OpenVINO") and openvino["images_per_s"] > 0
    assert openvino["ratio"] == pytest.approx(openvino["images_per_s"] / 4000)
    for peer in result["peers"].values():
        assert peer["images_per_s"] == pytest.approx(4000)
        assert peer["ratio"] == pytest.approx(result["images_per_s"] / 4000)
        assert (peer["ready_s"], peer["version"], peer["peak_memory_bytes"]) == (1.5, "one 1", 5)
    assert "ONNX Runtime: not installed (no onnx)" in ended.stdout


@pytest.mark.slow
def test_a_model_that_no_peer_has_is_measured_all_the_same(tmp_path):
    result, printed = measured(tmp_path, "infer", "--peers")
    assert result["missing_peers"] == {
        peer.name: "has no efficientnet_nano" for peer in peer_process.PEERS if peer.models is not None
    }
    assert "timm: has no efficientnet_nano" in printed
    # These run any network, in the interpreter of this test.
    assert result["peers"].keys() == {"ONNX Runtime", "OpenVINO"}
    for name, peer in result["peers"].items():
        ours = result["engines"][f"bt_jax, {name}"]
        assert ours["ratio"] == pytest.approx(ours["images_per_s"] / peer["images_per_s"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mode=train"], "--config is missing"),
        (["--config=configs/effnet.py"], "--mode is missing: use train, infer, input or stages"),
        (["--config=configs/effnet.py", "--mode=fly"], "value should be one of <train|infer|input|stages>"),
        (["--config=configs/nowhere.py", "--mode=infer"], "configs/nowhere.py"),
        (["--config=configs/effnet.py", "--mode=infer", "--batch=0"], "--batch=0"),
        (["--config=configs/effnet.py", "--mode=infer", "--repeats=0"], "--repeats=0"),
        (["--config=configs/effnet.py", "--mode=input", "--peers"], "--peers cannot be used with --mode=input"),
        (["--config=configs/effnet.py", "--mode=infer", "--config.model.name=x"], "there is no model 'x'"),
        (["--config=configs/effnet.py", "--mode=stages", "--images=3"], "there are only 3 training images"),
        (["--config=configs/effnet.py", "--mode=infer", "--peers"], "$BT_PEERS_PYTHON is '/nowhere/python'"),
        (["--table=/nowhere"], "/nowhere contains no results of the benchmark"),
    ],
)
def test_wrong_flags(flags, said):
    ended = benchmark(*flags, small=False, BT_PEERS_PYTHON="/nowhere/python")
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


def result(**changes):
    return {
        "schema": 1, "mode": "train", "config": "configs/effnet.py", "model": "efficientnet_b1", "batch": 16,
        "size": 240, "dtype": "float32", "date": "2026-01-02T03:04:05+00:00", "images_per_s": 8.04,
        "achieved": {"gflops_per_s": 30.0, "gb_per_s": 5.0}, "ceiling": {"gflops_per_s": 120.0, "gb_per_s": 20.0},
        "peers": {"timm": {"images_per_s": 10.05, "ratio": 0.8}, "Keras on TensorFlow": {"ratio": 1.25}},
        "machine": {"processor": "A Processor", "cores": 2, "device": "cpu", "devices": 1},
        **changes,
    }  # fmt: skip


def test_the_table_of_many_results(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps(result()))
    gpu = {"processor": "A Processor", "cores": 2, "device": "Some GPU", "devices": 4}
    earlier = result(mode="input", images_per_s=1234.5, peers={}, machine=gpu, date="2025-12-31T00:00:00+00:00",
                     achieved={"gflops_per_s": None, "gb_per_s": None})  # fmt: skip
    (tmp_path / "c.json").write_text(json.dumps(earlier))
    (tmp_path / "a.json").write_text('{"something": "else"}')
    ended = benchmark(f"--table={tmp_path}", small=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[2:] == [
        "| input | efficientnet_b1, 240x240, float32 | 16 | 1,234 |  |  |  | 4 x Some GPU, 2025-12-31 |",
        "| train | efficientnet_b1, 240x240, float32 | 16 | 8.0 | 0.80 timm, 1.25 Keras on TensorFlow "
        "|  | 25 % FLOP/s, 25 % bytes/s | A Processor, 2 cores, 2026-01-02 |",
    ]

"""The fields of a report, computed from seconds that the test sets: no program is compiled or timed."""

import contextlib
import dataclasses
import types

import numpy as np
import pytest

from bt_jax.benchmark import measurements, peer_process
from bt_jax.benchmark.step_throughput import CompiledProgram, Workload
from bt_jax.common.errors import UsageError

WORKLOAD = Workload(
    model="efficientnet_nano",
    options={"hidden": (8,), "dropout_rate": 0.5},
    size=32,
    batch=4,
    dtype="float32",
    optimizer={"name": "adamw", "weight_decay": 0.01, "b1": 0.9, "b2": 0.999, "clip_norm": 1.0},
    label_smoothing=0.1,
    average_decay=0.0,
)
PLAN = {
    "count": 3, "lowest_segment": "top", "head_epochs": 4.0, "epochs": 2.0, "head_learning_rate": 1e-3,
    "learning_rate": 1e-4, "final_learning_rate": 1e-5, "programs": 4,
}  # fmt: skip


def make_program(flops: float | None = 80.0, bytes_accessed: float | None = 40.0) -> CompiledProgram:
    return CompiledProgram(
        run=lambda: None, wait=lambda: None, compile_s=3.0, flops=flops, bytes_accessed=bytes_accessed, memory_bytes=100
    )


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """The seconds of each measured function by name; ceilings take 0.5 s for 1e9 operations and 2e9 bytes."""
    seconds: dict[str, list[float]] = {}

    def measure_in_turns(turns, *, repeats, pause_s=0.0):
        found = {name: seconds.get(name, [0.5]) for name in turns}
        return {name: values for name, values in found.items() if values}, {
            name: "it failed" for name, values in found.items() if not values
        }

    ceilings = {
        name: types.SimpleNamespace(run=lambda: None, wait=lambda: None, amount=amount)
        for name, amount in (("flops", 1e9), ("bytes", 2e9))
    }
    monkeypatch.setattr(measurements.machine, "prepare_ceilings", lambda dtype: ceilings)
    monkeypatch.setattr(measurements.peer_process, "measure_in_turns", measure_in_turns)
    return seconds


def test_rates_and_costs_of_steps(monkeypatch: pytest.MonkeyPatch, timed: dict[str, list[float]]) -> None:
    monkeypatch.setattr(measurements.step_throughput, "compile_forward", lambda workload: make_program())
    timed["bt_jax"] = [4.0, 1.0, 2.0]
    found = measurements.measure_steps(WORKLOAD, mode="infer", peers_python=None, repeats=3)
    assert found["images_per_s"] == 2.0
    assert found["step_s"] == {"median": 2.0, "min": 1.0, "max": 4.0}
    assert (found["flops_per_image"], found["bytes_per_image"], found["compile_s"]) == (20.0, 10.0, 3.0)
    assert found["achieved"] == {"gflops_per_s": 40e-9, "gb_per_s": 20e-9}
    assert found["ceiling"] == {"gflops_per_s": 2.0, "gb_per_s": 4.0}
    assert found["peak_memory_bytes"]["program"] == 100 and found["peak_memory_bytes"]["process"] > 2**20
    assert (found["model"], found["batch"], found["size"], found["dtype"]) == ("efficientnet_nano", 4, 32, "float32")
    assert found["peers"] == found["missing_peers"] == {}


def test_unknown_costs_are_none(monkeypatch: pytest.MonkeyPatch, timed: dict[str, list[float]]) -> None:
    program = make_program(flops=None, bytes_accessed=None)
    monkeypatch.setattr(measurements.step_throughput, "compile_forward", lambda workload: program)
    found = measurements.measure_steps(WORKLOAD, mode="infer", peers_python=None, repeats=1)
    assert found["flops_per_image"] is None and found["bytes_per_image"] is None
    assert found["achieved"] == {"gflops_per_s": None, "gb_per_s": None}


def test_peers_are_compared_closed_and_missing_ones_reported(
    monkeypatch: pytest.MonkeyPatch, timed: dict[str, list[float]]
) -> None:
    closed = []

    def start_peers(**options):
        assert options["mode"] == "infer" and options["batch"] == 4 and options["python"] == "a python"
        assert options["options"] == () and options["peers"] == peer_process.PEERS
        ready = {
            name: types.SimpleNamespace(
                turn=lambda: 1.0,
                close=lambda name=name: closed.append(name),
                ready_s=9.0,
                version="1",
                peak_memory_bytes=5,
            )
            for name in ("quick", "broken")
        }
        return ready, {"absent": "not installed"}

    monkeypatch.setattr(measurements.step_throughput, "compile_forward", lambda workload: make_program())
    monkeypatch.setattr(measurements.peer_process, "start_peers", start_peers)
    timed |= {"bt_jax": [2.0], "quick": [0.5, 1.5], "broken": []}
    found = measurements.measure_steps(WORKLOAD, mode="infer", peers_python="a python", repeats=2)
    assert found["peers"] == {
        "quick": {
            "images_per_s": 4.0, "ratio": 0.5, "step_s": {"median": 1.0, "min": 0.5, "max": 1.5}, "ready_s": 9.0,
            "peak_memory_bytes": 5, "version": "1",
        }
    }  # fmt: skip
    assert found["missing_peers"] == {"absent": "not installed", "broken": "it failed"}
    assert sorted(closed) == ["broken", "quick"]


@pytest.mark.parametrize(("platform", "devices"), [("tpu", 1), ("gpu", 2)])
def test_peers_need_a_cpu_or_a_gpu(monkeypatch: pytest.MonkeyPatch, platform: str, devices: int) -> None:
    monkeypatch.setattr(measurements.jax, "default_backend", lambda: platform)
    monkeypatch.setattr(measurements.jax, "device_count", lambda: devices)
    with pytest.raises(UsageError, match=f"--peers needs JAX on a CPU or one GPU, and it runs on {devices} {platform}"):
        measurements.measure_steps(WORKLOAD, mode="infer", peers_python="a python", repeats=1)


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        ("cpu", ["timm", "timm + torch.compile", "Keras on TensorFlow", "ONNX Runtime", "OpenVINO"]),
        ("gpu", ["timm", "timm + torch.compile"]),
    ],
)
def test_peers_do_the_same_work(
    monkeypatch: pytest.MonkeyPatch, timed: dict[str, list[float]], platform: str, names: list[str]
) -> None:
    work = {"cpu": ("running_statistics",), "gpu": ("running_statistics", "clip_norm=1.0", "average_decay=0.5")}
    workload = dataclasses.replace(WORKLOAD, options={**WORKLOAD.options, "batch_statistics": False}, average_decay=0.5)

    def start_peers(**options):
        assert options["options"] == work[platform]
        assert [peer.name for peer in options["peers"]] == names
        assert all(("gpu" in peer.options) == (platform == "gpu") for peer in options["peers"])
        return {}, {}

    monkeypatch.setattr(measurements.jax, "default_backend", lambda: platform)
    monkeypatch.setattr(measurements.step_throughput, "compile_training_steps", lambda *_, **__: {0: make_program()})
    monkeypatch.setattr(measurements.peer_process, "start_peers", start_peers)
    timed["bt_jax"] = [1.0]
    measurements.measure_steps(workload, mode="train", peers_python="a python", repeats=1)


def test_the_duration_of_a_plan_sums_its_stages(monkeypatch: pytest.MonkeyPatch, timed: dict[str, list[float]]) -> None:
    names = WORKLOAD.create_network()[0].segment_names
    head, top = len(names) - 1, len(names) - 2

    def compile_training_steps(workload, segments):
        assert segments == [head, top]
        return {head: make_program(flops=40.0), top: make_program(flops=80.0)}

    monkeypatch.setattr(measurements.step_throughput, "compile_training_steps", compile_training_steps)
    timed |= {"head": [0.1], "top": [0.3]}
    found = measurements.measure_stages(WORKLOAD, plan=PLAN, images=100, repeats=1)
    assert [stage["steps"] for stage in found["stages"]] == [100, 50, 50]
    assert [stage["seconds"] for stage in found["stages"]] == pytest.approx([10.0, 15.0, 15.0])
    assert found["plan_s"] == pytest.approx(40.0)
    assert found["images_per_s"] == pytest.approx(200 * 4 / 40.0)
    assert found["flops_per_image"] == pytest.approx((100 * 40 + 100 * 80) / 200 / 4)
    assert [program["lowest_segment"] for program in found["programs"]] == ["head", "top"]
    assert found["compile_s"] == 6.0


def test_the_input_pipeline(monkeypatch: pytest.MonkeyPatch, timed: dict[str, list[float]]) -> None:
    @contextlib.contextmanager
    def start_batches(images, *, batch, workers, threads, sharding):
        assert images.images.shape == (16, 32, 32) and images.images.dtype == np.uint8
        assert (batch, workers, threads) == (4, 0, 1)
        yield lambda: 1.0

    monkeypatch.setattr(measurements.input_throughput, "start_batches", start_batches)
    timed |= {"bt_jax": [8.0], "flip": [0.002]}
    found = measurements.measure_input(
        WORKLOAD,
        data={
            "source": "phantoms", "dir": "", "phantoms_per_class": (4, 2), "max_unreadable": 0, "workers": 0,
            "threads": 1,
        },
        preprocess={},
        augment={"flip": True},
        seed=0,
        repeats=1,
    )  # fmt: skip
    assert measurements.input_throughput.BATCHES_PER_TURN == 16
    assert found["step_s"]["median"] == 0.5 and found["images_per_s"] == 8.0
    assert found["augmentation_ms"] == {"none": 500.0, "flip": 2.0, "all": 500.0}
    assert (found["images"], found["synthetic"], found["compile_s"]) == (16, True, None)
    assert found["decode_images_per_s"] > 0

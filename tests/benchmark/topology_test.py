import dataclasses
import functools
import importlib.util
import json
import sys
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from bt_jax.benchmark import topology
from bt_jax.benchmark.topology import CompiledCosts
from bt_jax.common.errors import UsageError
from bt_jax.distributed import sharding
from bt_jax.models import registry, summary
from tests import runs

INSTALLED = importlib.util.find_spec("libtpu") is not None


def measured(images, *, fixed=1000, per_image=10):
    memory = {"arguments": fixed + 50, "outputs": 50, "aliased": 50, "temporaries": per_image * images, "program": 0}
    return CompiledCosts(compile_s=1.0, memory=memory, flops=1.0, bytes=1.0, main_memory_bytes=1.0, collectives={})


def test_what_outputs_share_with_arguments_is_needed_once():
    assert measured(8).needed == 1000 + 50 + 80


def test_extrapolation_of_the_batch_is_exact_where_memory_is_linear():
    usable = 1050 + 10 * 77.5
    assert topology.extrapolate_batch(measured(16), 16, usable=usable) == 77
    assert topology.extrapolate_batch(measured(16), 16, usable=usable, other=(measured(8), 8)) == 77
    assert topology.extrapolate_batch(measured(16), 16, usable=0) == 0
    assert topology.extrapolate_batch(measured(16, per_image=0), 16, usable=usable) is None


def search(capacity, *, images=16, usable=10_000):
    """The search on a compiler that takes up to `capacity` images: the result, and what was compiled."""
    compiled = []

    def measure(per_chip):
        compiled.append(per_chip)
        return measured(per_chip) if per_chip <= capacity else None

    found = topology._find_largest_batch(measure, measured(images), images, usable=usable, say=lambda _: None)
    return found, compiled


def test_the_largest_batch_is_compiled_before_it_is_named():
    found, compiled = search(capacity=10_000)
    assert found == {"extrapolated": 895, "compiled": 888, "needed": measured(888).needed}
    assert compiled == [32, 888]


def test_the_search_steps_back_where_the_extrapolation_was_too_high():
    found, compiled = search(capacity=840)
    assert compiled == [32, 888, 832] and found["compiled"] == 832


@pytest.mark.parametrize(("capacity", "largest"), [(16, 16), (32, 32)])
def test_the_search_ends_at_what_is_known_to_fit(capacity, largest):
    found, compiled = search(capacity=capacity)
    assert compiled == [32, 888, 832, 776]
    assert found == {"extrapolated": 895, "compiled": largest, "needed": measured(largest).needed}


def test_nothing_is_written_to_the_cache_of_programs(tmp_path):
    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in settings}

    def compile_power(power):
        jax.jit(lambda x: x**power).lower(1.0).compile()

    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        with topology._disable_cache():
            compile_power(3)
        assert not list(tmp_path.iterdir())
        compile_power(5)
        assert list(tmp_path.iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_without_the_compiler_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^--topology needs libtpu.*pip install 'jax\[tpu\]' libtpu$"):
        topology.list_devices("v5e:2x4")


@dataclasses.dataclass(frozen=True)
class Brightening:
    """Stands for a training step, and compiles in a moment."""

    mesh: Any = None

    def lower(self, program_segment, state, batch):
        one, many = sharding.get_replicated_sharding(self.mesh), sharding.get_batch_sharding(self.mesh)
        step = jax.jit(
            lambda state, batch, rate: (state + batch["image"].mean() + program_segment, batch["image"] * rate),
            in_shardings=(one, many, one),
            out_shardings=(one, many),
        )
        return step.lower(state, batch, jax.ShapeDtypeStruct((), np.float32))


@pytest.mark.parametrize(("topology_name", "devices_per_chip"), [("v6e:2x4", 1), ("v4:2x2x2", 2)])
def test_figures_are_those_of_a_chip(topology_name, devices_per_chip):
    report = functools.partial(
        topology.compile_for_topology,
        Brightening(),
        jax.ShapeDtypeStruct((), np.float32),
        topology=topology_name,
        size=32,
        say=lambda _: None,
    )
    if not INSTALLED:  # the project works without the extra; then this is what a user sees
        with pytest.raises(UsageError, match="pip install"):
            report(batch_per_chip=2048)
        return
    result = report(batch_per_chip=2048)
    images = 2048 * 32 * 32 * 4
    assert (result["chips"], result["devices_per_chip"], result["batch"]) == (8, devices_per_chip, 8 * 2048)
    assert result["memory_per_chip"]["arguments"] == pytest.approx(images, rel=0.01)
    assert result["memory_per_chip"]["outputs"] == pytest.approx(images, rel=0.01)
    assert result["flops_per_step"] == pytest.approx(images / 4 * 2, rel=0.01)  # a product and a sum for each pixel
    assert result["main_memory_bytes_per_step"] == pytest.approx(2 * images, rel=0.01)
    assert result["collectives"]["all-reduce"] == {"count": 1, "bytes": 4}
    assert result["roofline"]["bound_by"] == "memory"
    assert result["largest_batch_per_chip"]["extrapolated"] is None  # it has no temporaries
    with pytest.raises(UsageError, match=r"10000000 images per chip does not fit .*: use a smaller batch$"):
        report(batch_per_chip=10_000_000)
    with pytest.raises(UsageError, match="positive multiple"):
        report(batch_per_chip=0)


def benchmark(*flags):
    return runs.run(
        [sys.executable, "-m", "bt_jax.benchmark", "--config=configs/effnet.py", *flags, "--config.preprocess.size=64",
         "--config.model.name=efficientnet_nano"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mode=infer", "--topology=v5e:2x4"], "use it with --mode=train"),
        (["--mode=train", "--topology=v5e:2x4", "--peers"], "without --peers"),
        (["--mode=train", "--largest_batch"], "--largest_batch needs a TPU slice"),
        (["--mode=train", "--topology=v5e"], "such as v5e:2x4" if INSTALLED else "pip install"),
    ],
)
def test_wrong_flags(flags, said):
    ended = benchmark(*flags)
    assert ended.returncode == 2
    assert said in ended.stderr and ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_step_compiles_for_a_slice_that_is_not_there(tmp_path):
    path = tmp_path / "topology.json"
    ended = benchmark("--mode=train", "--topology=v5e:2x4", "--batch=16", f"--json={path}")
    if not INSTALLED:
        assert (ended.returncode, path.exists()) == (2, False)
        assert "pip install" in ended.stderr
        return
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "compiled for v5e:2x4 in" in ended.stdout and "images/s per chip, bound by" in ended.stdout
    result = json.loads(path.read_text())
    assert (result["mode"], result["model"], result["size"]) == ("train", "efficientnet_nano", 64)
    assert (result["dtype"], result["images_per_s"]) == ("bfloat16", None)
    assert (result["chips"], result["devices_per_chip"], result["batch"]) == (8, 1, 128)
    parameters = summary.count_parameters(registry.create("efficientnet_nano", classes=4, hidden=(256,))[1])
    memory = result["memory_per_chip"]
    # Weights, two moments and the averages, in float32, each padded to tiles.
    assert 16 * parameters < memory["arguments"] < 64 * parameters
    assert memory["arguments"] < memory["needed"] < memory["usable"]
    assert memory["aliased"] > 0.9 * memory["outputs"]  # the state is donated
    assert result["flops_per_image"] * 16 == result["flops_per_step"] > 0
    # The gradient of every weight is summed over the chips, in the dtype of the computation.
    assert result["collectives"]["all-reduce"]["bytes"] > 2 * parameters
    assert 0 < result["main_memory_bytes_per_step"] < result["bytes_per_step"]
    bound = result["roofline"]
    assert 0 < bound["images_per_s_per_chip"] < bound["images_per_s_per_chip_main_memory"]
    assert result["largest_batch_per_chip"]["extrapolated"] > 128


@pytest.mark.slow
def test_names_of_topologies():
    if not INSTALLED:
        with pytest.raises(UsageError, match="pip install"):
            topology.list_devices("v5e:2x4")
        return
    for name, devices in {"v5e:1x1": 1, "v5e:16x16": 256, "v6e:2x4": 8, "v5p:2x2x2": 8}.items():
        assert len(topology.list_devices(name)) == devices
    cores = topology.list_devices("v4:2x2x1")
    assert len(cores) == 8 and len({tuple(core.coords) for core in cores}) == 4
    for wrong in ("v5e", "v5e:3x3", "tpu:2x4", "", "v5e:0x4"):
        with pytest.raises(UsageError, match=r"^--topology is .* v5e:2x4[^\n]*$"):
            topology.list_devices(wrong)

"""Layouts: the same training on any number of devices, what is divided among them, and what they tell each other."""

import json
import sys
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from bt_jax.common.errors import UsageError
from bt_jax.distributed import sharding
from bt_jax.models import registry
from bt_jax.training import flat_layout, optimizer, train_state
from tests import runs

MESH = sharding.make_mesh()


def trained(model: str, count: int, sizes: str, *fields: str) -> dict[str, Any]:
    """What `tests.layouts` prints."""
    done = runs.run([sys.executable, "-m", "tests.layouts", model, str(count), sizes, *fields], JAX_NUM_CPU_DEVICES="8")
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def assert_alike(found: dict[str, Any], *, of: dict[str, Any], rtol: float) -> None:
    """Two trainings have the same losses, and end with the same answers, on more images than one batch holds."""
    np.testing.assert_allclose(found["losses"], of["losses"], rtol=rtol)
    np.testing.assert_allclose(found["norms"], of["norms"], rtol=10 * rtol)
    assert np.shape(found["logits"]) == (19, 4)
    np.testing.assert_allclose(found["logits"], of["logits"], rtol=0.05, atol=100 * rtol)
    np.testing.assert_allclose(found["mirrored"], of["mirrored"], rtol=0.05, atol=100 * rtol)


@pytest.fixture(scope="module")
def dense() -> dict[str, Any]:
    return trained("mlp", 20, "1,2,8")


def collectives(found: dict[str, Any]) -> dict[str, int]:
    return {kind: one["count"] for kind, one in found["collectives"].items() if one["count"]}


@pytest.mark.slow
def test_any_number_of_devices_trains_alike(dense):
    for size in ("2", "8"):
        assert_alike(dense[size], of=dense["1"], rtol=2e-5)
    assert dense["1"]["losses"][-1] < dense["1"]["losses"][0]


@pytest.mark.slow
def test_devices_tell_each_other_the_gradient_once_a_step_and_nothing_else(dense):
    assert collectives(dense["1"]) == {}
    for size in ("2", "8"):
        assert collectives(dense[size]) == {"all-reduce": 1}
        told = dense[size]["collectives"]["all-reduce"]["bytes"]
        assert told == 4 * dense[size]["parameters"] + 8  # with loss and accuracy


@pytest.mark.slow
def test_a_divided_state_trains_alike_in_a_share_of_the_memory(dense):
    found = trained("mlp", 20, "8", 'sharded="."')["8"]
    assert_alike(found, of=dense["1"], rtol=2e-5)
    assert found["held"] < dense["1"]["held"] / 7
    assert collectives(found).keys() <= {"all-reduce", "all-gather", "reduce-scatter"}
    # Every divided parameter is gathered once, with what rounds the vectors up: no image and no activation moves.
    most = 4 * (found["parameters"] + 6 * flat_layout.MULTIPLE)
    assert found["collectives"]["all-gather"]["bytes"] <= most
    assert found["collectives"]["all-reduce"]["bytes"] <= most + 100


@pytest.mark.slow
def test_a_batch_in_parts_trains_as_the_whole_does():
    """On any number of devices, with dropout and mixing, which draw by part."""
    found = trained("mlp", 6, "1,4", "accumulate=4", "mixup=0.4")
    assert_alike(found["4"], of=found["1"], rtol=2e-5)


@pytest.mark.slow
def test_an_efficientnet_trains_alike_on_any_number_of_devices():
    """Its last block, top and head: BatchNorm on the statistics of the global batch, dropout, stochastic depth.

    Images that exchange styles may lie on other devices: their statistics move, and no map does.
    """
    found = trained("efficientnet_nano", 20, "1,4,8", "segment=-3", 'mixed=["stem"]')
    for size in ("4", "8"):
        np.testing.assert_allclose(found[size]["losses"][:5], found["1"]["losses"][:5], rtol=2e-5)
        assert_alike(found[size], of=found["1"], rtol=2e-3)
        assert collectives(found[size]).keys() == {"all-reduce", "collective-permute"}
        # Mean and deviation of the 8 channels of the stem, float32, of at most 8 images on a device.
        assert found[size]["collectives"]["collective-permute"]["bytes"] <= 2 * 8 * 4 * 8


def state_of(name: str, **options: Any) -> Any:
    """Shapes of a training state."""
    network, params, batch_stats = registry.create_abstract(name, classes=4, size=32, **options)
    transform = optimizer.make_optimizer(
        network.segment_names, name="adamw", weight_decay=0.1, b1=0.9, b2=0.999, clip_norm=1.0
    )
    return jax.eval_shape(
        lambda *trees: train_state.create_state(*trees, transform, averaging=True), params, batch_stats
    )


class EightDevices:
    """Stands for a mesh where only its size matters."""

    size = 8


def test_rules_follow_a_parameter_through_the_state(monkeypatch):
    state = state_of("efficientnet_nano", hidden=(8,))
    monkeypatch.setattr(sharding, "NamedSharding", lambda mesh, spec: spec)
    specs = sharding.ShardingRules(pattern="head|^top/kernel", least=8).make_shardings(state, EightDevices())
    by_path = {jax.tree_util.keystr(path): spec for path, spec in jax.tree_util.tree_leaves_with_path(
        specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))}  # fmt: skip
    divided = {path for path, spec in by_path.items() if spec != PartitionSpec()}
    kernel = "['head']['kernel']"
    assert {f".params{kernel}", f".average['params']{kernel}"} <= divided
    assert sum(path.endswith(kernel) for path in divided) == 4  # it, its average and two moments
    assert any(path.endswith("['top']['kernel']") for path in divided)
    assert not any("['stem']" in path or "['top']['others']" in path for path in divided)
    assert by_path[f".params{kernel}"] == PartitionSpec("data")
    assert by_path[".step"] == PartitionSpec()
    few = sharding.ShardingRules(pattern="head", least=10**6).make_shardings(state, EightDevices())
    assert few.params["head"]["kernel"] == PartitionSpec()


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((16, 64), PartitionSpec(None, "data")),
        ((64, 16), PartitionSpec("data")),
        ((3, 3, 8, 24), PartitionSpec(None, None, None, "data")),
        ((12, 100), PartitionSpec()),
        ((), PartitionSpec()),
        ((4,), PartitionSpec()),
    ],
)
def test_an_array_is_divided_along_its_longest_axis_that_can_be(shape, spec):
    assert sharding.ShardingRules(pattern=".", least=8)._choose_spec("a", shape, 8) == spec
    assert sharding.ShardingRules(pattern=".", least=10**6)._choose_spec("a", shape, 8) == PartitionSpec()
    assert sharding.ShardingRules(pattern="b", least=8)._choose_spec("a", shape, 8) == PartitionSpec()


def test_a_pattern_that_is_none():
    with pytest.raises(UsageError, match=r"config\.mesh\.sharded is '\(', no regular expression"):
        sharding.ShardingRules(pattern="(")


def test_one_host_holds_all_rows():
    np.testing.assert_array_equal(sharding.get_host_rows(MESH, 6), np.arange(6))


def test_what_is_whole_is_gathered_as_it_is():
    state = sharding.place({"a": np.ones(3), "b": {"c": np.zeros((2, 2))}}, sharding.get_replicated_sharding(MESH))
    assert sharding.gather(state, MESH) is state
    assert "devices: 1; " in sharding.describe(state, MESH)

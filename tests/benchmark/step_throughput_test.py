"""The compiled programs that the benchmark measures."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.benchmark import step_throughput
from bt_jax.benchmark.step_throughput import Workload
from bt_jax.common.errors import UsageError
from bt_jax.inference.forward import make_forward
from bt_jax.models import registry, summary
from bt_jax.models.normalise import LITE

WORKLOAD = Workload(
    model="efficientnet_nano",
    options={"hidden": (8,), "dropout_rate": 0.5},
    size=32,
    batch=4,
    dtype="float32",
    optimizer={"name": "adamw", "weight_decay": 0.01, "b1": 0.9, "b2": 0.999, "clip_norm": 1.0},
    label_smoothing=0.1,
    average_decay=0.99,
)


def test_the_size_is_the_models_own_where_none_is_given():
    workload = dataclasses.replace(WORKLOAD, size=0)
    assert workload.size == registry.get_native_size("efficientnet_nano") == 96
    assert workload.make_images().shape == (4, 96, 96)


def test_a_batch_that_the_devices_cannot_share(monkeypatch):
    monkeypatch.setattr(step_throughput.jax, "device_count", lambda: 8)
    with pytest.raises(UsageError, match="--batch is 4: use a multiple of the 8 devices"):
        dataclasses.replace(WORKLOAD, batch=4)


@pytest.mark.slow
def test_a_forward_computes_what_evaluation_computes(monkeypatch):
    seen = []
    monkeypatch.setattr(
        step_throughput.jax, "block_until_ready", lambda held: seen.append(np.asarray(held["outputs"][0]))
    )
    program = step_throughput.compile_forward(WORKLOAD)
    program.run()
    program.wait()
    network, params, batch_stats = WORKLOAD.create_network()
    forward = make_forward(network, normalisation=LITE, dtype=jnp.dtype("float32"))
    logits, _ = forward(params, batch_stats, WORKLOAD.make_images())
    np.testing.assert_allclose(seen[0], logits, rtol=1e-5, atol=1e-6)
    assert program.compile_s > 0
    # Its largest matrix product alone, the top convolution at 1x1 pixels, is more than this.
    assert program.flops is not None and program.flops > 4 * 2 * 80 * 320
    parameters = summary.count_parameters(params)
    counted = forward.lower(params, batch_stats, WORKLOAD.make_images()).compile().cost_analysis()
    assert program.flops == pytest.approx(counted["flops"], rel=0.05), "all pairs of images"
    assert program.bytes_accessed is None
    assert program.memory_bytes is not None and program.memory_bytes > 4 * parameters


@pytest.mark.slow
def test_programs_train_from_their_segment_up_on_one_state(monkeypatch):
    states = []

    def record(held):
        states.append(
            {
                name: np.concatenate([np.ravel(leaf) for leaf in step_throughput.jax.tree.leaves(tree)])
                for name, tree in held["state"].params.items()
            }
        )

    names = WORKLOAD.create_network()[0].segment_names
    head, top = len(names) - 1, len(names) - 2
    monkeypatch.setattr(step_throughput.jax, "block_until_ready", record)
    programs = step_throughput.compile_training_steps(WORKLOAD, [head, top])
    for segment in (head, top, head):
        programs[segment].run()
        programs[segment].wait()
    moved = [
        {name for name in names if not np.array_equal(before[name], after[name])}
        for before, after in itertools.pairwise(states)
    ]
    assert moved == [{"top", "head"}, {"head"}]
    assert programs[top].flops > programs[head].flops  # type: ignore[operator]

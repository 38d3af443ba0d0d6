"""A run's weights as the start of another, here of a network without running statistics (`train_test.py` trains)."""

import dataclasses

import jax
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.inference import trained_model
from bt_jax.inference.description import ModelDescription
from bt_jax.models import registry
from bt_jax.models.normalise import IMAGENET
from bt_jax.training import run_weights
from bt_jax.workdir.checkpoint import Checkpoints

OPTIONS = {"hidden": (6, 5), "channels": 1}
DESCRIPTION = ModelDescription(
    name="mlp", options=OPTIONS, class_names=("a", "b", "c"), preprocessing={"size": 8},
    normalisation=dataclasses.asdict(IMAGENET), weights="random weights", weights_sha256=None, synthetic=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run, and the parameters in it."""
    workdir = tmp_path_factory.mktemp("run")
    _, params, batch_stats = DESCRIPTION.create_network(seed=3)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(
        5, evaluation={"params": params, "batch_stats": batch_stats}, training={"step": np.int32(5)},
        metadata={"model": dataclasses.asdict(DESCRIPTION), "progress": {"best_step": 5}}, best_step=5,
    )  # fmt: skip
    checkpoints.close()
    return workdir, params


def start(run, *, classes=3, size=8, head=False, **changes):
    """The trees before and after loading."""
    weights = run_weights.of_run(str(run[0]), model="mlp")
    assert weights.normalisation == IMAGENET
    network, *before = registry.create("mlp", classes=classes, size=size, seed=7, **(OPTIONS | changes))
    return before, weights.load(network, *before, head=head)


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_all_of_it_is_found(run):
    workdir, params = run
    assert run_weights.is_run(str(workdir))
    assert not run_weights.is_run(str(workdir / "absent"))
    for head in (False, True):
        _, (loaded, batch_stats) = start(run, head=head)
        assert same(loaded, params)
        assert batch_stats == {}
    description, _ = trained_model.restore(workdir)
    assert description.create_network()[0].size == 8


def test_a_head_of_another_size_stays(run):
    before, (loaded, _) = start(run, classes=4)
    assert same(loaded["head"], before[0]["head"])
    assert same(loaded["dense_1"], run[1]["dense_1"])
    with pytest.raises(UsageError, match="its model differs in head"):
        start(run, classes=4, head=True)


@pytest.mark.parametrize(
    ("changes", "segments"),
    [({"size": 9}, "dense_1:"), ({"hidden": (6, 4)}, "dense_2:"), ({"hidden": (6, 5, 5)}, "dense_3:")],
)
def test_other_sizes_below_the_head_are_refused(run, changes, segments):
    with pytest.raises(UsageError, match=f"its model differs in {segments} set config.model"):
        start(run, **changes)


def test_a_run_of_another_model_is_refused(run):
    with pytest.raises(UsageError, match=r"is a run of mlp: set config\.model\.name to that, not to cnn"):
        run_weights.of_run(str(run[0]), model="cnn")

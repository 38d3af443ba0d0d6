"""What a run starts from: the weights of another run, statistics of images, or its own last checkpoint."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.inference import jax_model
from bt_jax.inference.description import ModelDescription
from bt_jax.models import normalise, registry
from bt_jax.models.normalise import IMAGENET
from bt_jax.training import optimizer, start, train_state
from bt_jax.training.progress import Progress
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


def load_from(run, *, classes=3, size=8, head=False, **changes):
    """The trees before and after loading."""
    weights = start.read_run_weights(str(run[0]), model="mlp")
    assert weights.normalisation == IMAGENET
    network, *before = registry.create("mlp", classes=classes, size=size, seed=7, **(OPTIONS | changes))
    return before, weights.load(network, *before, head=head)


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_all_of_it_is_found(run):
    workdir, params = run
    assert start.is_run(str(workdir))
    assert not start.is_run(str(workdir / "absent"))
    for head in (False, True):
        _, (loaded, batch_stats) = load_from(run, head=head)
        assert same(loaded, params)
        assert batch_stats == {}
    description, _ = jax_model.restore(workdir)
    assert description.create_network()[0].size == 8


def test_a_head_of_another_size_stays(run):
    before, (loaded, _) = load_from(run, classes=4)
    assert same(loaded["head"], before[0]["head"])
    assert same(loaded["dense_1"], run[1]["dense_1"])
    with pytest.raises(UsageError, match="its model differs in head"):
        load_from(run, classes=4, head=True)


@pytest.mark.parametrize(
    ("changes", "segments"),
    [({"size": 9}, "dense_1:"), ({"hidden": (6, 4)}, "dense_2:"), ({"hidden": (6, 5, 5)}, "dense_3:")],
)
def test_other_sizes_below_the_head_are_refused(run, changes, segments):
    with pytest.raises(UsageError, match=f"its model differs in {segments} set config.model"):
        load_from(run, **changes)


def test_a_run_of_another_model_is_refused(run):
    with pytest.raises(UsageError, match=r"is a run of mlp: set config\.model\.name to that, not to cnn"):
        start.read_run_weights(str(run[0]), model="cnn")


@pytest.mark.slow
def test_calibrated_statistics_are_those_of_the_images():
    forgetful, params, batch_stats = registry.create("efficientnet_nano", classes=4, hidden=(8,), momentum=0.0, seed=1)
    images = np.random.default_rng(0).random((16, 32, 32), np.float32)
    measured = start.calibrate_statistics(forgetful, params, batch_stats, images=images, normalisation=normalise.LITE)
    # The stem's statistics are those of its convolution's output.
    kernel = params["stem"]["conv"]["kernel"]
    convolved = jax.lax.conv_general_dilated(
        normalise.LITE(images), kernel, (2, 2), [(0, 1), (0, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(measured["stem"]["norm"]["mean"], convolved.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(measured["stem"]["norm"]["variance"], convolved.var((0, 1, 2)), rtol=1e-3, atol=1e-5)


def test_networks_without_statistics_have_none_to_measure():
    made, params, batch_stats = registry.create("mlp", classes=4, size=32, hidden=(8,))
    images = np.zeros((4, 32, 32), np.float32)
    assert start.calibrate_statistics(made, params, batch_stats, images=images, normalisation=IMAGENET) == {}


PREPROCESS = {
    "form": "head", "size": 0, "lower_percentile": 1.0, "upper_percentile": 99.0, "margin": 0.02
}  # fmt: skip


def test_a_fresh_start_takes_the_native_size_and_the_weights_of_a_run(run):
    weights = start.find_weights(str(run[0]), model="mlp", fallback=None)
    made = start.FreshStart(weights, options=OPTIONS, preprocess={**PREPROCESS, "size": 8}, seed=1)
    assert not made.is_resumed and made.preprocessing.size == 8
    data = types.SimpleNamespace(source=types.SimpleNamespace(class_names=("a", "b", "c"), synthetic=True))
    model = made.create_model(data)
    assert same(model.params, run[1])
    assert model.description.weights == f"run {run[0]}, step 5, which started from random weights"
    state, progress = made.load_state("the state")
    assert state == "the state" and progress == Progress()
    random = start.find_weights("none", model="mlp", fallback=None)
    native = start.FreshStart(random, options={}, preprocess=PREPROCESS, seed=1)
    assert native.preprocessing.size == registry.get_native_size("mlp")
    larger = start.FreshStart(random, options={}, preprocess={**PREPROCESS, "size": 32}, seed=1, scale=1.5)
    assert larger.preprocessing.size == 48


def test_a_resumed_start_continues_the_network_and_the_progress_of_its_checkpoint(tmp_path, capsys):
    network, params, batch_stats = DESCRIPTION.create_network(seed=3)
    adam = optimizer.make_optimizer(
        network.segment_names, name="adam", weight_decay=0.0, b1=0.9, b2=0.999, clip_norm=0.0
    )
    saved = train_state.create_state(params, batch_stats, adam, averaging=False)
    description = dataclasses.replace(DESCRIPTION, preprocessing={**PREPROCESS, "size": 8})
    progress = Progress(step=4, stage=2, step_in_stage=1, best_loss=0.5, best_step=3)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(
        4, evaluation=saved.get_evaluation_weights(), training=saved.get_resuming_state(), best_step=3,
        metadata={"model": dataclasses.asdict(description), "progress": dataclasses.asdict(progress),
                  "state_format": train_state.STATE_FORMAT},
    )  # fmt: skip
    made = start.ResumedStart(checkpoints, 4)
    assert made.is_resumed and made.preprocessing.size == 8
    model = made.create_model(None)
    assert model.description == ModelDescription.from_dict(json.loads(json.dumps(dataclasses.asdict(description))))
    assert model.network.segment_names == network.segment_names
    assert not same(model.params, params), "random weights, to be replaced"
    state, found = made.load_state(train_state.create_state(model.params, {}, adam, averaging=False))
    checkpoints.close()
    assert same(state.get_params(), params)
    # The best checkpoint was never saved here: it is chosen anew.
    assert found == dataclasses.replace(progress, best_loss=None, best_step=None)
    output = capsys.readouterr().out
    assert "warning: the checkpoint of the best step, 3, is lost" in output
    assert "resuming from step 4, in stage 2" in output

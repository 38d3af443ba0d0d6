"""The training step: what a stage may and may not move, the loss, the optimiser, and independence of the layout."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data.augment.augment import encode_seed, reduce_size
from bt_jax.distributed import sharding
from bt_jax.models import normalise, registry
from bt_jax.training import optimizer, train_state, train_step
from bt_jax.training.train_step import TrainStep
from tests import kernels

CLASSES = 4
CLIP_NORM = 0.1  # below the gradients met here


@functools.cache
def network():
    return registry.create("efficientnet_nano", classes=CLASSES, hidden=(8,), dropout_rate=0.5, seed=1)


def transform(**changes):
    settings = {"name": "adamw", "weight_decay": 0.1, "b1": 0.9, "b2": 0.999, "clip_norm": CLIP_NORM}
    return optimizer.make_optimizer(network()[0].segment_names, **(settings | changes))


def batch(size=8, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "image": generator.random((size, 32, 32), np.float32),
        "label": generator.integers(0, CLASSES, size).astype(np.int32),
    }


def fresh_state(*, averaging=True):
    _, params, batch_stats = network()
    copied = jax.tree.map(jnp.copy, (params, batch_stats))
    return train_state.create_state(*copied, transform(), averaging=averaging)


@functools.cache
def step_of(program_segment, dtype="float32"):
    """The compiled step of a program. The jitted one would compile twice: for a fresh state and for that of a step."""
    step = TrainStep(
        network=network()[0],
        optimizer=transform(),
        mesh=sharding.make_mesh(),
        normalisation=normalise.LITE,
        label_smoothing=0.1,
        average_decay=0.9,
        dtype=jnp.dtype(dtype),
    )
    return step.lower(program_segment, jax.eval_shape(fresh_state), batch()).compile()


def changed(before, after):
    """The segments in which any value differs."""
    return {
        name
        for name in before
        if any(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True)
        )
    }


NAMES = registry.create_abstract("efficientnet_nano", classes=CLASSES)[0].segment_names
HEAD = len(NAMES) - 1
# The segments of the programs here: more of them would take long to compile and show nothing else.
DEEPEST = HEAD - 3


@pytest.mark.parametrize("first", [HEAD, *(pytest.param(first, marks=pytest.mark.slow) for first in (DEEPEST + 1, 2))])
def test_a_stage_moves_its_segments_and_nothing_else(first):
    """Weights, running statistics and optimiser state of frozen segments stay to the bit, weight decay or not."""
    before = fresh_state()
    kept, params = jax.tree.map(np.asarray, (before, before.get_params()))
    state = before
    for i in range(2):
        state, metrics = step_of(DEEPEST if first == DEEPEST + 1 else first)(
            state, batch(seed=i), np.float32(0.1), np.int32(first), np.int32(0)
        )
    trained = set(NAMES[first:])
    assert changed(kept.params, state.params) == changed(params, state.get_params()) == trained
    # The biases of a random network's BatchNorms aside, every trained segment has statistics.
    assert changed(kept.batch_stats, state.batch_stats) == trained
    inner = state.opt_state[1].inner_states
    for name in NAMES:
        moved = changed({name: kept.opt_state[1].inner_states[name].inner_state},
                        {name: inner[name].inner_state})  # fmt: skip
        assert bool(moved) == (name in trained), name
    assert np.isfinite(float(metrics["loss"]))


def test_the_step_has_no_branch():
    """On a GPU each would be a round trip to the host, and on any device it keeps operations apart."""
    assert " conditional(" not in step_of(HEAD).as_text()


def test_no_kernel_compares_the_number_of_its_segment():
    """Each would be another kernel for another segment, of the same shapes or not, and be compiled by itself."""
    found = kernels.list_kernels(step_of(DEEPEST).as_text())
    of_adam = [body for body in found if " sqrt(" in body and " select(" in body]
    assert of_adam
    assert not [body for body in of_adam for number in range(DEEPEST, HEAD + 1) if f"s32[] constant({number})" in body]


@pytest.mark.slow
def test_a_shared_program_equals_one_of_its_own():
    """Freezing at run time inside a deeper program is the same training as a program that ends at the stage's depth."""
    first, rate = DEEPEST + 1, 0.01
    shared, _ = step_of(DEEPEST)(fresh_state(), batch(), np.float32(rate), np.int32(first), np.int32(0))
    own, _ = step_of(first)(fresh_state(), batch(), np.float32(rate), np.int32(first), np.int32(0))
    # Adam's first step is as long as the rate whatever the gradient. Rounding shows where that is next to 0, as it is
    # for the biases of a block's last BatchNorm when another BatchNorm follows.
    difference = jax.tree.map(lambda a, b: np.abs(a - b), shared.params, own.params)
    differences = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(difference)])
    assert np.quantile(differences, 0.999) < 1e-2 * rate
    assert differences.mean() < 1e-4 * rate


@pytest.mark.slow
def test_the_first_step_of_a_segment_unfrozen_late_is_that_of_a_fresh_adam():
    """With a step count shared by all segments it would be about three times too long."""
    state = fresh_state()
    for i in range(5):
        state, _ = step_of(DEEPEST)(state, batch(seed=i), np.float32(1e-3), np.int32(HEAD), np.int32(0))
    before = np.asarray(state.get_params()["top"]["norm"]["bias"])
    state, _ = step_of(DEEPEST)(state, batch(seed=9), np.float32(1e-3), np.int32(DEEPEST), np.int32(0))
    length = np.abs(np.asarray(state.get_params()["top"]["norm"]["bias"]) - before)
    assert length.max() == pytest.approx(1e-3, rel=1e-3)


def test_one_step_of_the_head_equals_plain_optax():
    """An independent way to the same numbers: gradients by hand through `Network.apply`, then optax.adamw."""
    net, params, batch_stats = network()
    data = batch()

    def loss_of(head_params):
        images = normalise.LITE(data["image"])
        key = jax.random.fold_in(jax.random.key(0), 0)
        flags = tuple(i >= HEAD for i in range(len(NAMES)))
        logits, _ = net.apply({**params, "head": head_params}, batch_stats, images, trained=flags, dropout_key=key)
        targets = 0.9 * jax.nn.one_hot(data["label"], CLASSES) + 0.1 / CLASSES
        return -(targets * jax.nn.log_softmax(logits)).sum(-1).mean()

    loss, gradient = jax.jit(jax.value_and_grad(loss_of))(params["head"])
    reference = optax.chain(
        optax.clip_by_global_norm(CLIP_NORM), optax.adamw(0.01, weight_decay=0.1, mask=optimizer.is_kernel)
    )
    updates, _ = jax.jit(reference.update)(gradient, reference.init(params["head"]), params["head"])
    expected = optax.apply_updates(params["head"], updates)
    state, metrics = step_of(HEAD)(fresh_state(), data, np.float32(0.01), np.int32(HEAD), np.int32(0))
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert float(metrics["gradient_norm"]) == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
    for a, b in zip(jax.tree.leaves(state.get_params()["head"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_step_on_reduced_images_is_the_step_on_images_reduced_before():
    whole = {**batch(), "image": np.random.default_rng(3).integers(0, 256, (8, 32, 32), np.uint8)}
    reduced = {**whole, "image": np.asarray(reduce_size(whole["image"], 24))}
    made = TrainStep(
        network=network()[0], optimizer=transform(), mesh=sharding.make_mesh(), normalisation=normalise.LITE,
        label_smoothing=0.1, average_decay=0.9, dtype=jnp.dtype("float32"),
    )  # fmt: skip
    arguments = np.float32(1e-3), np.int32(HEAD), np.int32(0)
    states, metrics = zip(
        *(
            dataclasses.replace(made, image_size=size).jit(HEAD)(fresh_state(), images, *arguments)
            for size, images in ((24, whole), (0, reduced), (0, whole))
        ),
        strict=True,
    )
    assert float(metrics[0]["loss"]) == pytest.approx(float(metrics[1]["loss"]), rel=1e-6)
    assert abs(float(metrics[0]["loss"]) - float(metrics[2]["loss"])) > 2e-5
    for a, b in zip(*(jax.tree.leaves(state.get_params()["head"]) for state in states[:2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def dense_loss(**options):
    """The loss and accuracy of the first step of a small dense network without dropout; and the network, to check."""
    made, params, _ = registry.create("mlp", classes=CLASSES, size=32, hidden=(8,), dropout_rate=0.0)
    plain = optimizer.make_optimizer(
        made.segment_names, name="adam", weight_decay=0.0, b1=0.9, b2=0.999, clip_norm=CLIP_NORM
    )
    step = TrainStep(
        network=made, optimizer=plain, mesh=sharding.make_mesh(), normalisation=normalise.LITE,
        label_smoothing=0.1, average_decay=0.0,
        dtype=jnp.dtype("float32"), **options,
    ).jit(0)  # fmt: skip

    def of(data):
        state = train_state.create_state(jax.tree.map(jnp.copy, params), {}, plain, averaging=False)
        metrics = step(state, data, np.float32(0.01), np.int32(0), np.int32(0))[1]
        return float(metrics["loss"]), float(metrics["accuracy"])

    def losses(images, labels):
        logits = np.asarray(made.apply(params, {}, normalise.LITE(images))[0], np.float64)
        targets = 0.9 * np.eye(CLASSES)[labels] + 0.1 / CLASSES
        return (targets * (np.log(np.exp(logits).sum(-1, keepdims=True)) - logits)).sum(-1), logits.argmax(-1)

    return of, losses


def test_images_count_by_their_weights():
    data, (of, losses) = batch(), dense_loss()
    weight = np.linspace(0.2, 3, len(data["label"]), dtype=np.float32)
    each = losses(data["image"], data["label"])[0]
    assert of(data)[0] == pytest.approx(each.mean(), rel=1e-4)
    assert of(data | {"weight": weight})[0] == pytest.approx((each * weight).mean(), rel=1e-4)


@pytest.mark.slow
def test_mixed_images_have_the_loss_of_both_labels_in_their_shares():
    """Written out: each image with the one from the other end, each label with its image's weight."""
    data, (of, losses) = batch(), dense_loss(mixup=0.4)
    images, labels = data["image"], data["label"]
    weight = np.linspace(0.2, 3, len(labels), dtype=np.float32)
    share = np.asarray(train_step._draw_shares(jax.random.fold_in(jax.random.key(0), 0), len(labels), parameter=0.4))
    assert share.min() >= 0.5 and share.max() <= 1 and len(np.unique(share)) == len(share)
    mixed = share[:, None, None] * images + (1 - share[:, None, None]) * images[::-1]
    (first, predicted), (second, _) = losses(mixed, labels), losses(mixed, labels[::-1])
    expected = (share * weight * first + (1 - share) * weight[::-1] * second).mean()
    loss, accuracy = of(data | {"weight": weight})
    assert loss == pytest.approx(expected, rel=1e-4)
    assert accuracy == pytest.approx((predicted == labels).mean())


def test_each_step_mixes_in_shares_of_its_own():
    shares = [np.asarray(train_step._draw_shares(jax.random.key(seed), 500, parameter=1.0)) for seed in range(2)]
    assert not np.array_equal(*shares)
    assert np.mean(shares) == pytest.approx(0.75, abs=0.02)  # uniform from a half to 1


def test_runs_with_other_seeds_draw_other_numbers_in_one_program():
    losses = [
        float(step_of(HEAD)(fresh_state(), batch(), np.float32(0.01), np.int32(HEAD), encode_seed(seed))[1]["loss"])
        for seed in (0, 1, 0, 2**63 - 1)
    ]
    assert losses[0] == losses[2]
    assert len(set(losses)) == 3


def test_the_gradient_is_clipped_by_its_global_norm():
    """Adam's first step does not depend on the gradient's length; the second moment does."""
    state, metrics = step_of(HEAD)(fresh_state(), batch(), np.float32(0.01), np.int32(HEAD), np.int32(0))
    moments = state.opt_state[1].inner_states["head"].inner_state[0].nu["head"]
    norm = np.sqrt(sum(float(leaf.sum()) for leaf in jax.tree.leaves(moments)) / (1 - 0.999))
    assert float(metrics["gradient_norm"]) > CLIP_NORM
    assert norm == pytest.approx(CLIP_NORM, rel=1e-3)


def test_the_average_of_the_weights():
    state = fresh_state()
    start = np.asarray(state.get_evaluation_weights()["params"]["head"]["output"]["kernel"])
    state, _ = step_of(HEAD)(state, batch(), np.float32(0.1), np.int32(HEAD), np.int32(0))
    now = np.asarray(state.get_params()["head"]["output"]["kernel"])
    # The decay is ramped up: (1 + 0) / (10 + 0) at the first step.
    average = state.get_evaluation_weights()["params"]["head"]["output"]["kernel"]
    np.testing.assert_allclose(average, 0.1 * start + 0.9 * now, rtol=1e-5)


@pytest.mark.slow
def test_bfloat16_trains_as_float32_does():
    """Only activations and their products are rounded to 8 bits: weights, moments and averages are float32."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        state, metrics = fresh_state(), []
        for i in range(3):  # after that, Adam has multiplied the rounding
            scalars = np.float32(1e-3), np.int32(DEEPEST), np.int32(0)
            state, last = step_of(DEEPEST, dtype)(state, batch(seed=i), *scalars)
            metrics.append((float(last["loss"]), float(last["gradient_norm"])))
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}
        found[dtype] = np.array(metrics)
    assert not np.array_equal(found["bfloat16"], found["float32"])
    np.testing.assert_allclose(found["bfloat16"][:, 0], found["float32"][:, 0], rtol=0.05)
    np.testing.assert_allclose(found["bfloat16"][:, 1], found["float32"][:, 1], rtol=0.15)


def test_wrong_names():
    with pytest.raises(UsageError, match=r"config\.train\.dtype"):
        train_step.resolve_dtype("float16")
    with pytest.raises(UsageError, match="JAX_ENABLE_X64=1"):
        train_step.resolve_dtype("float64")
    assert train_step.resolve_dtype("auto") == (jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)


_ON_DEVICES = """
import sys, jax, numpy as np
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
sys.path.insert(0, sys.argv[2])
from tests.training import train_step_test as t
state = jax.device_put(t.fresh_state(), t.sharding.get_replicated_sharding(t.sharding.make_mesh()))
for i in range(3):
    data = jax.device_put(t.batch(seed=i), t.sharding.get_batch_sharding(t.sharding.make_mesh()))
    state, metrics = t.step_of(t.DEEPEST)(state, data, np.float32(1e-3), np.int32(t.DEEPEST), np.int32(0))
    print(float(metrics["loss"]), float(metrics["gradient_norm"]))
"""


@pytest.mark.slow
def test_one_device_and_four_train_alike(request):
    """The same global batch gives the same losses on any mesh: statistics are global, dropout is of the whole batch."""
    root = str(request.config.rootpath)
    losses = [
        np.array(
            subprocess.run(
                [sys.executable, "-c", _ON_DEVICES, count, root], capture_output=True, text=True, check=True, cwd=root
            ).stdout.split(),
            float,
        )
        for count in ("1", "4")
    ]
    assert len(losses[0]) == 6
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-4)


@pytest.mark.parametrize(
    ("name", "options"), [("mlp", {}), pytest.param("cnn", {"filters": (2, 4)}, marks=pytest.mark.slow)]
)
def test_networks_without_statistics_train_like_any_other(name, options):
    made, params, batch_stats = registry.create(
        name, classes=CLASSES, size=32, hidden=(8,), dropout_rate=0.5, **options
    )
    assert batch_stats == {}
    data = batch()
    settings = {"name": "adamw", "weight_decay": 0.1, "b1": 0.9, "b2": 0.999, "clip_norm": CLIP_NORM}
    plain = optimizer.make_optimizer(made.segment_names, **settings)
    step = TrainStep(
        network=made, optimizer=plain, mesh=sharding.make_mesh(), normalisation=normalise.LITE,
        label_smoothing=0.1, average_decay=0.9,
        dtype=jnp.dtype("float32"),
    ).jit(0)  # fmt: skip
    kept = jax.tree.map(np.asarray, params)
    state = train_state.create_state(jax.tree.map(jnp.copy, params), {}, plain, averaging=True)
    state, metrics = step(state, data, np.float32(1e-2), np.int32(1), np.int32(0))
    assert changed(kept, state.get_params()) == set(made.segment_names[1:])  # the lowest segment is frozen
    state, metrics = step(state, data, np.float32(1e-2), np.int32(0), np.int32(0))
    found = state.get_params(), state.get_evaluation_weights()["params"]
    assert changed(kept, found[0]) == changed(kept, found[1]) == set(made.segment_names)
    assert state.batch_stats == state.average["batch_stats"] == {}
    assert 0 < float(metrics["loss"]) < 10

"""Trains the same few steps on meshes of several sizes, in one process with simulated devices, and prints JSON.

    JAX_NUM_CPU_DEVICES=8 python -m tests.layouts MODEL STEPS DEVICES,DEVICES,... [FIELD=VALUE ...]

Dropout, augmentation, class weights and weight averages are on. Fields: sharded, accumulate, mixup, mixed, and
segment (the lowest trained one, counted from the end if negative).
"""

import contextlib
import functools
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import AxisType, Mesh

from bt_jax.benchmark import hlo
from bt_jax.common import cli
from bt_jax.data import pipeline
from bt_jax.data.augment.settings import Augmentation
from bt_jax.data.sampler import Sampler
from bt_jax.distributed import sharding
from bt_jax.models import normalise, registry, summary
from bt_jax.training import optimizer, train_state
from bt_jax.training.sharded_forward import ShardedForward
from bt_jax.training.train_step import TrainStep

CLASSES, SIZE, BATCH, RECORDS = 4, 32, 16, 40
AUGMENTATION = Augmentation(flip=True, rotation=0.1, noise=0.05)
OPTIONS: dict[str, dict[str, Any]] = {
    "efficientnet_nano": {"hidden": (8,), "dropout_rate": 0.3},
    "mlp": {"hidden": (64, 32), "dropout_rate": 0.3},
}


@functools.cache
def images() -> tuple[np.ndarray, np.ndarray]:
    """[N, S, S] uint8 and labels [N] int32."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, RECORDS).astype(np.int32)
    noise = generator.integers(0, 128, (RECORDS, SIZE, SIZE))
    return (noise + 32 * labels[:, None, None]).astype(np.uint8), labels


def train(
    model: str,
    mesh: Mesh,
    *,
    count: int,
    sharded: str = "",
    accumulate: int = 1,
    mixup: float = 0.0,
    segment: int = 0,
    mixed: Sequence[str] = (),
) -> dict[str, Any]:
    """Losses and gradient norms of each step, the collectives of the compiled step, bytes of the state on a device."""
    network, params, batch_stats = registry.create(model, classes=CLASSES, size=SIZE, seed=1, **OPTIONS[model])
    segment %= len(network.segment_names)
    transform = optimizer.make_optimizer(
        network.segment_names, name="adamw", weight_decay=0.1, b1=0.9, b2=0.999, clip_norm=1.0
    )
    state = train_state.create_state(params, batch_stats, transform, averaging=True)
    shardings = sharding.ShardingRules(pattern=sharded, least=256).make_shardings(state, mesh)
    state = sharding.place(state, shardings)
    step = TrainStep(
        network=network, optimizer=transform, mesh=mesh, normalisation=normalise.LITE,
        label_smoothing=0.1, average_decay=0.9,
        dtype=jnp.dtype("float32"), augmentation=AUGMENTATION, mixup=mixup, accumulate=accumulate,
        mixed_segments=tuple(mixed),
        state_shardings=shardings if sharded else None,
    )  # fmt: skip
    pixels, labels = images()
    batches = pipeline.prefetch(
        pipeline.load_training_batches(
            pixels, labels, sampler=Sampler(records=RECORDS, batch_size=BATCH, seed=3),
            views=0, start_step=0, stop_step=count, weights=np.array([1, 2, 1, 0.5], np.float32)[labels],
            rows=sharding.get_host_rows(mesh, BATCH),
        ),
        sharding.make_transfer(mesh),
    )  # fmt: skip
    found: dict[str, Any] = {"losses": [], "norms": [], "parameters": summary.count_parameters(params)}
    compiled = None
    with contextlib.closing(batches):
        for batch in batches:
            compiled = compiled or step.lower(segment, state, batch).compile()
            state, metrics = compiled(state, batch, np.float32(1e-3), np.int32(segment), np.int32(0))
            found["losses"].append(float(metrics["loss"]))
            found["norms"].append(float(metrics["gradient_norm"]))
    assert compiled is not None
    text = compiled.as_text()
    found["collectives"] = hlo.count_collectives(text)
    found["held"] = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    forward = ShardedForward(network, normalisation=normalise.LITE, dtype=jnp.dtype("float32"), mesh=mesh, batch_size=6)
    # 19 images in batches of 6 or, on 4 and 8 devices, 8: the last one is filled up.
    logits, _ = forward.compute(state.get_evaluation_weights(), pixels[:19])
    found["logits"] = logits.tolist()
    found["mirrored"] = forward.copy_mirrored().compute(state.get_evaluation_weights(), pixels[:19])[0].tolist()
    return found


def main() -> None:
    model, count, sizes, *fields = sys.argv[1:]
    flags.FLAGS(sys.argv[:1])
    cli.prepare_to_compute()
    options = {name: json.loads(value) for name, _, value in (field.partition("=") for field in fields)}
    print(json.dumps({
        size: train(
            model, Mesh(np.array(jax.devices()[: int(size)]), (sharding.DATA_AXIS,), axis_types=(AxisType.Auto,)),
            count=int(count), **options,
        )
        for size in sizes.split(",")
    }))  # fmt: skip


if __name__ == "__main__":
    main()

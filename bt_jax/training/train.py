"""Training from a configuration to a report: `train_and_evaluate` reads from the top down."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from bt_jax.common import files
from bt_jax.common.signals import catch_signals
from bt_jax.data import pipeline
from bt_jax.data.augment.augment import Augmentation
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.sampler import Sampler
from bt_jax.defaults import make_defaults
from bt_jax.distributed import processes, sharding
from bt_jax.distributed.processes import say
from bt_jax.inference.description import ModelDescription
from bt_jax.models import registry, summary
from bt_jax.reports import cross_validation, run_report
from bt_jax.training import config_check, optimizer, setup, sharded_forward, stages, train_state, train_step
from bt_jax.training.batches import Feed
from bt_jax.training.evaluator import Validation
from bt_jax.training.feature_cache import Cut, FeatureCache
from bt_jax.training.loop import DIVERGED_ADVICE, Loop, restore_state
from bt_jax.training.precompile import Programs
from bt_jax.training.profiler import Profiler
from bt_jax.training.progress import Progress
from bt_jax.training.train_state import TrainState
from bt_jax.training.train_step import TrainStep
from bt_jax.training.watchdog import Watchdog
from bt_jax.workdir import run_folder
from bt_jax.workdir.checkpoint import Checkpoints
from bt_jax.workdir.metric_log import MetricsWriter, NullMetricsWriter


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    *,
    began: float | None = None,
    publish: Callable[[], None] = lambda: None,
) -> int:
    """Trains one fold, or all of them, and writes the report. With the same folder it goes on where it stopped.

    All processes of a run call it alike; the first one writes.

    Args:
      config: as of `configs/effnet.py`.
      folder: the workdir; made where it is missing. All hosts must see the same one.
      began: `time.monotonic()` when the command began, which the first step is counted from; None: now.
      publish: called when files in it have changed, before each checkpoint and at the end.

    Returns:
      The exit status: 0, or 128 + the number of the signal that interrupted the run.

    Raises:
      UsageError: a wrong field, path or file, or a loss that is not finite.
    """
    config_check.check_config(config)
    if config.data.fold != -1:
        return _train_fold(config, folder, publish, began or time.monotonic())
    for fold in range(config.data.folds):
        say(f"\nFold {fold} of {config.data.folds}")
        of_fold = config.copy_and_resolve_references()
        of_fold.data.fold = fold
        if status := _train_fold(of_fold, folder / f"fold_{fold}", publish, began or time.monotonic()):
            return status
        began = None
    if processes.is_first():
        cross_validation.summarise(folder, folds=config.data.folds, say=say)
    publish()
    return 0


def _train_fold(
    config: ml_collections.ConfigDict, folder: pathlib.Path, publish: Callable[[], None], began: float
) -> int:
    with run_folder.lock(folder):
        # However training ends, the save under way is finished.
        with contextlib.closing(Checkpoints(folder, warn=say)) as checkpoints:
            status = _train_with(checkpoints, config, folder, publish, began)
        publish()
        processes.wait_for_all(f"the report in {folder.name}")
        return status


def _train_with(
    checkpoints: Checkpoints,
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    publish: Callable[[], None],
    began: float,
) -> int:
    latest = checkpoints.latest_step
    run_folder.write_config(folder, config.to_dict(), defaults=make_defaults().to_dict(), resuming=latest is not None)
    record = run_folder.RunRecord.open(folder)
    if latest is None:
        weights = setup.weights_of(config)
        size = config.preprocess.size or registry.get_native_size(weights.model)
        preprocessing = Preprocessing(**{**config.preprocess, "size": size})
    else:
        # The network that the run began with, whatever weights could be found now.
        description = ModelDescription.from_dict(checkpoints.read_metadata(latest)["model"])
        preprocessing = Preprocessing.from_dict(description.preprocessing)
    with record.time_phase("data"):
        data = setup.load_data(config, folder, preprocessing, resuming=latest is not None)
    say(
        f"data: {data.source.description}: {len(data.training)} training, {len(data.validation)} validation images "
        f"(fold {config.data.fold} of {config.data.folds}; {data.grouping}), {len(data.testing)} testing images"
    )
    if data.probe:
        say(f"shift probe: {len(data.shifted)} images of {data.probe.description} are kept from both")
    if latest is None:
        description, network, params, batch_stats = setup.model_of(config, weights, preprocessing, data)
    else:
        network, params, batch_stats = description.create_network()
    size, normalisation = preprocessing.size, description.create_normalisation()
    dtype = train_step.resolve_dtype(config.train.dtype)
    parameters = summary.count_parameters(params)
    say(f"model: {network.name}, {parameters:,} parameters, {size}x{size} pixels, {description.weights}")

    order = Sampler(records=len(data.training), batch_size=config.train.batch_size, seed=config.seed)
    plan = stages.make_plan(network.segment_names, steps_per_epoch=order.steps_per_epoch, **config.stages)
    plan_table = stages.format_plan(
        plan, params, segment_names=network.segment_names, steps_per_epoch=order.steps_per_epoch
    )
    say(f"\n{plan_table}\n")

    mesh = sharding.make_mesh()
    rows = sharding.get_host_rows(mesh, config.train.batch_size)
    transform = optimizer.make_optimizer(network.segment_names, **config.optimizer)
    state = train_state.create_state(params, batch_stats, transform, averaging=config.train.average_decay > 0)
    shardings = setup.make_sharding_rules(config).make_shardings(state, mesh)
    state = sharding.place(state, shardings)
    if mesh.size > 1:
        say(sharding.describe(state, mesh))
    step = TrainStep(
        network=network,
        optimizer=transform,
        mesh=mesh,
        normalisation=normalisation,
        class_weights=train_step.compute_class_weights(
            config.loss.class_weights, data.training.labels, len(data.source.class_names)
        ),
        label_smoothing=config.loss.label_smoothing,
        average_decay=config.train.average_decay,
        dtype=dtype,
        seed=config.seed,
        mixup=config.train.mixup,
        accumulate=config.train.accumulate,
        state_shardings=shardings if config.mesh.sharded else None,
    )
    image_weights = data.compute_training_weights(config.data.balance)
    cache = FeatureCache(
        network=network,
        normalisation=normalisation,
        dtype=dtype,
        mesh=mesh,
        images=data.training.images,
        settings=Augmentation(**config.augment),
        seed=config.seed,
        views=config.train.cached_views,
        threads=config.data.threads,
        limit=round(config.train.cache_limit_gb * 1e9),
        folder=files.get_cache_directory() / "features",
        kinds=data.training_kinds,
    )
    cuts = cache.cuts(
        plan,
        params,
        batch_stats,
        lowest_segment=config.train.cached_segment,
        steps_per_epoch=order.steps_per_epoch,
    )
    forward: dict[str, Any] = {
        "normalisation": normalisation, "dtype": dtype, "mesh": mesh, "batch_size": config.eval.batch_size
    }  # fmt: skip
    outputs_of = sharded_forward.make_outputs(network, **forward)

    progress = Progress()
    if latest is not None:
        progress = Progress.from_dict(checkpoints.read_metadata(latest)["progress"])
        if progress.best_step is not None and progress.best_step not in checkpoints.steps:
            say(f"warning: the checkpoint of the best step, {progress.best_step}, is lost: the best is chosen anew")
            progress.forget_best()
        state = restore_state(checkpoints, latest, like=state)
        say(f"resuming from step {latest}, in stage {progress.stage}")
    record.record_start(
        step=progress.step,
        data=data.facts,
        model={"name": network.name, "weights": description.weights, "weights_sha256": description.weights_sha256},
    )

    open_images = functools.partial(
        pipeline.load_training_batches,
        data.training.images,
        data.training.labels,
        sampler=order,
        settings=Augmentation(**config.augment),
        views=config.data.views,
        kinds=data.training_kinds,
        weights=image_weights,
        stop_step=plan[-1].last_step,
        workers=config.data.workers,
        threads=config.data.threads,
        rows=rows,
        names=data.training.paths,
    )
    with catch_signals(processes.StopAgreement(mesh) if processes.is_distributed() else None) as interrupt:
        loop = Loop(
            plan=plan,
            progress=progress,
            programs=Programs(
                functools.partial(_compile, step, state, config.train.batch_size, size, cuts, image_weights is not None)
            ),
            feed=Feed(
                open_images=open_images,
                labels=data.training.labels,
                order=order,
                cache=cache,
                cuts=cuts,
                transfer=sharding.make_transfer(mesh),
                timed=functools.partial(record.time_phase, "features"),
                weights=image_weights,
                rows=rows,
            ),
            evaluate=Validation(
                data.validation.images,
                data.validation.labels,
                class_names=data.source.class_names,
                outputs_of=outputs_of,
                upper_outputs_of=functools.partial(
                    sharded_forward.make_upper_outputs,
                    network,
                    dtype=dtype,
                    mesh=mesh,
                    batch_size=config.eval.batch_size,
                ),
                cuts=cuts,
                cache=cache.of_plain(data.validation.images),
                advice=DIVERGED_ADVICE,
            ),
            rate=functools.partial(stages.rate_at, **config.schedule),
            checkpoints=checkpoints,
            model=dataclasses.asdict(description),
            writer=MetricsWriter(folder, step=progress.step) if processes.is_first() else NullMetricsWriter(),
            record=record,
            interrupt=interrupt,
            watchdog=Watchdog(times=config.train.slow_step, folder=folder, warn=say),
            publish=publish,
            batch_size=config.train.batch_size,
            steps_per_epoch=order.steps_per_epoch,
            log_every=config.train.log_every,
            evaluate_every=max(1, round(config.eval.every_epochs * order.steps_per_epoch)),
            checkpoint_every=config.checkpoint.every_steps,
            patience=config.early_stopping.patience,
            began=began,
            profiler=Profiler(config.profile, folder, steps=plan[-1].last_step),
        )
        with contextlib.closing(loop):
            state = loop.run(state)
        if interrupt:
            # Read under the handlers, and waited for: a second signal must not end the save.
            say(f"interrupted: saved at step {checkpoints.latest_step}; the same command goes on from there")
            return interrupt.status

    if progress.best_step is None:  # a run resumed after its last evaluation, whose best checkpoint is lost
        progress.best_step = progress.step
    best = restore_state(checkpoints, progress.best_step, like=state).for_evaluation()
    outputs_of_best = sharded_forward.of_first_host(outputs_of, network, best, **forward)
    if not processes.is_first():
        return 0
    with record.time_phase("report"):
        card = run_report.write(
            folder,
            data=data,
            preprocessing=preprocessing,
            outputs_of=outputs_of_best,
            step=progress.best_step,
            facts={
                "title": f"{network.name}, fold {config.data.fold} of {config.data.folds}",
                "model": f"{network.name} at {size}x{size} pixels",
                "parameters": parameters,
                "weights": description.weights,
                "provenance": record.get_provenance(),
                "preprocessing": _in_words(preprocessing.to_dict()),
                "augmentation": _in_words(config.augment.to_dict()),
                "stages": stages.list_stages(
                    plan, segment_names=network.segment_names, steps_per_epoch=order.steps_per_epoch
                ),
                "epochs": round(progress.step / order.steps_per_epoch, 2),
                "best_step": progress.best_step,
                "seed": config.seed,
                "versions": run_folder.get_versions(),
                "duration_s": record.get_total_seconds(),
            },
            say=say,
        )
    record.save()
    say(f"\nreport: {card}")
    return 0


def _in_words(settings: dict[str, Any]) -> str:
    """`name value` of all settings that are not off."""
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value)


def _compile(
    step: TrainStep,
    state: TrainState,
    batch_size: int,
    size: int,
    cuts: Mapping[int, Cut],
    weighted: bool,
    program_segment: int,
) -> Callable[..., Any]:
    """The training step of a program, compiled for the state's shapes and a batch of images or features."""
    cut = cuts.get(program_segment)
    name, shape = ("features", cut.shape) if cut else ("image", (size, size))
    batch = {
        name: jax.ShapeDtypeStruct((batch_size, *shape), np.float32),
        "label": jax.ShapeDtypeStruct((batch_size,), np.int32),
    }
    if weighted:
        batch["weight"] = jax.ShapeDtypeStruct((batch_size,), np.float32)
    return step.lower(program_segment, state, batch).compile()

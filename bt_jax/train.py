"""Training from a configuration to a report: `train_and_evaluate` reads from the top down."""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from bt_jax import cross_validation, files, inference, metrics, run_report, run_weights, stages, steps, workdir
from bt_jax.calibration import softmax
from bt_jax.checkpoint import Checkpoints
from bt_jax.data import pipeline, seen_images, sources
from bt_jax.data.augment import Augmentation, to_float
from bt_jax.data.folds import DividedData, divide
from bt_jax.data.order import Order
from bt_jax.data.preprocess import Preprocessing
from bt_jax.defaults import constructor_options
from bt_jax.errors import UsageError
from bt_jax.features import Cut, FeatureCache
from bt_jax.feed import Feed
from bt_jax.inference import ModelDescription
from bt_jax.interrupts import caught
from bt_jax.loop import DIVERGED_ADVICE, Loop, restored
from bt_jax.models import registry
from bt_jax.models.pretrained.sources import Weights, resolve
from bt_jax.models.registry import Network, Tree
from bt_jax.profiling import Profiler, parse
from bt_jax.programs import Programs
from bt_jax.progress import Progress
from bt_jax.steps import TrainState
from bt_jax.writers import MetricsWriter

say = functools.partial(print, flush=True)


def train_and_evaluate(config: ml_collections.ConfigDict, folder: pathlib.Path) -> int:
    """Trains one fold, or all of them, and writes the report. With the same folder it goes on where it stopped.

    Args:
      config: as of `configs/effnet.py`.
      folder: the workdir; made where it is missing.

    Returns:
      The exit status: 0, or 128 + the number of the signal that interrupted the run.

    Raises:
      UsageError: a wrong field, path or file, or a loss that is not finite.
    """
    check(config)
    if config.data.fold != -1:
        return _train_fold(config, folder)
    for fold in range(config.data.folds):
        say(f"\nFold {fold} of {config.data.folds}")
        of_fold = config.copy_and_resolve_references()
        of_fold.data.fold = fold
        if status := _train_fold(of_fold, folder / f"fold_{fold}"):
            return status
    cross_validation.summarise(folder, folds=config.data.folds, say=say)
    return 0


def _train_fold(config: ml_collections.ConfigDict, folder: pathlib.Path) -> int:
    # However training ends, the save under way is finished.
    with workdir.locked(folder), contextlib.closing(Checkpoints(folder)) as checkpoints:
        return _train_with(checkpoints, config, folder)


def _train_with(checkpoints: Checkpoints, config: ml_collections.ConfigDict, folder: pathlib.Path) -> int:
    latest = checkpoints.latest_step
    workdir.write_config(folder, config.to_dict(), resuming=latest is not None)
    record = workdir.RunRecord.open(folder)
    if latest is None:
        weights = _starting_weights(config)
        size = config.preprocess.size or registry.native_size(weights.model)
        preprocessing = Preprocessing(**{**config.preprocess, "size": size})
    else:
        # The network that the run began with, whatever weights could be found now.
        description = ModelDescription.from_dict(checkpoints.metadata(latest)["model"])
        preprocessing = Preprocessing.from_dict(description.preprocessing)
    with record.timed("data"):
        data = _load_data(config, folder, preprocessing, resuming=latest is not None)
    say(
        f"data: {data.source.description}: {len(data.training)} training, {len(data.validation)} validation images "
        f"(fold {config.data.fold} of {config.data.folds}; {data.grouping}), {len(data.testing)} testing images"
    )
    if data.probe:
        say(f"shift probe: {len(data.shifted)} images of {data.probe.words} are kept from both")
    if latest is None:
        description, network, params, batch_stats = _starting_model(config, weights, preprocessing, data)
    else:
        network, params, batch_stats = description.network()
    size, normalisation = preprocessing.size, description.normaliser()
    parameters = registry.parameter_count(params)
    say(f"model: {network.name}, {parameters:,} parameters, {size}x{size} pixels, {description.weights}")

    order = Order(records=len(data.training), batch_size=config.train.batch_size, seed=config.seed)
    plan = stages.make_plan(network.segment_names, steps_per_epoch=order.steps_per_epoch, **config.stages)
    plan_table = stages.describe(
        plan, params, segment_names=network.segment_names, steps_per_epoch=order.steps_per_epoch
    )
    say(f"\n{plan_table}\n")

    mesh = steps.make_mesh()
    optimizer = steps.make_optimizer(network.segment_names, **config.optimizer)
    state = steps.initial_state(params, batch_stats, optimizer, averaging=config.train.average_decay > 0)
    state = jax.device_put(state, steps.replicated(mesh))
    make_step = functools.partial(
        steps.make_train_step,
        network,
        optimizer,
        mesh=mesh,
        normalisation=normalisation,
        weights=steps.class_weights(config.loss.class_weights, data.training.labels, len(data.source.class_names)),
        label_smoothing=config.loss.label_smoothing,
        average_decay=config.train.average_decay,
        dtype=steps.compute_dtype(config.train.dtype),
        seed=config.seed,
        mixup=config.train.mixup,
    )
    image_weights = data.training_weights(config.data.balance)
    cache = FeatureCache(
        network=network,
        normalisation=normalisation,
        dtype=steps.compute_dtype(config.train.dtype),
        mesh=mesh,
        images=data.training.images,
        settings=Augmentation(**config.augment),
        seed=config.seed,
        views=config.train.cached_views,
        threads=config.data.threads,
        limit=round(config.train.cache_limit_gb * 1e9),
        folder=files.cache_directory() / "features",
        kinds=data.training_kinds,
    )
    cuts = cache.cuts(
        plan,
        params,
        batch_stats,
        lowest_segment=config.train.cached_segment,
        steps_per_epoch=order.steps_per_epoch,
    )
    forward = inference.make_forward(
        network, normalisation=normalisation, dtype=steps.compute_dtype(config.train.dtype)
    )
    outputs_of = functools.partial(inference.outputs_of, forward, batch_size=config.eval.batch_size)

    progress = Progress()
    if latest is not None:
        progress = Progress.from_dict(checkpoints.metadata(latest)["progress"])
        state = restored(checkpoints, latest, like=state)
        say(f"resuming from step {latest}, in stage {progress.stage}")
    record.started(
        step=progress.step,
        data=data.facts,
        model={"name": network.name, "weights": description.weights, "weights_sha256": description.weights_sha256},
    )

    open_images = functools.partial(
        pipeline.training_batches,
        data.training.images,
        data.training.labels,
        order=order,
        settings=Augmentation(**config.augment),
        views=config.data.views,
        kinds=data.training_kinds,
        weights=image_weights,
        stop_step=plan[-1].last_step,
        workers=config.data.workers,
        threads=config.data.threads,
    )
    with caught() as interrupt:
        loop = Loop(
            plan=plan,
            progress=progress,
            programs=Programs(
                functools.partial(
                    _compile, make_step, state, config.train.batch_size, size, cuts, image_weights is not None
                )
            ),
            feed=Feed(
                open_images=open_images,
                labels=data.training.labels,
                order=order,
                cache=cache,
                cuts=cuts,
                transfer=functools.partial(jax.device_put, device=steps.by_row(mesh)),
                timed=functools.partial(record.timed, "features"),
                weights=image_weights,
            ),
            evaluate=functools.partial(_evaluate, outputs_of, data),
            rate=functools.partial(stages.rate_at, **config.schedule),
            checkpoints=checkpoints,
            model=dataclasses.asdict(description),
            writer=MetricsWriter(folder, step=progress.step),
            record=record,
            interrupt=interrupt,
            batch_size=config.train.batch_size,
            steps_per_epoch=order.steps_per_epoch,
            log_every=config.train.log_every,
            evaluate_every=max(1, round(config.eval.every_epochs * order.steps_per_epoch)),
            checkpoint_every=config.checkpoint.every_steps,
            patience=config.early_stopping.patience,
            profiler=Profiler(config.profile, folder, steps=plan[-1].last_step),
        )
        with contextlib.closing(loop):
            state = loop.run(state)
        if interrupt:
            # Read under the handlers, and waited for: a second signal must not end the save.
            say(f"interrupted: saved at step {checkpoints.latest_step}; the same command goes on from there")
            return interrupt.status

    assert progress.best_step is not None  # the last step is followed by an evaluation
    best = restored(checkpoints, progress.best_step, like=state).for_evaluation()
    with record.timed("report"):
        card = run_report.write(
            folder,
            data=data,
            preprocessing=preprocessing,
            outputs_of=lambda images: outputs_of(best["params"], best["batch_stats"], images=images),
            step=progress.best_step,
            facts={
                "title": f"{network.name}, fold {config.data.fold} of {config.data.folds}",
                "model": f"{network.name} at {size}x{size} pixels",
                "parameters": parameters,
                "weights": description.weights,
                "provenance": record.provenance(),
                "preprocessing": _in_words(preprocessing.to_dict()),
                "augmentation": _in_words(config.augment.to_dict()),
                "stages": stages.in_words(
                    plan, segment_names=network.segment_names, steps_per_epoch=order.steps_per_epoch
                ),
                "epochs": round(progress.step / order.steps_per_epoch, 2),
                "best_step": progress.best_step,
                "seed": config.seed,
                "versions": workdir.versions(),
                "duration_s": record.total_seconds(),
            },
            say=say,
        )
    record.save()
    say(f"\nreport: {card}")
    return 0


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses values that would fail, or mean nothing, only after the images are loaded."""
    at_least = {
        "data.folds": (config.data.folds, 2),
        "train.batch_size": (config.train.batch_size, 1),
        "train.log_every": (config.train.log_every, 1),
        "train.cached_views": (config.train.cached_views, 0),
        "train.cache_limit_gb": (config.train.cache_limit_gb, 0),
        "eval.batch_size": (config.eval.batch_size, 1),
        "early_stopping.patience": (config.early_stopping.patience, 0),
        "checkpoint.every_steps": (config.checkpoint.every_steps, 0),
    }
    for name, (value, least) in at_least.items():
        if value < least:
            raise UsageError(f"config.{name} is {value}: use {least} or more")
    shares = {
        "loss.label_smoothing": config.loss.label_smoothing,
        "model.dropout": config.model.dropout,
        "schedule.warmup": config.schedule.warmup,
        "schedule.final": config.schedule.final,
        "train.average_decay": config.train.average_decay,
    }
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UsageError(f"config.{name} is {share}: use a number from 0 to 1")
    Augmentation(**config.augment)  # refuses what is beyond its limits
    parse(config.profile)
    if not 0 <= config.train.mixup <= 10:
        raise UsageError(f"config.train.mixup is {config.train.mixup}: use a number from 0 (off) to 10")
    if config.data.balance not in ("none", "source"):
        raise UsageError(f"config.data.balance is {config.data.balance!r}: use none or source")
    if not config.eval.every_epochs > 0:
        raise UsageError(f"config.eval.every_epochs is {config.eval.every_epochs}: use a number above 0")
    if config.train.batch_size % jax.device_count():
        raise UsageError(
            f"config.train.batch_size is {config.train.batch_size}: use a multiple of the {jax.device_count()} devices"
        )


def _starting_weights(config: ml_collections.ConfigDict) -> Weights:
    """What a fresh run starts from."""
    if run_weights.is_run(config.model.weights):
        return run_weights.of_run(config.model.weights, model=config.model.name)
    weights = resolve(config.model.weights, model=config.model.name, fallback=config.model.fallback or None)
    if weights.notice:
        say(f"note: {weights.notice}")
    return weights


def _starting_model(
    config: ml_collections.ConfigDict, weights: Weights, preprocessing: Preprocessing, data: DividedData
) -> tuple[ModelDescription, Network, Tree, Tree]:
    """The model of a fresh run: description, network, parameters and running statistics."""
    description = ModelDescription(
        name=weights.model,
        options={**weights.options, **constructor_options({**config.model})},
        class_names=data.source.class_names,
        preprocessing=preprocessing.to_dict(),
        normalisation=dataclasses.asdict(weights.normalisation),
        weights=weights.source,
        weights_sha256=weights.sha256,
        synthetic=data.source.synthetic,
    )
    network, params, batch_stats = description.network(seed=config.seed)
    params, batch_stats = weights.load(network, params, batch_stats)
    if weights.path is None and jax.tree.leaves(batch_stats):
        by_batch = {"batch_statistics": True} if "batch_statistics" in description.options else {}
        if by_batch and not description.options["batch_statistics"]:
            say(
                "warning: BatchNorm keeps statistics that the random weights gave on 64 images: "
                "config.model.batch_statistics=True suits a network without pretrained weights"
            )
        forgetful = dataclasses.replace(description, options={**description.options, "momentum": 0.0, **by_batch})
        images = to_float(data.training.images[:: math.ceil(len(data.training) / 64)])
        batch_stats = steps.calibrated_statistics(
            forgetful.network()[0], params, batch_stats, images=images, normalisation=weights.normalisation
        )
    return description, network, params, batch_stats


def _load_data(
    config: ml_collections.ConfigDict, folder: pathlib.Path, preprocessing: Preprocessing, *, resuming: bool
) -> DividedData:
    """The images, divided; writes `split.csv` and what identifies the images that the model sees."""
    source = sources.open_source(
        config.data.source,
        directory=config.data.dir,
        phantoms_per_class=tuple(config.data.phantoms_per_class),
        seed=config.seed,
    )
    for warning in source.warnings:
        say(f"warning: {warning}")
    if source.notice:
        say(f"warning: {source.notice}")
    data = divide(
        source,
        preprocessing=preprocessing,
        folds=config.data.folds,
        fold=config.data.fold,
        max_unreadable=config.data.max_unreadable,
        warn=lambda line: say(f"warning: {line}"),
        probe=config.data.probe,
        memory=config.data.memory_gb * 1e9,
    )
    workdir.write_split(folder, data.table, resuming=resuming)
    seen_images.write(folder, (data.training, data.validation))
    return data


def _in_words(settings: dict[str, Any]) -> str:
    """`name value` of all settings that are not off."""
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value)


def _compile(
    make_step: Callable[..., Any],
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
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    scalars = jax.ShapeDtypeStruct((), np.float32), jax.ShapeDtypeStruct((), np.int32)
    return make_step(program_segment=program_segment).lower(shapes, batch, *scalars).compile()


def _evaluate(
    outputs_of: Callable[..., tuple[np.ndarray, ...]], data: DividedData, state: TrainState
) -> dict[str, float]:
    """Scores on the validation fold."""
    weights = state.for_evaluation()
    logits, _ = outputs_of(weights["params"], weights["batch_stats"], images=data.validation.images)
    if not np.isfinite(logits).all():
        raise UsageError(
            f"the network's outputs on the validation images are not finite after step {int(state.step)}: "
            f"{DIVERGED_ADVICE}"
        )
    scores = metrics.score(
        split="validation",
        labels=data.validation.labels,
        probabilities=softmax(logits),
        class_names=data.source.class_names,
    )
    return {f"val/{name}": scores[name] for name in ("loss", "accuracy", "macro_f1")}

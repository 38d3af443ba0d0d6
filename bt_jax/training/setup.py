"""What a run starts from: a configuration that makes sense, weights, the model, the divided images."""

import dataclasses
import math
import pathlib

import jax
import ml_collections

from bt_jax.common.errors import UsageError
from bt_jax.data import leakage, sources
from bt_jax.data.augment.augment import Augmentation, to_float
from bt_jax.data.partition import DividedData, divide
from bt_jax.data.preprocess import Preprocessing
from bt_jax.defaults import constructor_options
from bt_jax.distributed import processes
from bt_jax.distributed.processes import say
from bt_jax.distributed.sharding import Rules
from bt_jax.inference.trained_model import ModelDescription
from bt_jax.models.pretrained.sources import Weights, resolve
from bt_jax.models.registry import Network, Tree
from bt_jax.training import profiler, run_weights, train_step
from bt_jax.workdir import run_folder


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses values that would fail, or mean nothing, only after the images are loaded."""
    at_least = {
        "data.folds": (config.data.folds, 2),
        "train.batch_size": (config.train.batch_size, 1),
        "train.accumulate": (config.train.accumulate, 1),
        "train.log_every": (config.train.log_every, 1),
        "train.slow_step": (config.train.slow_step, 0),
        "mesh.sharded_from": (config.mesh.sharded_from, 0),
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
    profiler.parse(config.profile)
    if not 0 <= config.train.mixup <= 10:
        raise UsageError(f"config.train.mixup is {config.train.mixup}: use a number from 0 (off) to 10")
    if config.data.balance not in ("none", "source"):
        raise UsageError(f"config.data.balance is {config.data.balance!r}: use none or source")
    if not config.eval.every_epochs > 0:
        raise UsageError(f"config.eval.every_epochs is {config.eval.every_epochs}: use a number above 0")
    parts = jax.device_count() * config.train.accumulate
    if config.train.batch_size % parts:
        accumulated = f" times config.train.accumulate, {config.train.accumulate}" * (config.train.accumulate > 1)
        raise UsageError(
            f"config.train.batch_size is {config.train.batch_size}: use a multiple of the {jax.device_count()} devices"
            f"{accumulated}"
        )
    rules(config)


def rules(config: ml_collections.ConfigDict) -> Rules:
    """Which parameters are divided among the devices."""
    return Rules(pattern=config.mesh.sharded, least=config.mesh.sharded_from)


def weights_of(config: ml_collections.ConfigDict) -> Weights:
    """What a fresh run starts from."""
    if run_weights.is_run(config.model.weights):
        return run_weights.of_run(config.model.weights, model=config.model.name)
    weights = resolve(config.model.weights, model=config.model.name, fallback=config.model.fallback or None)
    if weights.notice:
        say(f"note: {weights.notice}")
    return weights


def model_of(
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
        batch_stats = train_step.calibrated_statistics(
            forgetful.network()[0], params, batch_stats, images=images, normalisation=weights.normalisation
        )
    return description, network, params, batch_stats


def load_data(
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
    run_folder.write_split(folder, data.table.csv(), resuming=resuming)
    if processes.is_first():
        leakage.write(folder, (data.training, data.validation))
    return data

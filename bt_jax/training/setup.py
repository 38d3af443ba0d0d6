"""What a run starts from: weights, the model, the divided images."""

import dataclasses
import math
import pathlib

import jax
import ml_collections

from bt_jax.data import leakage, sources
from bt_jax.data.augment.augment import to_float
from bt_jax.data.partition import Partition, divide
from bt_jax.data.preprocess import Preprocessing
from bt_jax.defaults import get_model_options
from bt_jax.distributed import processes
from bt_jax.distributed.processes import say
from bt_jax.distributed.sharding import ShardingRules
from bt_jax.inference.description import ModelDescription
from bt_jax.models.pretrained.sources import Weights, resolve
from bt_jax.models.registry import Network, Tree
from bt_jax.training import config_check, fresh_model, run_weights
from bt_jax.workdir import run_folder


def make_sharding_rules(config: ml_collections.ConfigDict) -> ShardingRules:
    """Which parameters are divided among the devices."""
    return ShardingRules(pattern=config.mesh.sharded, least=config.mesh.sharded_from)


def weights_of(config: ml_collections.ConfigDict) -> Weights:
    """What a fresh run starts from."""
    if run_weights.is_run(config.model.weights):
        return run_weights.of_run(config.model.weights, model=config.model.name)
    weights = resolve(config.model.weights, model=config.model.name, fallback=config.model.fallback or None)
    if weights.notice:
        say(f"note: {weights.notice}")
    if weights.model != config.model.name:
        config_check.check_network(config, weights.model)
    return weights


def model_of(
    config: ml_collections.ConfigDict, weights: Weights, preprocessing: Preprocessing, data: Partition
) -> tuple[ModelDescription, Network, Tree, Tree]:
    """The model of a fresh run: description, network, parameters and running statistics."""
    description = ModelDescription(
        name=weights.model,
        options={**weights.options, **get_model_options({**config.model})},
        class_names=data.source.class_names,
        preprocessing=preprocessing.to_dict(),
        normalisation=dataclasses.asdict(weights.normalisation),
        weights=weights.source,
        weights_sha256=weights.sha256,
        synthetic=data.source.synthetic,
    )
    network, params, batch_stats = description.create_network(seed=config.seed)
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
        batch_stats = fresh_model.calibrate_statistics(
            forgetful.create_network()[0], params, batch_stats, images=images, normalisation=weights.normalisation
        )
    return description, network, params, batch_stats


def load_data(
    config: ml_collections.ConfigDict, folder: pathlib.Path, preprocessing: Preprocessing, *, resuming: bool
) -> Partition:
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
    run_folder.write_split(folder, data.table.to_csv(), resuming=resuming)
    if processes.is_first():
        leakage.write(folder, (data.training, data.validation))
    return data

"""Checks of a configuration, before any data is read."""

import jax
import ml_collections

from bt_jax.common.errors import UsageError
from bt_jax.data.augment.augment import Augmentation
from bt_jax.distributed.sharding import ShardingRules
from bt_jax.training import profiler


def check_config(config: ml_collections.ConfigDict) -> None:
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
    ShardingRules(pattern=config.mesh.sharded, least=config.mesh.sharded_from)

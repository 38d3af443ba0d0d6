"""Checks of every field of a configuration, before any data is read.

`RULES` says for each field which values it takes. What only another module knows, such as the names of a network's
segments or the limits of an augmentation, is left to that module: the checks call it early, so that its error comes
before the data is read.
"""

import contextlib
import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_collections

from bt_jax.common.errors import UsageError
from bt_jax.data import class_labels, partition, sources
from bt_jax.data.augment.settings import Augmentation
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.shift_probe import Probe
from bt_jax.defaults import get_model_options
from bt_jax.distributed.sharding import ShardingRules
from bt_jax.models import registry
from bt_jax.models.registry import Network
from bt_jax.training import feature_cache, image_weights, optimizer, profiler, stages, train_step


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which values a field takes.

    Attributes:
      accepts: whether a value, of any type, is one of them.
      use: what to use instead, as a part of the message.
    """

    accepts: Callable[[Any], bool]
    use: str


def take_whole(least: int | None = None, most: int | None = None) -> Rule:
    """Takes integers from `least` to `most`, but no bool."""
    return Rule(lambda value: type(value) is int and _is_within(value, least, most), _describe("a whole", least, most))


def take_number(least: float | None = None, most: float | None = None) -> Rule:
    """Takes finite numbers from `least` to `most`."""
    return Rule(lambda value: _is_finite(value) and _is_within(value, least, most), _describe("a", least, most))


def take_one_of(*names: str) -> Rule:
    """Takes some texts."""
    return Rule(lambda value: isinstance(value, str) and value in names, f"one of {', '.join(filter(None, names))}")


def take_whole_numbers(least: int, *, use: str, count: int | None = None) -> Rule:
    """Takes tuples (or lists) of integers of at least `least`, `count` of them."""
    one = take_whole(least)

    def accepts(value: Any) -> bool:
        return isinstance(value, tuple | list) and len(value) == (count or len(value)) and all(map(one.accepts, value))

    return Rule(accepts, use)


def _is_within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _describe(kind: str, least: float | None, most: float | None) -> str:
    if least is None:
        return f"{kind} number"
    return f"{kind} number of {least:g} or more" if most is None else f"{kind} number from {least} to {most}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


TEXT = Rule(lambda value: isinstance(value, str), "a text")
NAME = Rule(lambda value: isinstance(value, str) and bool(value), "a text that is not empty")
FLAG = Rule(lambda value: isinstance(value, bool), "True or False")
WHOLE, NUMBER = take_whole(), take_number()
POSITIVE = Rule(lambda value: _is_finite(value) and value > 0, "a number above 0")
MOMENT = Rule(lambda value: _is_finite(value) and 0 <= value < 1, "a number of 0 or more, below 1")
SIZES = take_whole_numbers(1, use="a tuple of whole numbers of 1 or more, such as (64,)")

# Fields that say TEXT, WHOLE or NUMBER have no limits here: those are checked where the value is used (see
# `check_config`). Fields of `augment` and `preprocess` are attributes of the classes that check them.
RULES: Mapping[str, Rule] = {
    "seed": take_whole(0, 2**63 - 1),
    "profile": TEXT,
    "model.name": take_one_of(*registry.ARCHITECTURES),
    "model.weights": NAME,
    "model.fallback": take_one_of("", *registry.ARCHITECTURES),
    "model.hidden": SIZES,
    "model.filters": SIZES,
    "model.dropout": take_number(0, 1),
    "model.batch_statistics": FLAG,
    "model.channels": WHOLE,
    "data.source": TEXT,
    "data.dir": TEXT,
    "data.folds": Rule(lambda value: type(value) is int and (value == 0 or value >= 2), "2 or more, or 0 for none"),
    "data.fold": WHOLE,
    "data.probe": TEXT,
    "data.balance": take_one_of("none", "source"),
    "data.max_unreadable": take_whole(0),
    "data.phantoms_per_class": take_whole_numbers(0, count=2, use="two whole numbers, for Training and Testing"),
    "data.views": take_whole(0),
    "data.memory_gb": take_number(0),
    "data.workers": take_whole(0),
    "data.threads": take_whole(0),
    "preprocess.size": WHOLE,
    "loss.class_weights": NAME,
    "loss.label_smoothing": take_number(0, 1),
    "optimizer.name": TEXT,
    "optimizer.weight_decay": take_number(0),
    "optimizer.b1": MOMENT,
    "optimizer.b2": MOMENT,
    "optimizer.clip_norm": take_number(0),
    "stages.count": WHOLE,
    "stages.head_epochs": NUMBER,
    "stages.epochs": NUMBER,
    "stages.head_learning_rate": NUMBER,
    "stages.learning_rate": NUMBER,
    "stages.final_learning_rate": NUMBER,
    "stages.lowest_segment": TEXT,
    "stages.programs": WHOLE,
    "schedule.warmup": take_number(0, 1),
    "schedule.decay": TEXT,
    "schedule.final": take_number(0, 1),
    "train.batch_size": take_whole(1),
    "train.accumulate": take_whole(1),
    "train.dtype": TEXT,
    "train.mixup": take_number(0, 10),
    "train.mix_style": Rule(
        lambda value: isinstance(value, tuple | list) and all(isinstance(one, str) for one in value),
        "a tuple of names of segments, such as ('stem',), or ()",
    ),
    "train.average_decay": take_number(0, 1),
    "train.log_every": take_whole(1),
    "train.slow_step": take_number(0),
    "train.cached_views": take_whole(0),
    "train.cached_segment": TEXT,
    "train.cache_limit_gb": take_number(0),
    "mesh.sharded": TEXT,
    "mesh.sharded_from": take_whole(0),
    "eval.every_epochs": POSITIVE,
    "eval.batch_size": take_whole(1),
    "eval.scale": take_number(1, 2),
    "eval.mirrored": FLAG,
    "eval.examples": take_whole(0),
    "early_stopping.patience": take_whole(0),
    "checkpoint.every_steps": take_whole(0),
}
# By group: the class whose attributes its fields are, and what its messages call it.
CLASSES = {"augment": (Augmentation, "augmentation"), "preprocess": (Preprocessing, "preprocessing")}


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuses a configuration with a field that is missing, unknown, or has a value that it cannot have.

    Reads no data, builds no weights and looks for none. Where weights are missing, a run may go on with another model,
    `config.model.fallback`; so a name of a segment must be one of either here, and `check_network` is called again
    when the weights are found.

    Raises:
      UsageError: names the field.
    """
    _check_fields(_flatten(config))
    profiler.parse(config.profile)
    sources.check_source(config.data.source, directory=config.data.dir)
    if config.data.fold != -1 or not config.data.folds:
        partition.check_fold(config.data.fold, folds=config.data.folds)
    class_names = class_labels.BRAIN_TUMOR_CLASSES if config.data.source == "phantoms" else None
    if config.data.probe:
        Probe.parse(config.data.probe, class_names=class_names)
    image_weights.parse_class_weights(config.loss.class_weights, classes=len(class_names) if class_names else None)
    train_step.resolve_dtype(config.train.dtype)
    ShardingRules(pattern=config.mesh.sharded, least=config.mesh.sharded_from)
    with _name_fields_in_errors("augment"):
        Augmentation(**config.augment)
    parts = jax.device_count() * config.train.accumulate
    if config.train.batch_size % parts:
        accumulated = f" times config.train.accumulate, {config.train.accumulate}" * (config.train.accumulate > 1)
        raise UsageError(
            f"config.train.batch_size is {config.train.batch_size}: use a multiple of the {jax.device_count()} devices"
            f"{accumulated}"
        )
    try:
        check_network(config, config.model.name)
    except UsageError:
        if config.model.weights != "imagenet" or config.model.fallback in ("", config.model.name):
            raise
        check_network(config, config.model.fallback)


def check_network(config: ml_collections.ConfigDict, model: str) -> None:
    """Refuses what does not fit the network: options, size of the images, segments, and what trains them.

    Args:
      config: its fields are checked otherwise.
      model: name of the network, which is `config.model.name` or, without weights for that, its fallback.

    Raises:
      UsageError: names the field.
    """
    size = config.preprocess.size or registry.get_native_size(model)
    with _name_fields_in_errors("preprocess"):
        Preprocessing(**{**config.preprocess, "size": size})
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in get_model_options({**config.model}).items()
    }
    network = _create_network(model, size, **options)
    names = network.segment_names
    stages.make_plan(names, steps_per_epoch=1, cached_head=config.train.cached_views > 0, **config.stages)
    stages.Schedule(**config.schedule)
    feature_cache.find_lowest_cut(config.train.cached_segment, names)
    if config.eval.scale != 1:
        _check_scale(config, network)
    _check_mixed_segments(tuple(config.train.mix_style), network)
    optimizer.make_optimizer(names, **config.optimizer)


def _check_scale(config: ml_collections.ConfigDict, network: Network) -> None:
    """Refuses larger images in validation than in training where that cannot be."""
    if not network.pooled_head:
        reason = f"but the head of {network.name} takes images of one size only: use 1"
    elif config.train.cached_views and config.train.cached_segment not in ("", network.segment_names[-1]):
        reason = "and config.train.cached_segment is set, whose maps are those of smaller images: use 1, or unset it"
    else:
        return
    raise UsageError(f"config.eval.scale is {config.eval.scale}, {reason}")


def _check_mixed_segments(mixed: tuple[str, ...], network: Network) -> None:
    """Refuses names that are not those of segments with a map for each image."""
    maps = [name for name, grid in zip(network.segment_names, network.grids[1:], strict=False) if grid is not None]
    for name in mixed:
        if name not in maps:
            raise UsageError(
                f"config.train.mix_style is {mixed}, but {name!r} is no segment of {network.name} with a map of "
                f"features: use {', '.join(maps) or 'another model'}"
            )


@functools.lru_cache(maxsize=64)
def _create_network(model: str, size: int, **options: Any) -> Network:
    """Returns a network without arrays; its segments do not depend on the number of classes."""
    classes = len(class_labels.BRAIN_TUMOR_CLASSES)
    return registry.create_abstract(model, classes=classes, size=size, **options)[0]


def _check_fields(values: Mapping[str, Any]) -> None:
    of_classes = {
        f"{group}.{field.name}" for group, (known, _) in CLASSES.items() for field in dataclasses.fields(known)
    }
    for name in values:
        # What else a model has is known to its constructor.
        if name not in RULES and name not in of_classes and not name.startswith("model."):
            near = difflib.get_close_matches(name, [*RULES, *of_classes], n=1)
            hint = f"did you mean config.{near[0]}?" if near else "see docs/configuration.md"
            raise UsageError(f"config.{name} is no field: {hint}")
    for name, rule in RULES.items():
        if name not in values:
            if name.startswith("model.") and name != "model.name":
                continue
            raise UsageError(f"config.{name} is missing: use {rule.use}")
        if not rule.accepts(values[name]):
            raise UsageError(f"config.{name} is {values[name]!r}: use {rule.use}")
    for name, value in values.items():
        if isinstance(value, str):
            try:
                value.encode()  # as the record of the run and its card hold it
            except UnicodeEncodeError:
                raise UsageError(f"config.{name} is {value!r}, which is not UTF-8: rename it") from None


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"a.b": value}, with tuples and lists as they are."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


@contextlib.contextmanager
def _name_fields_in_errors(group: str) -> Iterator[None]:
    """Makes an error of a group's class name the field of the configuration."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).replace(f"{CLASSES[group][1]}.", f"config.{group}.", 1)) from error

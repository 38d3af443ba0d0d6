"""Everything that a run needs to train, from its configuration: `prepare`. Nothing below it knows the configuration."""

import dataclasses

import ml_collections
from jax.sharding import Mesh

from bt_jax.common import caches
from bt_jax.common.errors import UsageError
from bt_jax.data import leakage, sources
from bt_jax.data.augment.settings import Augmentation
from bt_jax.data.partition import Partition, divide
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.sampler import Sampler
from bt_jax.defaults import get_model_options, make_defaults
from bt_jax.distributed import processes, sharding
from bt_jax.distributed.processes import say
from bt_jax.distributed.sharding import ShardingRules
from bt_jax.inference.description import ModelDescription
from bt_jax.inference.forward import prefers_pairs
from bt_jax.models import registry, summary
from bt_jax.reports.model_card import MIRRORED, ModelFacts
from bt_jax.training import config_check, image_weights, stages, train_step
from bt_jax.training.evaluator import Evaluator
from bt_jax.training.feature_cache import FeatureCache
from bt_jax.training.optimizer import make_optimizer
from bt_jax.training.progress import Cadence, Progress
from bt_jax.training.sharded_forward import ShardedForward
from bt_jax.training.stage_inputs import StageInputs, TrainingImages
from bt_jax.training.stages import Plan, Schedule
from bt_jax.training.start import FreshStart, ResumedStart, Start, StartingModel, find_weights
from bt_jax.training.train_state import TrainState, create_state
from bt_jax.training.train_step import TrainStep
from bt_jax.workdir import run_folder
from bt_jax.workdir.checkpoint import Checkpoints
from bt_jax.workdir.run_folder import OpenRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """A run that is ready to train, from its first step or from where it stopped.

    Attributes:
      data: the images, divided.
      preprocessing: of the images.
      description: of the model, for checkpoints.
      mesh: the devices.
      plan: the stages.
      cadence: how often to log, evaluate and save.
      step: the training step.
      seed: of augmentation, dropout and stochastic depth.
      inputs: what the stages train on and are validated on.
      evaluator: scores a state between epochs; None without validation images.
      forward: the outputs of the finished model for any images; those of `evaluator` are never mirrored.
      state: to start with; the first step takes its memory.
      progress: where the run stands; training moves it.
      profile: steps to trace, see `profiler.parse`.
      slow_step: as many usual steps a step may take before it is reported, see `Watchdog`.
      examples: images of each class that the report shows with heat maps.
      facts: what the report says about the configuration.
    """

    data: Partition
    preprocessing: Preprocessing
    description: ModelDescription
    mesh: Mesh
    plan: Plan
    cadence: Cadence
    step: TrainStep
    seed: int
    inputs: StageInputs
    evaluator: Evaluator | None
    forward: ShardedForward
    state: TrainState
    progress: Progress
    profile: str
    slow_step: float
    examples: int
    facts: ModelFacts


def prepare(config: ml_collections.ConfigDict, run: OpenRun) -> Setup:
    """Loads data and model, and creates or restores everything that training needs.

    Args:
      config: as of `configs/effnet.py`, checked, with one fold.
      run: the open workdir. With a checkpoint in it the run is resumed.

    Raises:
      UsageError: data or weights that cannot be used, or another run than the one in the workdir.
    """
    start = _choose_start(config, run.checkpoints)
    run_folder.write_config(run.folder, config.to_dict(), defaults=make_defaults().to_dict(), resuming=start.is_resumed)
    with run.record.time_phase("data"):
        data = _load_data(config, run, start)
    model = start.create_model(data)
    normalisation = model.description.create_normalisation()
    dtype = train_step.resolve_dtype(config.train.dtype)
    _print_model(model)
    sampler = Sampler(records=len(data.training), batch_size=config.train.batch_size, seed=config.seed)
    plan = _make_plan(config, model, sampler)
    mesh = sharding.make_mesh()
    step, state = _create_step(config, model, data, mesh)
    inputs = _create_inputs(config, model, data, sampler, plan, step, run)
    plain = ShardedForward(
        model.network, normalisation=normalisation, dtype=dtype, mesh=mesh, batch_size=config.eval.batch_size
    )
    state, progress = start.load_state(state)
    run.record.record_start(
        step=progress.step,
        data=data.facts,
        model={
            "name": model.network.name,
            "weights": model.description.weights,
            "weights_sha256": model.description.weights_sha256,
        },
    )
    return Setup(
        data=data,
        preprocessing=start.preprocessing,
        description=model.description,
        mesh=mesh,
        plan=plan,
        cadence=Cadence(
            log_every=config.train.log_every,
            evaluate_every=max(1, round(config.eval.every_epochs * plan.steps_per_epoch)),
            checkpoint_every=config.checkpoint.every_steps,
            patience=config.early_stopping.patience,
        ),
        step=step,
        seed=config.seed,
        inputs=inputs,
        evaluator=Evaluator(data.validation.labels, class_names=data.source.class_names, forward=plain, inputs=inputs)
        if config.data.folds
        else None,
        forward=plain.copy_mirrored() if model.description.mirrored else plain,
        state=state,
        progress=progress,
        profile=config.profile,
        slow_step=config.train.slow_step,
        examples=config.eval.examples,
        facts=_collect_facts(config, model, start.preprocessing, plan),
    )


def _choose_start(config: ml_collections.ConfigDict, checkpoints: Checkpoints) -> Start:
    """Decides whether a run is fresh or resumed; nothing else does."""
    if checkpoints.latest_step is not None:
        return ResumedStart(checkpoints, checkpoints.latest_step)
    weights = find_weights(config.model.weights, model=config.model.name, fallback=config.model.fallback or None)
    config_check.check_network(config, weights.model)  # it may be the fallback
    return FreshStart(
        weights,
        options=get_model_options({**config.model}),
        preprocess={**config.preprocess},
        seed=config.seed,
        scale=config.eval.scale,
        mirrored=config.eval.mirrored,
    )


def _load_data(config: ml_collections.ConfigDict, run: OpenRun, start: Start) -> Partition:
    """Loads and divides the images; writes `split.csv` and what identifies the images that the model sees."""
    source = sources.open_source(
        config.data.source,
        directory=config.data.dir,
        phantoms_per_class=tuple(config.data.phantoms_per_class),
        seed=config.seed,
    )
    for warning in source.warnings:
        say(f"warning: {warning}")
    if len(source.class_names) < 2:
        raise UsageError(f"{source.description} has images of one class only, {source.class_names[0]}: add another one")
    if start.class_names is not None and set(source.class_names) < set(start.class_names):
        # Runs of earlier versions had all four classes of the brain tumour set, even without images of some.
        source = sources.use_classes(source, start.class_names)
    if source.notice:
        say(f"warning: {source.notice}")
    data = divide(
        source,
        preprocessing=start.preprocessing,
        folds=config.data.folds,
        fold=config.data.fold,
        max_unreadable=config.data.max_unreadable,
        warn=lambda line: say(f"warning: {line}"),
        probe=config.data.probe,
        memory=config.data.memory_gb * 1e9,
    )
    run_folder.write_split(run.folder, data.table.to_csv(), resuming=start.is_resumed)
    if processes.is_first():
        leakage.write(run.folder, (data.training, data.validation))
    say(
        f"data: {data.source.description}: {len(data.training)} training, {len(data.validation)} validation images "
        f"({_name_fold(config)}; {data.grouping}), {len(data.testing)} testing images"
    )
    if data.probe:
        say(f"shift probe: {len(data.shifted)} images of {data.probe.description} are kept from both")
    return data


def _print_model(model: StartingModel) -> None:
    size = model.description.preprocessing["size"]
    say(
        f"model: {model.network.name}, {summary.count_parameters(model.params):,} parameters, {size}x{size} pixels, "
        f"{model.description.weights}"
    )


def _make_plan(config: ml_collections.ConfigDict, model: StartingModel, sampler: Sampler) -> Plan:
    plan = Plan(
        stages=stages.make_plan(
            model.network.segment_names,
            steps_per_epoch=sampler.steps_per_epoch,
            cached_head=config.train.cached_views > 0,
            **config.stages,
        ),
        schedule=Schedule(**config.schedule),
        segment_names=model.network.segment_names,
        batch_size=config.train.batch_size,
        steps_per_epoch=sampler.steps_per_epoch,
    )
    say(f"\n{plan.format_table(model.params)}\n")
    return plan


def _create_step(
    config: ml_collections.ConfigDict, model: StartingModel, data: Partition, mesh: Mesh
) -> tuple[TrainStep, TrainState]:
    """Creates the training step, and the state of a fresh run on the devices."""
    optimizer = make_optimizer(model.network.segment_names, **config.optimizer)
    state = create_state(model.params, model.batch_stats, optimizer, averaging=config.train.average_decay > 0)
    rules = ShardingRules(pattern=config.mesh.sharded, least=config.mesh.sharded_from)
    shardings = rules.make_shardings(state, mesh)
    state = sharding.place(state, shardings)
    if mesh.size > 1:
        say(sharding.describe(state, mesh))
    step = TrainStep(
        network=model.network,
        optimizer=optimizer,
        mesh=mesh,
        normalisation=model.description.create_normalisation(),
        label_smoothing=config.loss.label_smoothing,
        average_decay=config.train.average_decay,
        dtype=train_step.resolve_dtype(config.train.dtype),
        augmentation=Augmentation(**config.augment),
        image_size=_get_training_size(config, model),
        mixup=config.train.mixup,
        mixed_segments=tuple(config.train.mix_style),
        by_pairs=prefers_pairs(mesh.devices.flat),
        accumulate=config.train.accumulate,
        state_shardings=shardings if config.mesh.sharded else None,
    )
    return step, state


def _get_training_size(config: ml_collections.ConfigDict, model: StartingModel) -> int:
    """Returns the side in pixels that images are reduced to in training; 0: they stay as they are."""
    size: int = config.preprocess.size or registry.get_native_size(model.network.name)
    return size if size < model.description.preprocessing["size"] else 0


def _create_inputs(
    config: ml_collections.ConfigDict,
    model: StartingModel,
    data: Partition,
    sampler: Sampler,
    plan: Plan,
    step: TrainStep,
    run: OpenRun,
) -> StageInputs:
    cache = FeatureCache(
        network=model.network,
        normalisation=step.normalisation,
        dtype=step.dtype,
        mesh=step.mesh,
        images=data.training.images,
        augmentation=step.augmentation,
        image_size=step.image_size,
        seed=config.seed,
        views=config.train.cached_views,
        limit=round(config.train.cache_limit_gb * 1e9),
        folder=caches.get_cache_directory() / "features",
    )
    return StageInputs(
        images=TrainingImages(
            images=data.training.images,
            labels=data.training.labels,
            sampler=sampler,
            views=config.data.views,
            weights=image_weights.compute_image_weights(
                config.loss.class_weights,
                data.training.labels,
                len(data.source.class_names),
                balancing=data.compute_training_weights(config.data.balance),
            ),
            workers=config.data.workers,
            threads=config.data.threads,
            rows=sharding.get_host_rows(step.mesh, config.train.batch_size),
            names=data.training.paths,
        ),
        validation_images=data.validation.images,
        cache=cache,
        cuts=cache.choose_cuts(
            plan.stages,
            model.params,
            model.batch_stats,
            lowest_segment=config.train.cached_segment,
            steps_per_epoch=plan.steps_per_epoch,
        ),
        mesh=step.mesh,
        steps=plan.steps,
        record=run.record,
    )


def _collect_facts(
    config: ml_collections.ConfigDict, model: StartingModel, preprocessing: Preprocessing, plan: Plan
) -> ModelFacts:
    name, size, training_size = model.network.name, preprocessing.size, _get_training_size(config, model)
    trained = f", trained at {training_size}x{training_size}" if training_size else ""
    return {
        "title": f"{name}, {_name_fold(config)}",
        "model": f"{name} at {size}x{size} pixels{trained}{MIRRORED if model.description.mirrored else ''}",
        "parameters": summary.count_parameters(model.params),
        "weights": model.description.weights,
        "preprocessing": run_folder.format_settings(preprocessing.to_dict()),
        "augmentation": run_folder.format_settings(config.augment.to_dict()),
        "stages": plan.list_stages(),
        "seed": config.seed,
    }


def _name_fold(config: ml_collections.ConfigDict) -> str:
    return f"fold {config.data.fold} of {config.data.folds}" if config.data.folds else "trained on all images"

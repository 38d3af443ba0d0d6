"""The plan of staged training: which segments a stage trains, how fast, how long, and with which compiled program."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bt_jax.common.errors import UsageError

# What to do when a loss or an output is not finite.
DIVERGED_ADVICE = (
    "lower config.stages.learning_rate (and head_learning_rate) or config.optimizer.clip_norm, in another --workdir; "
    "checkpoints written before stay as they are"
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a plan. Segments are numbered from the input, so it trains `first_segment` and all above it.

    Attributes:
      number: counted from 1.
      first_segment: the lowest segment that trains.
      program_segment: the lowest segment that the compiled program can train, at most `first_segment`. Stages with the
        same one share the program; the segments between the two are frozen at run time.
      learning_rate: at the stage's peak.
      steps: number of steps.
      first_step: steps before this stage.
    """

    number: int
    first_segment: int
    program_segment: int
    learning_rate: float
    steps: int
    first_step: int

    @property
    def last_step(self) -> int:
        """Number of steps up to the end of this stage."""
        return self.first_step + self.steps


def make_plan(
    segment_names: Sequence[str],
    *,
    count: int,
    head_epochs: float,
    epochs: float,
    head_learning_rate: float,
    learning_rate: float,
    final_learning_rate: float,
    lowest_segment: str,
    programs: int,
    steps_per_epoch: int,
    cached_head: bool = True,
) -> tuple[Stage, ...]:
    """Makes the stages that unfreeze a network from the top.

    Stage 1 trains the head alone. With S segments below it down to `lowest_segment`, stage k of N trains the head and
    the top ceil(S (k - 1) / (N - 1)) of them, so each stage reaches as deep as the one before or deeper, and the last
    one trains all. EfficientNet-B1 has S = 25 (top convolution, 23 blocks, stem): with 30 stages most bring one
    segment more, and a few repeat the depth of the one before at a smaller rate. Rates fall geometrically from stage 2
    to the last. Without a stage for the head alone (`head_epochs` 0), which a network with random weights needs none
    of, the first stage is like the second, and a single one trains all.

    Args:
      segment_names: of the model, from the input on; the last is the head.
      count: N; 1 trains the head alone, or all if `head_epochs` is 0.
      head_epochs: length of stage 1; fractions are allowed. 0: there is no stage that trains the head alone.
      epochs: length of each other stage; fractions are allowed.
      head_learning_rate: of the head's stage.
      learning_rate: of the stage after it, or the first.
      final_learning_rate: of stage N.
      lowest_segment: where unfreezing ends; segments below never train. Empty is the whole network.
      programs: compiled programs for the stages after the first, each for a run of consecutive stages; 0 gives each
        depth its own, which computes no gradient in vain but compiles longest. With 1, the head's stage has the same
        one too, unless its features may be cached.
      steps_per_epoch: to turn epochs into steps; each stage has at least one.
      cached_head: whether features may be cached for the head's stage.
    """
    _check_plan(segment_names, count=count, lowest_segment=lowest_segment, programs=programs, head_epochs=head_epochs)
    _check_positive(
        epochs=epochs,
        head_learning_rate=head_learning_rate,
        learning_rate=learning_rate,
        final_learning_rate=final_learning_rate,
    )
    head = len(segment_names) - 1
    below_head = head - (segment_names.index(lowest_segment) if lowest_segment else 0)
    alone = 1 if head_epochs else 0  # stages of the head alone
    later = count - alone
    depths = [head] * alone + [head - math.ceil(below_head * k / later) for k in range(1, later + 1)]
    rates = [head_learning_rate] * alone + np.geomspace(learning_rate, final_learning_rate, later).tolist()
    lengths = [max(1, round(steps_per_epoch * length)) for length in [head_epochs] * alone + [epochs] * later]
    deepest = {0: head}
    others = np.arange(alone, count)
    for run in np.array_split(others, programs) if programs else others[:, None]:
        deepest |= {int(k): depths[int(run[-1])] for k in run}
    if programs == 1 and alone and count > 1 and not cached_head:
        deepest[0] = depths[-1]
    return tuple(
        Stage(
            number=k + 1,
            first_segment=depths[k],
            program_segment=deepest[k],
            learning_rate=rates[k],
            steps=lengths[k],
            first_step=sum(lengths[:k]),
        )
        for k in range(count)
    )


def _check_plan(
    segment_names: Sequence[str], *, count: int, lowest_segment: str, programs: int, head_epochs: float
) -> None:
    if count < 1:
        raise UsageError(f"config.stages.count is {count}: use at least 1")
    if lowest_segment and lowest_segment not in segment_names:
        raise UsageError(f"config.stages.lowest_segment is {lowest_segment!r}: use one of {', '.join(segment_names)}")
    if programs < 0:
        raise UsageError(f"config.stages.programs is {programs}: use 0 or more")
    if not 0 <= head_epochs < math.inf:
        raise UsageError(f"config.stages.head_epochs is {head_epochs}: use a number above 0, or 0 for no such stage")


def _check_positive(**fields: float) -> None:
    for name, value in fields.items():
        if not 0 < value < math.inf:
            raise UsageError(f"config.stages.{name} is {value}: use a number above 0")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate within a stage: linear warmup, then constant or a half cosine (arXiv:1608.03983).

    Attributes:
      warmup: share of the stage's steps in which the rate rises.
      decay: `cosine` or `none`.
      final: share of the peak rate at the end of a cosine.
    """

    warmup: float
    decay: str
    final: float

    def __post_init__(self) -> None:
        if self.decay not in ("cosine", "none"):
            raise UsageError(f"config.schedule.decay is {self.decay!r}: use cosine or none")

    def compute_rate(self, stage: Stage, step_in_stage: int) -> float:
        """Returns the learning rate of a step, counted from 0 in its stage."""
        warmup_steps = round(stage.steps * self.warmup)
        if step_in_stage < warmup_steps:
            return stage.learning_rate * (step_in_stage + 1) / (warmup_steps + 1)
        if self.decay == "none":
            return stage.learning_rate
        progress = (step_in_stage - warmup_steps) / max(1, stage.steps - warmup_steps)
        return stage.learning_rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The stages of a run, in order.

    Attributes:
      stages: from `make_plan`.
      schedule: the learning rate within each of them.
      segment_names: of the model, from the input on.
      batch_size: images in a step, over all devices.
      steps_per_epoch: steps in an epoch.
    """

    stages: tuple[Stage, ...]
    schedule: Schedule
    segment_names: tuple[str, ...]
    batch_size: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return self.stages[-1].last_step

    def get_stage(self, number: int) -> Stage:
        """Returns the stage of a number, counted from 1."""
        return self.stages[number - 1]

    def is_last(self, stage: Stage) -> bool:
        """Returns whether no stage follows."""
        return stage.number == len(self.stages)

    def find_next_program(self, stage: Stage) -> Stage | None:
        """Returns the first later stage that uses another program; None if there is none."""
        later = self.stages[stage.number :]
        return next((other for other in later if other.program_segment != stage.program_segment), None)

    def compute_epoch(self, step: int) -> float:
        """Returns the number of epochs in so many steps."""
        return step / self.steps_per_epoch

    def list_stages(self) -> list[str]:
        """Describes each stage in a line: what trains, how long, how fast."""
        return [
            f"`{self.segment_names[stage.first_segment]}` and above, "
            f"{self.compute_epoch(stage.steps):.2f} epochs at a rate of {stage.learning_rate:.1e}"
            for stage in self.stages
        ]

    def format_table(self, params: Mapping[str, Any]) -> str:
        """Formats a table: stage, trained segments, trained parameters, learning rate, epochs, steps, program."""
        names = self.segment_names
        sizes = [sum(leaf.size for leaf in jax.tree.leaves(params[name])) for name in names]
        programs = {segment: i + 1 for i, segment in enumerate(dict.fromkeys(s.program_segment for s in self.stages))}
        lines = [
            f"{'stage':>5}  {'trains':<20} {'parameters':>12} {'rate':>9} {'epochs':>7} {'steps':>6} {'program':>8}"
        ]
        for stage in self.stages:
            trained = names[stage.first_segment :]
            name = trained[0] if len(trained) == 1 else f"{trained[0]} .. {trained[-1]}"
            lines.append(
                f"{stage.number:>5}  {name:<20} {sum(sizes[stage.first_segment :]):>12,} {stage.learning_rate:>9.1e} "
                f"{self.compute_epoch(stage.steps):>7.2f} {stage.steps:>6} {programs[stage.program_segment]:>8}"
            )
        return "\n".join(lines)

"""Staged training as data: which segments a stage trains, how fast, how long, and which compiled program it uses."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bt_jax.common.errors import UsageError


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
        """Steps up to the end of this stage."""
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
) -> tuple[Stage, ...]:
    """Unfreezes a network from the top, stage by stage.

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
        depth its own, which computes no gradient in vain but compiles longest.
      steps_per_epoch: to turn epochs into steps; each stage has at least one.
    """
    head = len(segment_names) - 1
    if count < 1:
        raise UsageError(f"config.stages.count is {count}: use at least 1")
    if lowest_segment and lowest_segment not in segment_names:
        raise UsageError(f"config.stages.lowest_segment is {lowest_segment!r}: use one of {', '.join(segment_names)}")
    if programs < 0:
        raise UsageError(f"config.stages.programs is {programs}: use 0 or more")
    if not 0 <= head_epochs < math.inf:
        raise UsageError(f"config.stages.head_epochs is {head_epochs}: use a number above 0, or 0 for no such stage")
    positive = {
        "epochs": epochs,
        "head_learning_rate": head_learning_rate,
        "learning_rate": learning_rate,
        "final_learning_rate": final_learning_rate,
    }
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise UsageError(f"config.stages.{name} is {value}: use a number above 0")
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


def rate_at(stage: Stage, step_in_stage: int, *, warmup: float, decay: str, final: float) -> float:
    """The learning rate of a step: linear warmup, then constant or a half cosine (arXiv:1608.03983).

    Args:
      stage: holds the peak rate and the number of steps.
      step_in_stage: from 0.
      warmup: share of the stage's steps that the rate takes to rise.
      decay: `cosine` or `none`.
      final: share of the peak rate that a cosine ends at.
    """
    warmup_steps = round(stage.steps * warmup)
    if step_in_stage < warmup_steps:
        return stage.learning_rate * (step_in_stage + 1) / (warmup_steps + 1)
    if decay == "none":
        return stage.learning_rate
    if decay != "cosine":
        raise UsageError(f"config.schedule.decay is {decay!r}: use cosine or none")
    progress = (step_in_stage - warmup_steps) / max(1, stage.steps - warmup_steps)
    return stage.learning_rate * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def list_stages(plan: Sequence[Stage], *, segment_names: Sequence[str], steps_per_epoch: int) -> list[str]:
    """A line for each stage: what trains, how long, how fast."""
    return [
        f"`{segment_names[stage.first_segment]}` and above, "
        f"{stage.steps / steps_per_epoch:.2f} epochs at a rate of {stage.learning_rate:.1e}"
        for stage in plan
    ]


def format_plan(
    plan: Sequence[Stage], params: Mapping[str, Any], *, segment_names: Sequence[str], steps_per_epoch: int
) -> str:
    """The plan as a table: stage, trained segments, trained parameters, learning rate, epochs, steps, program."""
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(params[name])) for name in segment_names]
    programs = {segment: i + 1 for i, segment in enumerate(dict.fromkeys(s.program_segment for s in plan))}
    lines = [f"{'stage':>5}  {'trains':<20} {'parameters':>12} {'rate':>9} {'epochs':>7} {'steps':>6} {'program':>8}"]
    for stage in plan:
        trained = segment_names[stage.first_segment :]
        name = trained[0] if len(trained) == 1 else f"{trained[0]} .. {trained[-1]}"
        lines.append(
            f"{stage.number:>5}  {name:<20} {sum(sizes[stage.first_segment :]):>12,} {stage.learning_rate:>9.1e} "
            f"{stage.steps / steps_per_epoch:>7.2f} {stage.steps:>6} {programs[stage.program_segment]:>8}"
        )
    return "\n".join(lines)

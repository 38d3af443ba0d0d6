"""Where a run stands. Every checkpoint holds it as JSON, so that a resumed run gives the same bits."""

import dataclasses
import math
from typing import Any

from bt_jax.training.stages import Stage


@dataclasses.dataclass(frozen=True)
class Cadence:
    """How often a run logs, evaluates and saves, and when a stage ends early.

    Attributes:
      log_every: steps between rows of metrics.
      evaluate_every: steps between evaluations; the last step is always followed by one. Without validation images
        they are checkpoints only.
      checkpoint_every: steps between checkpoints besides those at evaluations; 0: none.
      patience: evaluations without a lower val/loss that end a stage; 0 is off.
    """

    log_every: int
    evaluate_every: int
    checkpoint_every: int
    patience: int


@dataclasses.dataclass
class Progress:
    """The position in the plan, and the state of model selection and early stopping.

    Attributes:
      step: number of steps done; also the position in the data stream.
      stage: number of the current stage, from 1.
      step_in_stage: number of steps done in it.
      best_loss: lowest finite val/loss of all evaluations in all stages.
      best_step: step of that evaluation; its checkpoint is kept.
      evaluations_without_gain: since the best one or since the stage began.
      unlogged: metrics of the steps since the last row of `metrics.jsonl`.
    """

    step: int = 0
    stage: int = 1
    step_in_stage: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    unlogged: list[dict[str, float]] = dataclasses.field(default_factory=list)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Progress":
        """Creates an instance from what `dataclasses.asdict` gave, also after a trip through JSON."""
        return cls(**values)

    def advance(self) -> None:
        """Counts a step."""
        self.step += 1
        self.step_in_stage += 1

    def record_evaluation(self, loss: float) -> None:
        """Takes in a val/loss. One that is not finite is the best only while there is no other."""
        if self.best_loss is None or loss < self.best_loss:
            # Nothing is lower than NaN: kept as the lowest, it would stay the best for good.
            self.best_loss = loss if math.isfinite(loss) else None
            self.best_step, self.evaluations_without_gain = self.step, 0
        else:
            self.evaluations_without_gain += 1

    def forget_best(self) -> None:
        """Forgets the best evaluation, whose checkpoint is lost; the next one becomes the best."""
        self.best_loss = self.best_step = None

    def is_stage_over(self, stage: Stage, *, patience: int) -> bool:
        """Returns whether all steps are done, or the patience is used up."""
        return self.step_in_stage >= stage.steps or self.is_patience_over(patience)

    def is_patience_over(self, patience: int) -> bool:
        """Returns whether so many evaluations brought no lower val/loss; a patience of 0 never ends."""
        return bool(patience) and self.evaluations_without_gain >= patience

    def start_next_stage(self) -> None:
        """Moves to the first step of the next stage, with fresh patience."""
        self.stage += 1
        self.step_in_stage = 0
        self.evaluations_without_gain = 0

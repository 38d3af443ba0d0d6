"""Where a run stands: small enough to travel in every checkpoint as JSON, complete enough to go on from to the bit."""

import dataclasses
import math
from typing import Any

from bt_jax.training.stages import Stage


@dataclasses.dataclass
class Progress:
    """The position in the plan, and the state of model selection and early stopping.

    Attributes:
      step: steps done; also the position in the data stream.
      stage: number of the current stage, from 1.
      step_in_stage: steps done of it.
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
        """The inverse of `dataclasses.asdict`, after a trip through JSON."""
        return cls(**values)

    def advance(self) -> None:
        """A step was done."""
        self.step += 1
        self.step_in_stage += 1

    def evaluated(self, loss: float) -> None:
        """Takes in a val/loss. One that is not finite is the best only as long as no other is known."""
        if self.best_loss is None or loss < self.best_loss:
            # Nothing is lower than NaN: kept as the lowest, it would stay the best for good.
            self.best_loss = loss if math.isfinite(loss) else None
            self.best_step, self.evaluations_without_gain = self.step, 0
        else:
            self.evaluations_without_gain += 1

    def forget_best(self) -> None:
        """Its checkpoint is gone: the next evaluation is the best, until there is a better one."""
        self.best_loss = self.best_step = None

    def stage_is_over(self, stage: Stage, *, patience: int) -> bool:
        """All steps done, or patience used up."""
        return self.step_in_stage >= stage.steps or self.patience_is_over(patience)

    def patience_is_over(self, patience: int) -> bool:
        """Whether so many evaluations brought no lower val/loss; a patience of 0 never ends."""
        return bool(patience) and self.evaluations_without_gain >= patience

    def next_stage(self) -> None:
        """Goes on to the first step of the next stage, with fresh patience."""
        self.stage += 1
        self.step_in_stage = 0
        self.evaluations_without_gain = 0

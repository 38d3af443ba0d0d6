"""Scores on the validation images between epochs."""

import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.metrics import classification
from bt_jax.metrics.calibration import softmax
from bt_jax.training.sharded_forward import ShardedForward
from bt_jax.training.stage_inputs import StageInputs
from bt_jax.training.stages import DIVERGED_ADVICE, Stage
from bt_jax.training.train_state import TrainState


class Evaluator:
    """Scores a training state as the reports score the same weights, without calibration.

    Args:
      labels: [N] int32 of the validation images.
      class_names: of the labels.
      forward: of the network.
      inputs: what the stages are validated on.
    """

    def __init__(
        self, labels: np.ndarray, *, class_names: tuple[str, ...], forward: ShardedForward, inputs: StageInputs
    ):
        self._labels, self._class_names = labels, class_names
        self._forward, self._inputs = forward, inputs

    def score(self, stage: Stage, state: TrainState) -> dict[str, float]:
        """Returns `val/loss`, `val/accuracy` and `val/macro_f1` of the weights that would be kept.

        Raises:
          UsageError: outputs that are not finite.
        """
        logits = self._compute_logits(stage, state)
        if not np.isfinite(logits).all():
            raise UsageError(
                f"the network's outputs on the validation images are not finite after step {int(state.step)}: "
                f"{DIVERGED_ADVICE}"
            )
        scores = classification.score(
            split="validation",
            labels=self._labels,
            probabilities=softmax(logits),
            class_names=self._class_names,
        )
        return {f"val/{name}": scores[name] for name in ("loss", "accuracy", "macro_f1")}

    def _compute_logits(self, stage: Stage, state: TrainState) -> np.ndarray:
        weights = state.get_evaluation_weights()
        start, values = self._inputs.get_validation_inputs(stage, state)
        if start is None:
            return self._forward.compute(weights, values)[0]
        return self._forward.compute_from(start, weights, values)

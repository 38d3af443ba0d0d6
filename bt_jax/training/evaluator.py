"""Scores on the validation images between epochs; what frozen layers make of these is computed once."""

from collections.abc import Callable, Mapping

import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.metrics import classification
from bt_jax.metrics.calibration import softmax
from bt_jax.training.feature_cache import Cut, FeatureCache
from bt_jax.training.sharded_forward import OutputsOf
from bt_jax.training.stages import Stage
from bt_jax.training.train_state import TrainState

# One view, the image as it is.
_VIEW = 0


class Validation:
    """Scores a training state: calibration aside, what the reports say of the same weights.

    Args:
      images: [N, S, S] uint8, preprocessed.
      labels: [N] int32.
      class_names: of the labels.
      outputs_of: of the whole network, see `sharded_forward.make_outputs`.
      upper_outputs_of: start=name of a segment -> the same from there up, see `sharded_forward.make_upper_outputs`.
      cuts: where stages start from features, by `Stage.program_segment`: so do their evaluations.
      cache: of the features of these images, each as it is.
      advice: what to do about outputs that are not finite.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        class_names: tuple[str, ...],
        outputs_of: OutputsOf,
        upper_outputs_of: Callable[..., OutputsOf],
        cuts: Mapping[int, Cut],
        cache: FeatureCache,
        advice: str,
    ):
        self._images, self._labels, self._class_names = images, labels, class_names
        self._outputs_of, self._advice = outputs_of, advice
        self._cuts, self._cache = cuts, cache
        self._upper_outputs_of = {number: upper_outputs_of(start=cut.name) for number, cut in cuts.items()}
        self._held: tuple[Cut, np.ndarray] | None = None  # features of the cut that was used last

    def __call__(self, stage: Stage, state: TrainState) -> dict[str, float]:
        """`val/loss`, `val/accuracy` and `val/macro_f1` of the weights that would be kept.

        Raises:
          UsageError: outputs that are not finite.
        """
        logits = self._logits(self._cuts.get(stage.program_segment), state)
        if not np.isfinite(logits).all():
            raise UsageError(
                f"the network's outputs on the validation images are not finite after step {int(state.step)}: "
                f"{self._advice}"
            )
        scores = classification.score(
            split="validation",
            labels=self._labels,
            probabilities=softmax(logits),
            class_names=self._class_names,
        )
        return {f"val/{name}": scores[name] for name in ("loss", "accuracy", "macro_f1")}

    def _logits(self, cut: Cut | None, state: TrainState) -> np.ndarray:
        weights = state.for_evaluation()
        arguments = weights["params"], weights["batch_stats"]
        if cut is None:
            self._held = None
            return self._outputs_of(*arguments, images=self._images)[0]
        return self._upper_outputs_of[cut.segment](*arguments, images=self._features(cut, state))[0]

    def _features(self, cut: Cut, state: TrainState) -> np.ndarray:
        """[N, *cut.shape] float32, of layers that no stage has trained so far."""
        if self._held is None or self._held[0] != cut:
            found = self._cache.features(cut, state.params, state.batch_stats, views=(_VIEW,), give_up=lambda: False)
            assert found is not None  # nobody gave up
            self._held = cut, np.concatenate(found.blocks[_VIEW])
        return self._held[1]

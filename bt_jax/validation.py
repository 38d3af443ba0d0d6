"""Scores on the validation images between epochs; what frozen layers make of these is computed once."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from bt_jax import inference, metrics
from bt_jax.calibration import softmax
from bt_jax.errors import UsageError
from bt_jax.features import Cut, FeatureCache
from bt_jax.models.registry import Network
from bt_jax.stages import Stage
from bt_jax.steps import TrainState

# One view, the image as it is.
_VIEW = 0


class Validation:
    """Scores a training state: calibration aside, what the reports say of the same weights.

    Args:
      images: [N, S, S] uint8, preprocessed.
      labels: [N] int32.
      class_names: of the labels.
      outputs_of: (params, batch_stats, images=[N, S, S] uint8) -> logits [N, classes] and more, of the whole network.
      network: the same.
      dtype: of the computation.
      batch_size: images in a step.
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
        outputs_of: Callable[..., tuple[np.ndarray, ...]],
        network: Network,
        dtype: jnp.dtype,
        batch_size: int,
        cuts: Mapping[int, Cut],
        cache: FeatureCache,
        advice: str,
    ):
        self._images, self._labels, self._class_names = images, labels, class_names
        self._outputs_of, self._batch_size, self._advice = outputs_of, batch_size, advice
        self._cuts, self._cache = cuts, cache
        self._forwards = {
            number: inference.make_upper_forward(network, start=cut.name, dtype=dtype) for number, cut in cuts.items()
        }
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
        scores = metrics.score(
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
        forward = self._forwards[cut.segment]
        features = self._features(cut, state)
        return inference.outputs_of(forward, *arguments, images=features, batch_size=self._batch_size)[0]

    def _features(self, cut: Cut, state: TrainState) -> np.ndarray:
        """[N, *cut.shape] float32, of layers that no stage has trained so far."""
        if self._held is None or self._held[0] != cut:
            found = self._cache.features(cut, state.params, state.batch_stats, views=(_VIEW,), give_up=lambda: False)
            assert found is not None  # nobody gave up
            self._held = cut, np.concatenate(found.blocks[_VIEW])
        return self._held[1]

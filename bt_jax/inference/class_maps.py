"""Class activation maps: heat maps of networks with a linear head, which need no gradients.

A head that averages its feature maps and multiplies by a matrix has the same gradient at every place: a column of the
matrix. The maps weighted by that column are the class activation map (Zhou et al. 2016,
https://arxiv.org/abs/1512.04150), and equal Grad-CAM up to a factor. An exported graph can therefore compute it.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from bt_jax.inference import heat_map

METHOD = "gradcam"


@dataclasses.dataclass(frozen=True)
class ClassMaps:
    """The class activation maps of a model.

    Attributes:
      compute: preprocessed images [N, S, S] uint8 -> [members, N, classes, h, h] float32.
      first: distance in pixels from the edge of the image to the first value of a map.
      step: distance in pixels between neighbouring values.
    """

    compute: Callable[[np.ndarray], np.ndarray]
    first: float
    step: float

    def explain(self, images: np.ndarray, *, classes: Sequence[int] | np.ndarray) -> np.ndarray:
        """Computes heat maps [N, S, S] float32, the mean over the members; each map's maximum is 1, or 0 everywhere.

        Args:
          images: [N, S, S] uint8, preprocessed.
          classes: [N], the classes to explain.
        """
        maps = self.compute(images)[:, np.arange(len(images)), np.asarray(classes)]  # [members, N, h, h]
        weights = heat_map.make_upsampling(first=self.first, step=self.step, side=maps.shape[-1], size=images.shape[-1])
        fine = np.einsum("ih,mbhw,jw->mbij", weights, np.maximum(maps, 0), weights)
        return heat_map.scale_to_one(heat_map.scale_to_one(fine).sum(axis=0)).astype(np.float32)

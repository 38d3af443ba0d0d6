"""Random views of the training images: a pure function of seed, view and record."""

import dataclasses
import functools

import numpy as np

from bt_jax.data.augment import augment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """The random views of all training images.

    Attributes:
      images: [N, S, S] uint8, preprocessed.
      settings: strength of each operation.
      seed: of the views.
      kinds: [N] integers, such as source or class. An operation that transfers style uses a partner of another kind,
        with equal probability for each kind. None: any other image is a partner.
    """

    images: np.ndarray
    settings: augment.Augmentation
    seed: int
    kinds: np.ndarray | None = None

    def __call__(self, *, view: int, record: int) -> np.ndarray:
        """Computes a view of a record: [S, S] float32 in [0, 1]."""
        return augment.augment(
            self.images[record],
            generator=augment.make_generator(seed=self.seed, view=view, record=record),
            settings=self.settings,
            partner=functools.partial(self._draw_partner, record),
        )

    def _draw_partner(self, record: int, generator: np.random.Generator) -> np.ndarray:
        """Chooses another image without augmentation, [S, S] uint8; the same one if there is no other."""
        rows = self._rows_by_kind
        others = [kind for kind in rows if self.kinds is not None and kind != int(self.kinds[record])]
        if others:
            of_kind = rows[others[generator.integers(len(others))]]
            return self.images[of_kind[generator.integers(len(of_kind))]]
        steps = 1 + generator.integers(max(1, len(self.images) - 1))
        return self.images[(record + steps) % len(self.images)]

    @functools.cached_property
    def _rows_by_kind(self) -> dict[int, np.ndarray]:
        if self.kinds is None:
            return {}
        return {int(kind): np.flatnonzero(self.kinds == kind) for kind in np.unique(self.kinds)}

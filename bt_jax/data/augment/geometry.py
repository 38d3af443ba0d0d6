"""Geometric augmentation as one warp, so that pixels are interpolated once."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from bt_jax.data.augment.filters import filter_by, make_resampling
from bt_jax.data.augment.settings import Augmentation

_WAVES = 4  # random displacements along a side, with smooth interpolation in between


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warp:
    """A warp about the centre of a square. All values are scalars, static or traced.

    Attributes:
      mirrored: whether left and right are exchanged, after all else.
      angle: of the rotation, in radians.
      scale: of the picture in its frame.
      aspect: the picture is scaled by this factor across and by its inverse down.
      shift: across and down, as fractions of the side.
      displacements: [_WAVES, _WAVES, 2] float32, displacements of grid points, across and down, as fractions of the
        side; None: no elastic warp.
    """

    mirrored: jax.Array | bool = False
    angle: jax.Array | float = 0.0
    scale: jax.Array | float = 1.0
    aspect: jax.Array | float = 1.0
    shift: tuple[jax.Array | float, jax.Array | float] = (0.0, 0.0)
    displacements: jax.Array | None = None

    def __call__(self, image: jax.Array) -> jax.Array:
        """Warps an image [S, S] uint8: [S, S] float32 in [0, 1], by bilinear interpolation with black outside."""
        size = image.shape[0]
        places = (jnp.arange(size, dtype=jnp.float32) + 0.5 - size / 2) / size  # fractions of the side, from the centre
        sign = jnp.where(self.mirrored, -1.0, 1.0)
        across, down = sign * places - self.shift[0], places[:, None] - self.shift[1]
        cosine, sine = jnp.cos(self.angle), jnp.sin(self.angle)
        x = (cosine * across + sine * down) / (self.scale * self.aspect)
        y = (cosine * down - sine * across) * (self.aspect / self.scale)
        if self.displacements is not None:
            smooth = make_resampling(_WAVES, size, length=size, kernel=2)
            x += filter_by(smooth, self.displacements[..., 0])
            y += filter_by(smooth, self.displacements[..., 1])
        middle = (size - 1) / 2
        return interpolate(image, size * x + middle, size * y + middle)


def draw_warp(key: jax.Array, settings: Augmentation) -> Warp | None:
    """Draws the warp of one view; None if no geometric operation is on.

    Args:
      key: of the view; each operation folds a number of its own into it.
      settings: strength of each operation.
    """
    used = ("flip", "rotation", "zoom", "shift", "border", "crop", "aspect", "elastic")
    if not any(getattr(settings, name) for name in used):
        return None
    flip, turn, zoom, across, down, border = _draw_symmetric(jax.random.fold_in(key, 0), 6)
    width = settings.border * border
    # A positive width is a border on every side, a negative one is cropped.
    framed = jnp.where(width > 0, 1 - 2 * width, 1 / (1 + 2 * jnp.minimum(width, 0)))
    warp = Warp(
        mirrored=flip < 0 if settings.flip else False,
        angle=2 * math.pi * settings.rotation * turn,
        scale=(1 + settings.zoom * zoom) * framed,
        shift=(settings.shift * across, settings.shift * down),
    )
    if settings.crop:
        cut, left, top = _draw_symmetric(jax.random.fold_in(key, 1), 3)
        cut = settings.crop * (cut + 1) / 2
        enlarged = 1 / (1 - cut)
        # From the centre of what remains to that of the image.
        moved = cut / 2 * enlarged
        shift = warp.shift[0] - left * moved, warp.shift[1] - top * moved
        warp = dataclasses.replace(warp, scale=warp.scale * enlarged, shift=shift)
    if settings.aspect:
        (wide,) = _draw_symmetric(jax.random.fold_in(key, 2), 1)
        # The ratio of width to height is the square of the factor.
        warp = dataclasses.replace(warp, aspect=(1 + settings.aspect) ** (wide / 2))
    if settings.elastic:
        own = jax.random.fold_in(key, 3)
        largest = settings.elastic * jax.random.uniform(jax.random.fold_in(own, 0), (), jnp.float32)
        grid = jax.random.uniform(jax.random.fold_in(own, 1), (_WAVES, _WAVES, 2), jnp.float32, -1, 1)
        warp = dataclasses.replace(warp, displacements=largest * grid)
    return warp


def interpolate(image: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Interpolates an image bilinearly, with black outside: [S, S] float32 in [0, 1].

    The four bytes around a position are read as one number: reading costs more than computing on all platforms.

    Args:
      image: [S, S] uint8.
      x: positions across, in pixels from the centre of the leftmost one, [S, S] float32.
      y: positions down, in the same way.
    """
    size = image.shape[0]
    around = jnp.pad(image, ((1, 2), (1, 2))).astype(jnp.uint32)
    upper, lower = around[:-1], around[1:]
    packed = upper[:, :-1] | upper[:, 1:] << 8 | lower[:, :-1] << 16 | lower[:, 1:] << 24  # [S + 2, S + 2]
    x, y = jnp.clip(x, -1, size), jnp.clip(y, -1, size)
    left, top = jnp.floor(x), jnp.floor(y)
    place = ((top + 1) * (size + 2) + left + 1).astype(jnp.int32)
    # The barriers keep what is read apart from what is computed, which a CPU can do for many pixels at once.
    place, packed = jax.lax.optimization_barrier((place, packed.ravel()))
    four = jax.lax.optimization_barrier(packed.at[place].get(mode="promise_in_bounds"))
    upper_left, upper_right, lower_left, lower_right = (
        (four >> shift & 255).astype(jnp.float32) for shift in (0, 8, 16, 24)
    )
    x, y = x - left, y - top
    upper = upper_left + x * (upper_right - upper_left)
    lower = lower_left + x * (lower_right - lower_left)
    return (upper + y * (lower - upper)) / 255


def _draw_symmetric(key: jax.Array, count: int) -> tuple[jax.Array, ...]:
    """Draws so many numbers in [-1, 1), each [] float32."""
    return tuple(jax.random.uniform(key, (count,), jnp.float32, -1, 1))

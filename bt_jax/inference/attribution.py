"""Why a model says what it says: maps of where in an image it looks.

Three ways, each [S, S] in [0, 1] for every image, 1 where the class gains most:

- `gradcam` (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391): the maps of the last segment before the head,
  weighted by the mean gradients of the class's logit. Coarse: 8x8 values for an EfficientNet at 240 pixels.
- `layercam` (Jiang et al. 2021, doi:10.1109/TIP.2021.3089943): every value weighted by its own positive gradient, in
  the last segment with finer maps, times the coarse map, which keeps what is far from any evidence dark.
- `integrated_gradients` (Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365): the gradients of the pixels, from
  black to the image. By pixel, and the values before smoothing add up to what the image changes in the logit; but
  noisy in deep networks.

A network without maps (a dense one on the pixels) has no Grad-CAM; it is explained by integrated gradients whatever is
asked for, and `Explanation.method` says so. Of an ensemble the members' maps are averaged.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.inference.forward import compute_outputs
from bt_jax.inference.trained_model import TrainedModel
from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree
from bt_jax.models.segments import Grid

METHODS = ("gradcam", "layercam", "integrated_gradients")
STEPS = 24  # from black to the image; the sum is then off by some per cent
# Integrated gradients are shown smoothed by this much, as a fraction of the side, or they look like noise.
SMOOTHING = 1 / 80

_Heat = Callable[..., tuple[jax.Array, ...]]
_Array = TypeVar("_Array", jax.Array, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Where a model looks for a class.

    Attributes:
      heat: [N, S, S] float32 in [0, 1]; the largest value of an image is 1, or 0 where nothing speaks for the class.
      classes: [N] integers, the classes explained.
      method: the one that was used.
    """

    heat: np.ndarray
    classes: np.ndarray
    method: str


def explain(
    model: TrainedModel,
    images: np.ndarray,
    *,
    classes: Sequence[int] | np.ndarray | None = None,
    method: str = "gradcam",
    batch_size: int = 8,
) -> Explanation:
    """Maps of preprocessed images.

    Args:
      model: with networks.
      images: [N, S, S] uint8, preprocessed.
      classes: [N], whose logits are explained; None takes the predicted ones.
      method: one of `METHODS`.
      batch_size: images in a step.

    Raises:
      UsageError: a model that holds a program and no network, or a method that is not there.
    """
    if method not in METHODS:
        raise UsageError(f"there is no explanation {method!r}: use one of {', '.join(METHODS)}")
    if not model.networks:
        raise UsageError(
            "a StableHLO file holds no network to look into: explanations need the workdir or a safetensors file"
        )
    size = model.preprocessing.size
    if not all(find_cuts(member.network) for member in model.networks):
        method = "integrated_gradients"
    if not len(images):
        return Explanation(np.zeros((0, size, size), np.float32), np.zeros(0, np.int64), method)
    chosen = model.predict_probabilities(images).argmax(axis=1) if classes is None else np.asarray(classes, np.int64)
    if chosen.shape != (len(images),) or not ((chosen >= 0) & (chosen < len(model.class_names))).all():
        raise ValueError(f"classes {chosen} must be {len(images)} numbers below {len(model.class_names)}")
    heat = np.zeros((len(images), size, size), np.float32)
    for member in model.networks:
        program = make_heat_function(member.network, member.normalisation, method)
        heat += _compute_heat(program, member.params, member.batch_stats, images, chosen, batch_size)
    return Explanation(scale_to_one(heat), chosen, method)


@functools.lru_cache(maxsize=16)
def make_heat_function(network: Network, normalisation: Normalisation, method: str) -> _Heat:
    """The jitted function (params, batch_stats, images [B, S, S] float32 in [0, 1], classes [B]) -> (heat [B, S, S],).

    The heat of an image has 1 as its largest value, or is 0 everywhere.

    Args:
      network: to explain.
      normalisation: of its input.
      method: one of `METHODS`; the first two need maps.
    """
    if method == "integrated_gradients":

        def compute_heat(params: Tree, batch_stats: Tree, images: jax.Array, classes: jax.Array) -> jax.Array:
            found = integrate_gradients(network, normalisation, params, batch_stats, images, classes)
            return _blur(jnp.maximum(found, 0), network.size * SMOOTHING)

    else:
        used = find_cuts(network)[-1 if method == "gradcam" else 0 :]
        grids = _map_segments_to_grids(network)

        def compute_heat(params: Tree, batch_stats: Tree, images: jax.Array, classes: jax.Array) -> jax.Array:
            x = normalisation(images)
            maps, gradients = _compute_maps_and_gradients(network, params, batch_stats, x, classes, cuts=used)
            coarse = _upsample(compute_grad_cam(maps[-1], gradients[-1]), grids[used[-1]], network.size)
            if method == "gradcam":
                return coarse
            return _upsample(compute_layer_cam(maps[0], gradients[0]), grids[used[0]], network.size) * coarse

    def compute(params: Tree, batch_stats: Tree, images: jax.Array, classes: jax.Array) -> tuple[jax.Array]:
        return (scale_to_one(compute_heat(params, batch_stats, images, classes)),)

    return jax.jit(compute)


def compute_grad_cam(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Equations 1 and 2 of the paper: [B, h, w, C], the same of the logit's gradients -> [B, h, w]."""
    weights = gradients.mean((1, 2), keepdims=True)  # [B, 1, 1, C]
    return jax.nn.relu((maps * weights).sum(-1))


def compute_layer_cam(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Equations 6 and 7 of the paper: [B, h, w, C], the same of the logit's gradients -> [B, h, w]."""
    return jax.nn.relu((maps * jax.nn.relu(gradients)).sum(-1))


def integrate_gradients(
    network: Network,
    normalisation: Normalisation,
    params: Tree,
    batch_stats: Tree,
    images: jax.Array,
    classes: jax.Array,
    *,
    steps: int = STEPS,
) -> jax.Array:
    """Integrated gradients from black, by the midpoint rule.

    Args:
      network: and its `normalisation`, `params` and `batch_stats`.
      normalisation: see there.
      params: see there.
      batch_stats: see there.
      images: [B, S, S] float32 in [0, 1].
      classes: [B].
      steps: the gradients are taken at.

    Returns:
      [B, S, S], with either sign; the sum of an image's tends to its logit minus that of a black image.
    """

    def logit(x: jax.Array) -> jax.Array:
        logits, _ = network.apply(params, batch_stats, normalisation(x))
        return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()

    def add(step: jax.Array, total: jax.Array) -> jax.Array:
        return total + jax.grad(logit)(images * ((step + 0.5) / steps))

    return images * jax.lax.fori_loop(0, steps, add, jnp.zeros_like(images)) / steps


def find_cuts(network: Network) -> tuple[str, ...]:
    """The segments that a network is cut before: for the finer map, if there is one, and for the coarse one.

    The coarse map is the last there is, that before the head. The finer one is the last that has more values. A network
    without maps has no cuts.
    """
    sides = {
        name: grid.side for name, grid in list(_map_segments_to_grids(network).items())[1:]
    }  # the first is the image itself
    if not sides:
        return ()
    coarse = list(sides)[-1]
    finer = [name for name, side in sides.items() if side > sides[coarse]]
    return (*finer[-1:], coarse)


def _map_segments_to_grids(network: Network) -> dict[str, Grid]:
    """By segment, where the maps that go into it lie."""
    return {name: grid for name, grid in zip(network.segment_names, network.grids, strict=True) if grid}


def _compute_maps_and_gradients(
    network: Network, params: Tree, batch_stats: Tree, x: jax.Array, classes: jax.Array, *, cuts: Sequence[str]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """What goes into the segments `cuts` [B, h, w, C], and the gradients of the classes' logits by it."""
    maps, start = [], None
    for cut in cuts:
        x, _ = network.apply(params, batch_stats, x, start=start, stop=cut)
        maps.append(x)
        start = cut

    def logit(added: list[jax.Array]) -> jax.Array:
        x = maps[0] + added[0]
        for here, after, more in zip(cuts, cuts[1:], added[1:], strict=False):
            x = network.apply(params, batch_stats, x, start=here, stop=after)[0] + more
        logits, _ = network.apply(params, batch_stats, x, start=cuts[-1])
        return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()

    return maps, jax.grad(logit)([jnp.zeros_like(one) for one in maps])


def _upsample(heat: jax.Array, grid: Grid, size: int) -> jax.Array:
    """[B, h, h] on a grid -> [B, size, size], bilinear between the places of the values, and constant beyond them."""
    places = (np.arange(size) + 0.5 - grid.first) / grid.step
    distance = abs(np.clip(places, 0, grid.side - 1)[:, None] - np.arange(grid.side))  # [size, h]
    weights = jnp.asarray(np.maximum(1 - distance, 0), jnp.float32)
    return jnp.einsum("ih,bhw,jw->bij", weights, heat, weights)


def _blur(heat: jax.Array, deviation: float) -> jax.Array:
    """[B, S, S] convolved with a Gaussian of that standard deviation in pixels."""
    offsets = jnp.arange(heat.shape[1])
    weights = jnp.exp(-0.5 * ((offsets[:, None] - offsets[None, :]) / deviation) ** 2)
    weights /= weights.sum(1, keepdims=True)
    return jnp.einsum("ih,bhw,jw->bij", weights, heat, weights)


def scale_to_one(heat: _Array) -> _Array:
    """Divides [..., H, W] by each map's largest value; a map that is 0 everywhere stays so."""
    largest = heat.max(axis=(-2, -1), keepdims=True)
    return heat / (largest + (largest <= 0))


def _compute_heat(
    program: _Heat, params: Tree, batch_stats: Tree, images: np.ndarray, classes: np.ndarray, batch_size: int
) -> np.ndarray:
    """The heat of all images, [N, S, S] float32; the last batch is filled up."""
    remaining = iter(range(0, len(images), batch_size))

    def forward(part: np.ndarray) -> tuple[jax.Array, ...]:
        start = next(remaining)
        of_part = np.zeros(batch_size, np.int32)
        of_part[: len(classes[start : start + batch_size])] = classes[start : start + batch_size]
        return program(params, batch_stats, part, of_part)

    return compute_outputs(forward, images=images, batch_size=batch_size)[0]

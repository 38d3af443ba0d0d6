"""Attribution: heat maps of the image regions that a class's logit depends on.

Each of the three methods returns a map [S, S] in [0, 1] per image; 1 marks the strongest evidence for the class:

- `gradcam` (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391): weights the feature maps before the head by the
  mean gradients of the class's logit. Coarse: 8x8 values for an EfficientNet at 240 pixels.
- `layercam` (Jiang et al. 2021, doi:10.1109/TIP.2021.3089943): weights each value of the last finer feature maps by its
  own positive gradient, then multiplies by the Grad-CAM map to suppress regions far from any evidence.
- `integrated_gradients` (Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365): integrates the gradients of the
  pixels from a black image to the image. Resolution of one pixel; before smoothing, the values sum to the difference
  in the logit. Noisy in deep networks.

A network without feature maps, such as a dense network on the pixels, has no Grad-CAM. It is always explained by
integrated gradients, and `Explanation.method` says so. The map of an ensemble is the mean of its members' maps.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.inference.forward import compute_outputs
from bt_jax.inference.heat_map import METHODS, make_upsampling, scale_to_one
from bt_jax.inference.trained_model import TrainedModel
from bt_jax.inference.trained_network import TrainedNetwork
from bt_jax.models.normalise import Normalisation, to_float
from bt_jax.models.registry import Network, Tree
from bt_jax.models.segments import Grid

STEPS = 24  # of the integral; its sum is then off by a few per cent
# Standard deviation, as a fraction of the side. Without smoothing, integrated gradients look like noise.
SMOOTHING = 1 / 80

_Heat = Callable[..., tuple[jax.Array, ...]]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Heat maps of a model for a batch of images.

    Attributes:
      heat: [N, S, S] float32 in [0, 1]; each map's maximum is 1, or 0 without any evidence for the class.
      classes: [N] integers, the explained classes.
      method: the method used.
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
    """Computes heat maps of preprocessed images.

    Args:
      model: a model with networks.
      images: [N, S, S] uint8, preprocessed.
      classes: [N], the classes to explain; None explains the predicted classes.
      method: one of `METHODS`.
      batch_size: images per step.

    Raises:
      UsageError: the model is an exported program without networks, or the method is unknown.
    """
    if method not in METHODS:
        raise UsageError(f"unknown attribution method {method!r}: use one of {', '.join(METHODS)}")
    if not model.networks:
        raise UsageError("heat maps by gradients need the networks: use the workdir or a safetensors file of the model")
    size = model.preprocessing.size
    method = choose_method([member.network for member in model.networks], method)
    if not len(images):
        return Explanation(np.zeros((0, size, size), np.float32), np.zeros(0, np.int64), method)
    chosen = model.predict_probabilities(images).argmax(axis=1) if classes is None else np.asarray(classes, np.int64)
    if chosen.shape != (len(images),) or not ((chosen >= 0) & (chosen < len(model.class_names))).all():
        raise ValueError(f"classes must be {len(images)} integers from 0 to {len(model.class_names) - 1}, got {chosen}")
    heat = np.zeros((len(images), size, size), np.float32)
    for member in model.networks:
        heat += compute_network_heat(member, images, classes=chosen, method=method, batch_size=batch_size)
    return Explanation(scale_to_one(heat), chosen, method)


def choose_method(networks: Sequence[Network], method: str) -> str:
    """Returns the method itself, or integrated gradients if one of the networks has no feature maps."""
    return method if all(find_cuts(network) for network in networks) else "integrated_gradients"


@functools.lru_cache(maxsize=16)
def make_heat_function(network: Network, normalisation: Normalisation, method: str) -> _Heat:
    """Makes the jitted function (params, batch_stats, images, classes) -> (heat,).

    Images are [B, S, S], uint8 or float32 in [0, 1], classes [B] and heat [B, S, S]. Each heat map has a maximum
    of 1, or is 0 everywhere.

    Args:
      network: the network to explain.
      normalisation: of the network's input.
      method: one of `METHODS`; `gradcam` and `layercam` need a network with feature maps.
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
        return (scale_to_one(compute_heat(params, batch_stats, to_float(images), classes)),)

    return jax.jit(compute)


def compute_grad_cam(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Computes Grad-CAM (equations 1 and 2 of the paper): maps and the logit's gradients [B, h, w, C] -> [B, h, w]."""
    weights = gradients.mean((1, 2), keepdims=True)  # [B, 1, 1, C]
    return jax.nn.relu((maps * weights).sum(-1))


def compute_layer_cam(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Computes LayerCAM (equations 6 and 7 of the paper): maps and gradients [B, h, w, C] -> [B, h, w]."""
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
    """Computes integrated gradients from a black image by the midpoint rule.

    Args:
      network: the network to explain.
      normalisation: of the network's input.
      params: of the network.
      batch_stats: of the network.
      images: [B, S, S] float32 in [0, 1].
      classes: [B].
      steps: number of points at which the gradients are evaluated.

    Returns:
      [B, S, S], positive or negative. With more steps, the sum over an image tends to the difference between its logit
      and that of a black image.
    """

    def compute_logit(x: jax.Array) -> jax.Array:
        logits, _ = network.apply(params, batch_stats, normalisation(x))
        return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()

    def add(step: jax.Array, total: jax.Array) -> jax.Array:
        return total + jax.grad(compute_logit)(images * ((step + 0.5) / steps))

    return images * jax.lax.fori_loop(0, steps, add, jnp.zeros_like(images)) / steps


def find_cuts(network: Network) -> tuple[str, ...]:
    """Finds the segments whose input maps are explained: a finer map, if there is one, and the coarse map.

    The coarse map is the input of the head. The finer map is the last one with a higher resolution. The result is empty
    for a network without feature maps.
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
    """Maps the name of each segment that takes feature maps to the grid of these maps."""
    return {name: grid for name, grid in zip(network.segment_names, network.grids, strict=True) if grid}


def _compute_maps_and_gradients(
    network: Network, params: Tree, batch_stats: Tree, x: jax.Array, classes: jax.Array, *, cuts: Sequence[str]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Computes the inputs of the segments `cuts`, [B, h, w, C] each, and the logits' gradients with respect to them."""
    maps, start = [], None
    for cut in cuts:
        x, _ = network.apply(params, batch_stats, x, start=start, stop=cut)
        maps.append(x)
        start = cut

    def compute_logit(added: list[jax.Array]) -> jax.Array:
        x = maps[0] + added[0]
        for here, after, more in zip(cuts, cuts[1:], added[1:], strict=False):
            x = network.apply(params, batch_stats, x, start=here, stop=after)[0] + more
        logits, _ = network.apply(params, batch_stats, x, start=cuts[-1])
        return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()

    return maps, jax.grad(compute_logit)([jnp.zeros_like(one) for one in maps])


def _upsample(heat: jax.Array, grid: Grid, size: int) -> jax.Array:
    """Upsamples [B, h, h] to [B, size, size], bilinear between the grid's points and constant beyond them."""
    weights = jnp.asarray(make_upsampling(first=grid.first, step=grid.step, side=grid.side, size=size))
    return jnp.einsum("ih,bhw,jw->bij", weights, heat, weights)


def _blur(heat: jax.Array, deviation: float) -> jax.Array:
    """Convolves [B, S, S] with a Gaussian of that standard deviation in pixels."""
    offsets = jnp.arange(heat.shape[1])
    weights = jnp.exp(-0.5 * ((offsets[:, None] - offsets[None, :]) / deviation) ** 2)
    weights /= weights.sum(1, keepdims=True)
    return jnp.einsum("ih,bhw,jw->bij", weights, heat, weights)


def compute_network_heat(
    member: TrainedNetwork, images: np.ndarray, *, classes: np.ndarray, method: str, batch_size: int = 8
) -> np.ndarray:
    """Computes the heat maps of one network, [N, S, S] float32.

    Args:
      member: the network with its weights.
      images: [N, S, S] uint8, preprocessed.
      classes: [N], the classes to explain.
      method: one that `choose_method` returns for this network.
      batch_size: images per step; the last batch is padded.
    """
    program = make_heat_function(member.network, member.normalisation, method)
    remaining = iter(range(0, len(images), batch_size))

    def forward(part: np.ndarray) -> tuple[jax.Array, ...]:
        start = next(remaining)
        part_classes = np.zeros(batch_size, np.int32)
        part_classes[: len(classes[start : start + batch_size])] = classes[start : start + batch_size]
        return program(member.params, member.batch_stats, part, part_classes)

    return compute_outputs(forward, images=images, batch_size=batch_size)[0]

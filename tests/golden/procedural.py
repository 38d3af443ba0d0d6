"""Weights and images that are made from names and formulas, so that only the outputs of reference models are stored."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

# Chosen so that the logits of these models are of order one and differ between images.
GAINS = {"efficientnet_b1": 1.8, "efficientnet_nano": 2.1, "vgg16": 1.5}


def weights(trees: Mapping[str, Any], *, gain: float, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """The same nested dictionary with values drawn from a generator seeded by each array's full name.

    Args:
      trees: parameters, or running statistics.
      gain: factor on the kernels of convolutions.
      prefix: of the names, for the recursion.
    """
    return {
        name: weights(value, gain=gain, prefix=(*prefix, name))
        if isinstance(value, Mapping)
        else _array((*prefix, name), value.shape, gain)
        for name, value in trees.items()
    }


def _array(name: tuple[str, ...], shape: tuple[int, ...], gain: float) -> np.ndarray:
    noise = np.random.default_rng(zlib.crc32(".".join(name).encode())).standard_normal(shape)
    if name[-1] == "kernel":
        fan_in = np.prod(shape[:2] if "depthwise" in name else shape[:-1])
        values = noise * (1.0 if name[0] == "head" or "squeeze_excite" in name else gain) / np.sqrt(fan_in)
    elif name[-1] == "variance":
        values = np.exp(0.3 * noise)
    elif name[-1] == "scale":
        values = (1 + 0.2 * noise) * (0.5 if "project_norm" in name else 1)  # damps the residual branches
    else:  # biases and means
        values = 0.2 * noise
    return values.astype(np.float32)


def images(count: int, size: int) -> np.ndarray:
    """Waves of several directions and colours: [count, size, size, 3] float32, values 0 to 255."""
    row, column = np.mgrid[:size, :size] / size
    planes = [
        [
            np.sin((2 + 3 * i + channel) * np.pi * row + i)
            * np.cos((5 - channel + 2 * i) * np.pi * column**2 + channel)
            for channel in range(3)
        ]
        for i in range(count)
    ]
    return np.float32(np.moveaxis(np.array(planes), 1, -1) * 127.5 + 127.5)

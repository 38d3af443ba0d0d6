"""Layers shared by the model families. Images are [B, H, W, C]; the computation runs in the dtype of the input.

`trained` selects the mode of a layer: False is inference (running statistics, no dropout), True is training. A traced
boolean selects at run time, so stages that differ only in what they freeze share one compiled program.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bt_jax.ops import batch_norm, depthwise
from bt_jax.ops.activation import shift_activation
from bt_jax.ops.batch_norm import Activation, Norm
from bt_jax.ops.convolution import convolution
from bt_jax.ops.pointwise import gated_pointwise, pointwise

Trained = bool | jax.Array


def identity(x: jax.Array) -> jax.Array:
    """Returns its input: no activation."""
    return x


class BatchStat(nnx.Variable):
    """A running statistic of a BatchNorm layer: state that is not trained."""


def compute_same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Returns the zeros before and after for TensorFlow's 'SAME' padding, with an extra one at the end."""
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


def compute_symmetric_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Returns the zeros before and after for PyTorch's `padding=(kernel_size - 1) // 2`."""
    del size, stride
    return (kernel_size - 1) // 2, (kernel_size - 1) // 2


MIXED_SHARE = 0.3  # parameter of the Beta distribution of the shares in `mix_style`; the paper has 0.1 to 0.3
_SMALL_VARIANCE = 1e-6  # keeps the standard deviation of a constant channel away from 0

PADDINGS = {"same": compute_same_padding, "symmetric": compute_symmetric_padding}


def draw_truncated_normal(generator: np.random.Generator, shape: tuple[int, ...], *, fan: int) -> jax.Array:
    """Draws from a normal of variance 2 / fan, truncated at two standard deviations (arXiv:1502.01852).

    It suits layers before a ReLU. NumPy draws, since JAX would compile a program for each of a hundred shapes, which
    takes seconds at every start.
    """
    values = generator.standard_normal(shape)
    outside = np.abs(values) > 2
    while outside.any():
        values[outside] = generator.standard_normal(int(outside.sum()))
        outside = np.abs(values) > 2
    # 0.8796 is the standard deviation of a standard normal truncated at two.
    return _place(values * np.sqrt(2 / fan) / 0.87962566)


def draw_glorot_uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> jax.Array:
    """Draws from a uniform of variance 2 / (fan in + fan out) (Glorot and Bengio 2010), as Keras does by default.

    Args:
      generator: the source of random numbers.
      shape: [in, out].
    """
    limit = math.sqrt(6 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])))
    return _place(generator.uniform(-limit, limit, shape))


def _place(values: np.ndarray) -> jax.Array:
    """Returns values as float32 on the device. `jnp.asarray` would compile a program for each shape."""
    return jax.device_put(values.astype(np.float32))


class Convolution(nnx.Module):
    """A convolution, by default without bias. A 1x1 convolution at stride 1 is a matrix product.

    It is initialised by `draw_truncated_normal` with the fan-out, as in EfficientNet's reference, or with the fan-in if
    `keep_variance`, which deep networks without BatchNorm need.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        padding: str = "same",
        use_bias: bool = False,
        keep_variance: bool = False,
        generator: np.random.Generator,
    ):
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        shape = (kernel_size, kernel_size, channels_in, channels_out)
        fan = kernel_size * kernel_size * (channels_in if keep_variance else channels_out)
        self.kernel = nnx.Param(draw_truncated_normal(generator, shape, fan=fan))
        self.bias = nnx.Param(_place(np.zeros(channels_out))) if use_bias else None

    @property
    def is_pointwise(self) -> bool:
        """Whether this is a matrix product at every pixel."""
        return self.kernel_size == 1 and self.stride == 1

    @property
    def is_widening(self) -> bool:
        """Whether the output has more channels than the input."""
        return self.kernel.shape[-1] > self.kernel.shape[-2]

    def __call__(
        self, x: jax.Array, *, factor: jax.Array | None = None, gate: jax.Array | None = None
    ) -> jax.Array:  # [B, H, W, C] -> [B, H', W', D]
        """Convolves.

        Args:
          x: [B, H, W, C].
          factor: [D] float32, multiplied into the kernel to scale the output.
          gate: [B, C], multiplies the input of a pointwise convolution.
        """
        kernel = self.kernel[...] if factor is None else self.kernel[...] * factor
        kernel = kernel.astype(x.dtype)
        if self.is_pointwise:
            x = pointwise(x, kernel[0, 0]) if gate is None else gated_pointwise(x, gate, kernel[0, 0])
        elif gate is not None:
            raise ValueError("only a pointwise convolution has a gated form")
        else:
            pad = PADDINGS[self.padding]
            rows, columns = (pad(size, self.kernel_size, self.stride) for size in x.shape[1:3])
            x = convolution(x, kernel, stride=self.stride, padding=(rows, columns))
        return x if self.bias is None else x + self.bias[...].astype(x.dtype)


class DepthwiseConvolution(nnx.Module):
    """One filter per channel, without bias."""

    def __init__(
        self, channels: int, *, kernel_size: int, stride: int, padding: str = "same", generator: np.random.Generator
    ):
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        shape = (kernel_size, kernel_size, channels)
        self.kernel = nnx.Param(draw_truncated_normal(generator, shape, fan=kernel_size * kernel_size))

    def __call__(self, x: jax.Array, *, factor: jax.Array | None = None) -> jax.Array:  # [B, H, W, C] -> [B, H', W', C]
        """Convolves; `factor` [C] float32 is multiplied into the kernel to scale the output."""
        pad = PADDINGS[self.padding]
        rows, columns = (pad(size, self.kernel_size, self.stride) for size in x.shape[1:3])
        kernel = self.kernel[...] if factor is None else self.kernel[...] * factor
        return depthwise.depthwise_convolution(x, kernel.astype(x.dtype), stride=self.stride, padding=(rows, columns))


class BatchNorm(nnx.Module):
    """Batch normalisation (arXiv:1502.03167) over all axes but the last, computed in float32.

    Running statistics move towards the batch's mean and biased variance. `momentum` is the weight of the old value, as
    in Keras; PyTorch's is one minus it. Under a data-parallel `jit` the batch is the global one. Without
    `batch_statistics`, training too uses the running statistics and does not change them; scale and bias are trained.
    """

    def __init__(self, channels: int, *, epsilon: float, momentum: float, batch_statistics: bool = True):
        self.epsilon, self.momentum, self.batch_statistics = epsilon, momentum, batch_statistics
        self.scale = nnx.Param(_place(np.ones(channels)))
        self.bias = nnx.Param(_place(np.zeros(channels)))
        self.mean = BatchStat(_place(np.zeros(channels)))
        self.variance = BatchStat(_place(np.ones(channels)))

    def __call__(
        self, x: jax.Array, *, trained: Trained, activation: Activation = identity
    ) -> jax.Array:  # [..., C] -> [..., C]
        """Normalises by the batch if trained, else by the running statistics, which then do not change."""
        if self.is_fixed(trained):
            factor, shift = self.compute_affine()
            return activation((x * factor + shift).astype(x.dtype))
        y, *statistics = batch_norm.norm_activation(
            x, self.get_arrays(trained), epsilon=self.epsilon, activation=activation
        )
        self.update(*statistics, trained=trained)
        return y

    def is_fixed(self, trained: Trained) -> bool:
        """Returns whether tracing shows that the running statistics are used, so that the layer can be folded."""
        return trained is False or not self.batch_statistics

    def get_arrays(self, trained: Trained) -> Norm:
        """Returns the parameters and running statistics, as `ops.batch_norm` takes them."""
        return Norm(self.scale[...], self.bias[...], self.mean[...], self.variance[...], jnp.float32(trained))

    def compute_affine(self) -> tuple[jax.Array, jax.Array]:
        """Returns factor and shift of inference: `x * factor + shift`."""
        factor = self.scale[...] * jax.lax.rsqrt(self.variance[...] + self.epsilon)
        return factor, self.bias[...] - self.mean[...] * factor

    def update(self, batch_mean: jax.Array, batch_variance: jax.Array, *, trained: Trained) -> None:
        """Moves the running statistics towards those of the batch if trained."""
        for statistic, new in ((self.mean, batch_mean), (self.variance, batch_variance)):
            old = statistic[...]
            moved = self.momentum * old + (1 - self.momentum) * jax.lax.stop_gradient(new)
            statistic[...] = choose(trained, moved, old)


def convolve_and_normalise(
    convolve: Callable[..., jax.Array],
    norm: BatchNorm,
    x: jax.Array,
    *,
    trained: Trained,
    activation: Activation = identity,
) -> jax.Array:  # [B, H, W, C] -> [B, H', W', D]
    """Computes `activation(norm(convolve(x)))` in few passes over memory.

    BatchNorm on running statistics is folded: its factor goes into the kernel. Its gradients then follow from those of
    the kernel without another pass over the image.

    Args:
      convolve: a layer without bias, or a partial call of one; takes the keyword `factor` as `Convolution` does.
      norm: of D channels.
      x: [B, H, W, C].
      trained: as of every layer, see the module.
      activation: elementwise.
    """
    if norm.is_fixed(trained):
        factor, shift = norm.compute_affine()
        x = convolve(x, factor=factor)
        if activation is identity:
            return (x + shift).astype(x.dtype)
        return shift_activation(x, shift, activation=activation)
    if not isinstance(convolve, Convolution) or not convolve.is_pointwise or not convolve.is_widening:
        return norm(convolve(x), trained=trained, activation=activation)
    kernel = convolve.kernel[...].astype(x.dtype)[0, 0]
    y, *statistics = batch_norm.pointwise_norm_activation(
        x, kernel, norm.get_arrays(trained), epsilon=norm.epsilon, activation=activation
    )
    norm.update(*statistics, trained=trained)
    return y


def choose(condition: Trained, yes: jax.Array, no: jax.Array) -> jax.Array:
    """Selects `yes` or `no`, during tracing if the condition is a Python boolean."""
    if isinstance(condition, bool):
        return yes if condition else no
    return jnp.where(condition, yes, no)


class Dense(nnx.Module):
    """A matrix product, by default with bias; initialised by `draw_glorot_uniform`."""

    def __init__(self, features_in: int, features_out: int, *, use_bias: bool = True, generator: np.random.Generator):
        self.kernel = nnx.Param(draw_glorot_uniform(generator, (features_in, features_out)))
        self.bias = nnx.Param(_place(np.zeros(features_out))) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:  # [..., C] -> [..., D]
        """Multiplies by the kernel and adds the bias."""
        x = x @ self.kernel[...].astype(x.dtype)
        return x if self.bias is None else x + self.bias[...].astype(x.dtype)


def dropout(
    x: jax.Array, *, rate: float, trained: Trained, rngs: nnx.Rngs | None, whole_records: bool = False
) -> jax.Array:
    """Zeroes values with probability `rate` and scales up the rest.

    With `whole_records` it zeroes all values of a record together. On a residual branch that is stochastic depth
    (arXiv:1603.09382).
    """
    if rate == 0 or trained is False:
        return x
    if rngs is None:
        raise ValueError("dropout in training needs rngs=nnx.Rngs(dropout=key)")
    shape = (x.shape[0], *(1 for _ in x.shape[1:])) if whole_records else x.shape
    keep = jax.random.bernoulli(rngs.dropout(), 1 - rate, shape)
    factor = keep.astype(x.dtype) / (1 - rate)
    return x * choose(trained, factor, jnp.ones_like(factor))


def draw_style_shares(key: jax.Array, rows: int) -> jax.Array:
    """Draws how much of its partner's style each image takes in `mix_style`, [rows] float32; every second one is 0."""
    share = jax.random.beta(jax.random.fold_in(key, 0), MIXED_SHARE, MIXED_SHARE, (rows,), jnp.float32)
    return jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, (rows,)), share, 0)


def mix_style(x: jax.Array, share: jax.Array) -> jax.Array:
    """Gives images feature statistics between their own and those of another one (arXiv:2104.02008).

    The mean and the standard deviation of a channel over an image are largely those of its scanner, sequence and
    archive. The partner of image i is image B - 1 - i. No gradient flows through the statistics.

    Args:
      x: features [B, H, W, C]; B is a batch in random order.
      share: of the partner's statistics, [B] float32 from `draw_style_shares`.

    Returns:
      [B, H, W, C] in the dtype of x; the statistics are computed in float32.
    """
    values = x.astype(jnp.float32)
    mean, variance = values.mean((1, 2), keepdims=True), values.var((1, 2), keepdims=True)
    mean, deviation = jax.lax.stop_gradient((mean, jnp.sqrt(variance + _SMALL_VARIANCE)))
    share = share[:, None, None, None]
    new_mean, new_deviation = (part + share * (part[::-1] - part) for part in (mean, deviation))
    return ((values - mean) * (new_deviation / deviation) + new_mean).astype(x.dtype)


class Head(nnx.Module):
    """Global average pooling, blocks of Dense, BatchNorm, ReLU and Dropout, and a linear output.

    Without hidden blocks it is the classifier of EfficientNet's reference: pooling, dropout, one dense layer.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        hidden: tuple[int, ...],
        dropout_rate: float,
        epsilon: float,
        momentum: float,
        generator: np.random.Generator,
    ):
        self.dropout_rate, self.hidden = dropout_rate, hidden
        for i, (size_in, size_out) in enumerate(zip((channels, *hidden), hidden, strict=False), start=1):
            # The shift of the BatchNorm after it makes a bias redundant.
            setattr(self, f"dense_{i}", Dense(size_in, size_out, use_bias=False, generator=generator))
            setattr(self, f"norm_{i}", BatchNorm(size_out, epsilon=epsilon, momentum=momentum))
        self.output = Dense((channels, *hidden)[-1], classes, generator=generator)

    def __call__(
        self, x: jax.Array, *, trained: Trained, rngs: nnx.Rngs | None
    ) -> jax.Array:  # [B, H, W, C] -> [B, classes]
        """Returns the logits in float32."""
        x = x.mean((1, 2))
        for i in range(1, len(self.hidden) + 1):
            x = getattr(self, f"norm_{i}")(getattr(self, f"dense_{i}")(x), trained=trained)
            x = dropout(jax.nn.relu(x), rate=self.dropout_rate, trained=trained, rngs=rngs)
        if not self.hidden:
            x = dropout(x, rate=self.dropout_rate, trained=trained, rngs=rngs)
        return self.output(x).astype(jnp.float32)

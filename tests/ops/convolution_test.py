import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.ops import convolution


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "size"), [(3, 3), (1, 5), (8, 3)])
def test_equals_the_native_convolution(channels: int, size: int, stride: int) -> None:
    generator = np.random.default_rng(0)
    x, kernel = generator.normal(size=(2, 9, 8, channels)), generator.normal(size=(size, size, channels, 6))
    padding = ((0, 1), (2, 1))
    with jax.enable_x64(True):
        results = []
        for function in (convolution.convolution, convolution.convolve_natively):
            outputs, pull_back = jax.vjp(
                jax.jit(lambda x, kernel, f=function: f(x, kernel, stride=stride, padding=padding)),
                jnp.asarray(x),
                jnp.asarray(kernel),
            )
            results.append([outputs, *pull_back(jnp.sin(jnp.arange(outputs.size)).reshape(outputs.shape))])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max())


@pytest.mark.parametrize(("channels", "by_patches"), [(3, True), (8, False)])
def test_only_few_channels_on_a_cpu_go_by_patches(channels: int, by_patches: bool) -> None:
    def run(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolution.convolution(x, kernel, stride=1, padding=((1, 1), (1, 1)))

    x, kernel = jnp.ones((1, 4, 4, channels)), jnp.ones((3, 3, channels, 2))
    for platform, expected in (("cpu", by_patches), ("tpu", False)):
        text = jax.export.export(jax.jit(run), platforms=(platform,))(x, kernel).mlir_module()
        assert ("stablehlo.convolution" not in text) == expected

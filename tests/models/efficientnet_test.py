import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.models import efficientnet, registry
from bt_jax.models.registry import Network, Tree

Made = tuple[Network, Tree, Tree]
# Every program here runs once: compiling it well would take longer than running it.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def changed(before: Tree, after: Tree) -> set[str]:
    """The segments whose statistics differ; those without any are left out."""
    return {
        segment
        for segment in before
        if not jax.tree.all(jax.tree.map(np.array_equal, before[segment], after.get(segment, before[segment])))
    }


@pytest.mark.slow
def test_prefix_and_suffix_compose_at_every_boundary(nano: Made) -> None:
    network, *trees = nano
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)

    # In one program, where the compiler joins what is the same: a program for each boundary would take minutes.
    @quick_jit
    def run(*trees: Any) -> tuple[list[jax.Array], list[jax.Array]]:
        prefixes = [network.apply(*trees, x, stop=segment)[0] for segment in network.segment_names]
        starts = zip(network.segment_names, prefixes, strict=True)
        return prefixes, [network.apply(*trees, prefix, start=segment)[0] for segment, prefix in starts]

    whole = run_whole(network, trees, x)
    prefixes, suffixes = run(*trees)
    np.testing.assert_array_equal(prefixes[0], x)
    for segment, suffix in zip(network.segment_names, suffixes, strict=True):
        np.testing.assert_allclose(suffix, whole, rtol=1e-4, atol=1e-5, err_msg=segment)


@pytest.mark.slow
def test_single_segments_compose() -> None:
    network, *trees = registry.create("efficientnet_lite1", classes=10)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)

    @quick_jit
    def run(*trees: Any) -> jax.Array:
        outputs = x
        for start, stop in zip(network.segment_names, (*network.segment_names[1:], None), strict=True):
            outputs = network.apply(*trees, outputs, start=start, stop=stop)[0]
        return outputs

    np.testing.assert_allclose(run(*trees), run_whole(network, trees, x), rtol=1e-4, atol=1e-5)


def run_whole(network: Network, trees: Any, x: jax.Array) -> jax.Array:
    whole, _ = quick_jit(network.apply)(*trees, x)
    assert whole.shape == (2, 10)
    assert whole.dtype == jnp.float32
    assert np.std(whole[0] - whole[1]) > 0
    return whole


def test_segments(nano: Made) -> None:
    network, params, batch_stats = nano
    assert network.segment_names[:2] == ("stem", "block_01")
    assert network.segment_names[-2:] == ("top", "head")
    assert set(params) == set(network.segment_names)
    assert set(batch_stats) == set(network.segment_names) - {"head"}
    assert network.size == 96


@pytest.mark.slow
def test_each_segment_updates_its_own_statistics(nano: Made) -> None:
    network, params, batch_stats = nano
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    key = jax.random.key(0)

    def after(trained: Any) -> set[str]:
        _, statistics = quick_jit(lambda: network.apply(params, batch_stats, x, trained=trained, dropout_key=key))()
        assert jax.tree.structure(statistics) == jax.tree.structure(batch_stats)
        return changed(batch_stats, statistics)

    assert after(False) == set()
    assert after(True) == set(batch_stats)
    last = tuple(name in ("block_08", "top", "head") for name in network.segment_names)
    assert after(last) == {"block_08", "top"}
    assert after(tuple(jnp.asarray(flag) for flag in last)) == {"block_08", "top"}


@pytest.mark.slow
def test_traced_flags_equal_static_ones(nano: Made) -> None:
    network, params, batch_stats = nano
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)

    def run(flag: Any) -> Any:
        return network.apply(params, batch_stats, x, trained=flag, dropout_key=jax.random.key(3))

    traced = quick_jit(run)
    for trained in (True, False):
        static = quick_jit(run, static_argnums=0)(trained)
        pairs = zip(jax.tree.leaves(static), jax.tree.leaves(traced(jnp.asarray(trained))), strict=True)
        for one, other in pairs:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_half_precision_gives_float32_logits(nano: Made) -> None:
    network, params, batch_stats = nano
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    run = quick_jit(lambda x: network.apply(params, batch_stats, x))
    (exact, _), (logits, statistics) = run(x), run(x.astype(jnp.bfloat16))
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {jnp.dtype("float32")}
    assert np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()


def test_stochastic_depth_grows_with_depth() -> None:
    model = efficientnet.efficientnet("efficientnet_b1", classes=4)
    rates = [getattr(model, name).drop_rate for name in model.segment_names if name.startswith("block_")]
    np.testing.assert_allclose(rates, 0.2 * np.arange(23) / 23)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(32, 1.0, 32), (32, 1.1, 32), (32, 1.4, 48), (40, 1.1, 48), (320, 2.0, 640), (16, 0.25, 8), (24, 1.4, 32)],
)
def test_scaled_channels(channels: int, width: float, expected: int) -> None:
    assert efficientnet.scale_channels(channels, width) == expected


def test_the_same_seed_gives_the_same_weights() -> None:
    made = [registry.create("efficientnet_nano", classes=3, seed=seed)[1] for seed in (0, 0, 1)]
    assert jax.tree.all(jax.tree.map(np.array_equal, made[0], made[1]))
    kernels = [params["stem"]["conv"]["kernel"] for params in made]
    assert not np.array_equal(kernels[0], kernels[2])


def test_unknown_model() -> None:
    with pytest.raises(UsageError, match=r"there is no model 'efficientnet_b9'.*efficientnet_b1"):
        registry.create("efficientnet_b9", classes=3)


@pytest.mark.slow
def test_without_batch_statistics_training_normalises_as_inference() -> None:
    network, params, stats = registry.create("efficientnet_nano", classes=4, hidden=(8,), batch_statistics=False)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
    options = {"start": "stem", "stop": "block_02"}  # further up whole branches may be dropped
    outputs, _ = network.apply(params, stats, x, **options, trained=True, dropout_key=jax.random.key(0))
    expected, _ = network.apply(params, stats, x, **options)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    _, new_stats = network.apply(params, stats, x, trained=True, dropout_key=jax.random.key(0))
    assert changed(stats, new_stats) == {"head"}

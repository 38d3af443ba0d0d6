"""What holds for every network, shown by small ones of the plain families (`efficientnet_test.py` has the others)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.models import registry, vgg
from bt_jax.models.registry import Network, Tree

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "size": 8, "hidden": (32, 16)},
    "cnn": {"name": "cnn", "size": 16, "filters": (4, 8), "hidden": (16,)},
    "vgg16": {"name": "vgg16", "size": 32},
    "vgg16 hidden": {"name": "vgg16", "size": 32, "hidden": (16,)},
    "vgg16 classifier": {"name": "vgg16", "size": 64, "classifier": True},
}


@pytest.fixture(params=SMALL)
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Network, Tree, Tree]:
    monkeypatch.setattr(vgg, "BLOCKS", tuple((count, 8) for count, _ in vgg.BLOCKS))
    monkeypatch.setattr(vgg, "CLASSIFIER_FEATURES", 32)
    return registry.create(classes=4, seed=1, **{"dropout_rate": 0.5, **SMALL[request.param]})


def images(network: Network, count: int = 8) -> jax.Array:
    shape = (count, network.size, network.size, 3)
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_prefix_and_suffix_compose_at_every_boundary(made: Any) -> None:
    network, *trees = made
    x = images(network)
    whole = network.apply(*trees, x)[0]
    assert whole.shape == (8, 4)
    assert np.std(whole, axis=0).min() > 0
    for segment in network.segment_names:
        prefix = network.apply(*trees, x, stop=segment)[0]
        np.testing.assert_allclose(network.apply(*trees, prefix, start=segment)[0], whole, rtol=1e-4, atol=1e-6)


def test_gradients_reach_every_parameter(made: Any) -> None:
    network, params, batch_stats = made
    x, labels = images(network, 16), jnp.arange(16) % 4

    @quick_jit
    def gradient(params: Tree) -> Tree:
        def loss(params: Tree) -> jax.Array:
            logits = network.apply(params, batch_stats, x, trained=True, dropout_key=jax.random.key(0))[0]
            return -jax.nn.log_softmax(logits)[jnp.arange(16), labels].mean()

        return jax.grad(loss)(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
        assert np.isfinite(leaf).all()
        assert np.any(leaf), jax.tree_util.keystr(path)


def test_dropout_acts_only_where_it_is_trained(made: Any) -> None:
    network, *trees = made
    x = images(network)

    def run(trained: Any, key: int = 0) -> np.ndarray:
        return np.asarray(network.apply(*trees, x, trained=trained, dropout_key=jax.random.key(key))[0])

    plain = np.asarray(network.apply(*trees, x)[0])
    np.testing.assert_array_equal(run(False), plain)
    assert np.any(run(True) != plain)
    assert np.any(run(True, key=1) != run(True))
    np.testing.assert_array_equal(run(True), run(True))
    frozen = (False,) * len(network.segment_names)
    np.testing.assert_array_equal(run(frozen), plain)
    rates = {"mlp": "dense_1", "cnn": "conv_1", "vgg16": "head"}
    only = tuple(name == rates[network.name] for name in network.segment_names)
    assert np.any(run(only) != plain)
    with pytest.raises(ValueError, match="dropout in training needs"):
        network.apply(*trees, x, trained=True)


def test_traced_flags_equal_static_ones(made: Any) -> None:
    network, *trees = made
    x = images(network)

    def run(flag: Any) -> Any:
        return network.apply(*trees, x, trained=flag, dropout_key=jax.random.key(3))

    traced = quick_jit(run)
    for trained in (True, False):
        pairs = zip(jax.tree.leaves(run(trained)), jax.tree.leaves(traced(jnp.asarray(trained))), strict=True)
        for one, other in pairs:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_half_precision_gives_float32_logits(made: Any) -> None:
    network, *trees = made
    x = images(network)
    exact, logits = network.apply(*trees, x)[0], network.apply(*trees, x.astype(jnp.bfloat16))[0]
    assert logits.dtype == jnp.float32
    assert np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("options", [SMALL["mlp"], SMALL["cnn"]], ids=["mlp", "cnn"])
def test_the_same_seed_gives_the_same_weights(options: dict[str, Any]) -> None:
    first, same, other = (registry.create(classes=4, seed=seed, **options)[1] for seed in (1, 1, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, same))
    for name in first:
        assert not jax.tree.all(jax.tree.map(np.array_equal, first[name], other[name]))


def test_all_names_have_a_size_and_a_constructor() -> None:
    sizes = {"efficientnet_b1": 240, "mlp": 64, "cnn": 96, "vgg16": 224, "vgg_nano": 64}
    assert {name: registry.get_native_size(name) for name in sizes} == sizes
    network, *_ = registry.create("efficientnet_nano", classes=3, size=64)
    assert (network.size, network.pooled_head) == (64, True)


def test_an_option_that_a_model_does_not_have() -> None:
    with pytest.raises(UsageError, match="mlp has no option filters, momentum: it has channels, dropout_rate, hidden"):
        registry.create("mlp", classes=3, filters=(4,), momentum=0.0)
    with pytest.raises(
        UsageError, match="efficientnet_nano has no option variant: it has batch_statistics, dropout_rate, epsilon"
    ):
        registry.create("efficientnet_nano", classes=3, variant="efficientnet_b1")

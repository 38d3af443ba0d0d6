import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.models import registry, summary, vgg

CONVOLUTIONS = 14_714_688  # parameters of the 13, as Keras counts them without the classifier


def test_parameters() -> None:
    network, params, batch_stats = registry.create("vgg16", classes=4)
    assert summary.count_parameters(params) == CONVOLUTIONS + 513 * 4
    assert network.segment_names == ("block1", "block2", "block3", "block4", "block5", "head")
    assert [len(params[name]) for name in network.segment_names[:-1]] == [2, 2, 3, 3, 3]
    assert batch_stats == {}
    assert (network.size, network.pooled_head) == (224, True)


def test_the_narrow_member_has_the_same_layers() -> None:
    network, params, _ = registry.create("vgg_nano", classes=4)
    channels = [params[f"block{i}"]["conv_2"]["kernel"].shape[-1] for i in range(1, 6)]
    assert channels == [8, 16, 32, 64, 64]
    assert [len(params[name]) for name in network.segment_names[:-1]] == [2, 2, 3, 3, 3]
    assert (network.size, network.pooled_head) == (64, True)


def test_the_head_may_have_hidden_blocks() -> None:
    network, params, batch_stats = registry.create("vgg16", classes=4, hidden=(8,), epsilon=0.01, momentum=0.5)
    # Their BatchNorm makes a bias idle.
    assert summary.count_parameters(params) == CONVOLUTIONS + 512 * 8 + 2 * 8 + 9 * 4
    assert jax.tree.map(jnp.shape, batch_stats) == {"head": {"norm_1": {"mean": (8,), "variance": (8,)}}}
    assert network.pooled_head


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same layers with 4 channels, and 6 features in the classifier."""
    monkeypatch.setattr(vgg, "BLOCKS", tuple((count, 4) for count, _ in vgg.BLOCKS))
    monkeypatch.setattr(vgg, "CLASSIFIER_FEATURES", 6)


@pytest.mark.usefixtures("narrow")
def test_the_pooled_head_takes_any_size_and_the_classifier_its_own() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 70, 70, 3)), jnp.float32)
    network, *trees = registry.create("vgg16", classes=3)
    assert network.apply(*trees, x, stop="head")[0].shape == (2, 2, 2, 4)
    assert network.apply(*trees, x)[0].shape == (2, 3)
    network, params, _ = registry.create("vgg16", classes=3, size=70, classifier=True)
    assert not network.pooled_head
    assert params["head"]["dense_1"]["kernel"].shape == (2 * 2 * 4, 6)
    assert network.apply(params, {}, x)[0].shape == (2, 3)


@pytest.mark.usefixtures("narrow")
def test_the_classifier_by_hand() -> None:
    network, params, _ = registry.create("vgg16", classes=3, size=64, classifier=True, dropout_rate=0.5)
    x = np.random.default_rng(0).normal(size=(2, 2, 2, 4)).astype(np.float32)
    head = params["head"]
    expected = x.reshape(2, 16)
    for name in ("dense_1", "dense_2"):
        expected = np.maximum(expected @ np.asarray(head[name]["kernel"]), 0)
    expected = expected @ np.asarray(head["output"]["kernel"])
    ours = network.apply(params, {}, jnp.asarray(x), start="head")[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
    dropped = network.apply(params, {}, jnp.asarray(x), start="head", trained=True, dropout_key=jax.random.key(0))[0]
    assert np.any(dropped != ours)


def test_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match=r"images of 31 pixels are too small for the 5 poolings of vgg16: .* to 32 or"):
        registry.create("vgg16", classes=3, size=31)
    with pytest.raises(UsageError, match=r"config\.model\.classifier has hidden layers of its own"):
        registry.create("vgg16", classes=3, classifier=True, hidden=(256,))

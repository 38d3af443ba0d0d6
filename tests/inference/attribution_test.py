"""Explanations: equations in closed form, the place of what decides, and maps that depend on the weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data.phantoms import phantom
from bt_jax.inference import attribution, heat_map
from bt_jax.inference.forward import make_forward
from bt_jax.models import registry
from tests import small_models


def with_params(model, change):
    """The model with the parameters that `change` makes of each network's, and its own forward with them."""
    networks = tuple(dataclasses.replace(one, params=change(one.params)) for one in model.networks)

    def compute(images):
        outputs = [
            make_forward(one.network, normalisation=one.normalisation, dtype=jnp.dtype("float32"))(
                one.params, one.batch_stats, images.astype(np.float32) / 255
            )
            for one in networks
        ]
        return tuple(np.stack([np.asarray(arrays[i]) for arrays in outputs]) for i in (0, 1))

    return dataclasses.replace(model, networks=networks, compute=compute)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """A network whose logits are linear in the mean of its last maps."""
    return small_models.write(tmp_path_factory.mktemp("linear") / "m", "vgg_nano", size=64, plain=True)


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """A network that decides by brightness alone: class 1 for what is brighter than .8, anywhere."""
    made = small_models.write(
        tmp_path_factory.mktemp("bright") / "m", "cnn", size=32, filters=(2,), hidden=(), plain=True
    )

    def change(params):
        (normalisation,) = {member.normalisation for member in made.networks}
        kernel, bias = np.zeros((3, 3, 1, 2), np.float32), np.zeros(2, np.float32)
        kernel[1, 1, 0, 0] = normalisation.std[0]
        bias[0] = normalisation.mean[0] - 0.8
        output = np.zeros((16 * 16 * 2, 4), np.float32)
        output[0::2, 1] = 1
        convolution = {"conv_1": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
        return {"conv_1": convolution, "head": {"output": {"kernel": jnp.asarray(output), "bias": jnp.zeros(4)}}}

    return with_params(made, change)


def bright_squares() -> tuple[np.ndarray, np.ndarray]:
    """Grey images with one bright square each, and its centre (row, column)."""
    images, centres = np.full((6, 32, 32), 120, np.uint8), []
    for image, row in zip(images, range(2, 26, 4), strict=True):
        column = 30 - row - 4
        image[row : row + 4, column : column + 4] = 255
        centres.append((row + 1.5, column + 1.5))
    return images, np.array(centres)


def test_grad_cam_of_a_mean_and_a_linear_output_is_the_weighted_sum_of_the_maps(linear):
    """Class activation mapping (arXiv:1512.04150): the gradients are the output's weights over the pixels."""
    images = small_models.images(3, 64)
    (member,) = linear.networks
    x = member.normalisation(jnp.asarray(images, jnp.float32) / 255)
    prefix = jax.jit(lambda x: member.network.apply(member.params, member.batch_stats, x, stop="head")[0])
    maps = prefix(x)  # [3, 2, 2, 64]
    classes = np.array([2, 0, 3])
    weights = np.asarray(member.params["head"]["output"]["kernel"]).T[classes]  # [3, 64]
    expected = np.maximum(np.einsum("bhwc,bc->bhw", maps, weights), 0)
    expected = np.array(jax.image.resize(expected, (3, 64, 64), "bilinear"))
    expected /= np.maximum(expected.max((1, 2), keepdims=True), 1e-30)
    found = attribution.explain(linear, images, classes=classes)
    assert found.method == "gradcam"
    np.testing.assert_allclose(found.heat, expected, atol=1e-5)
    assert found.heat.dtype == np.float32 and found.heat.min() >= 0
    assert set(found.heat.max((1, 2)).round(6)) <= {0.0, 1.0}


def test_the_equations_on_numbers():
    maps = jnp.array([[[[1.0, -2.0]], [[3.0, 4.0]]]])  # [1, 2, 1, 2]
    gradients = jnp.array([[[[0.5, -1.0]], [[1.5, 0.0]]]])
    np.testing.assert_allclose(attribution.compute_grad_cam(maps, gradients)[0, :, 0], [2.0, 1.0])  # weights 1 and -.5
    np.testing.assert_allclose(attribution.compute_layer_cam(maps, gradients)[0, :, 0], [0.5, 4.5])


@pytest.mark.parametrize(
    "method", ["gradcam", *(pytest.param(method, marks=pytest.mark.slow) for method in heat_map.METHODS[1:])]
)
def test_the_hottest_place_is_what_decides(bright, method):
    images, centres = bright_squares()
    found = attribution.explain(bright, images, method=method)
    assert found.classes.tolist() == [1] * 6
    for heat, (row, column) in zip(found.heat, centres, strict=True):
        square = np.zeros((32, 32), bool)
        square[int(row) - 1 : int(row) + 3, int(column) - 1 : int(column) + 3] = True
        assert heat_map.is_hit(heat, square)
        # Where brightness counts for nothing, there is no heat.
        far = np.hypot(*(np.indices((32, 32)) - np.array((row, column))[:, None, None])) > 8
        assert heat[far].max() < (1e-6 if method != "integrated_gradients" else 0.5)


def test_no_evidence_is_no_heat(bright):
    images = np.full((1, 32, 32), 120, np.uint8)
    for method in ("gradcam", "layercam"):
        assert attribution.explain(bright, images, classes=[1], method=method).heat.max() == 0
    assert attribution.explain(bright, bright_squares()[0][:1], classes=[3], method="gradcam").heat.max() == 0


@pytest.mark.slow
def test_integrated_gradients_add_up(tmp_path):
    """Completeness: their sum is the logit of the image minus that of black."""
    model = small_models.write(tmp_path / "m", "mlp", size=12, hidden=(8, 6), plain=True)
    (member,) = model.networks
    images = small_models.images(5, 12).astype(np.float32) / 255
    forward = make_forward(member.network, normalisation=member.normalisation, dtype=jnp.dtype("float32"))
    logits = np.asarray(forward(member.params, member.batch_stats, images)[0])
    black = np.asarray(forward(member.params, member.batch_stats, images * 0)[0])
    classes = jnp.array([0, 1, 2, 3, 0])
    found = attribution.integrate_gradients(
        member.network, member.normalisation, member.params, member.batch_stats, images, classes, steps=400
    )
    rows = np.arange(5)
    np.testing.assert_allclose(found.sum((1, 2)), (logits - black)[rows, classes], atol=5e-3)


def test_a_dense_network_is_explained_by_its_pixels(tmp_path):
    model = small_models.write(tmp_path / "m", "mlp", size=12, hidden=(8,), plain=True)
    found = attribution.explain(model, small_models.images(3, 12), method="gradcam")
    assert found.method == "integrated_gradients"
    assert found.heat.shape == (3, 12, 12) and found.heat.max() == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "options", "cuts"),
    [
        ("vgg_nano", {"size": 64}, ("block5", "head")),
        ("cnn", {"size": 32, "filters": (2, 3, 4), "hidden": (5,)}, ("conv_3", "dense_1")),
        ("cnn", {"size": 32, "filters": (2,), "hidden": ()}, ("head",)),
        ("mlp", {"size": 8, "hidden": (4,)}, ()),
    ],
)
def test_where_networks_are_cut(name, options, cuts):
    network, _, _ = registry.create_abstract(name, classes=4, **options)
    assert attribution.find_cuts(network) == cuts


def test_where_an_efficientnet_is_cut():
    """Before the head, and before the block that halves the map for the last time."""
    network, _, _ = registry.create_abstract("efficientnet_lite1", classes=4)
    finer, coarse = attribution.find_cuts(network)
    names = network.segment_names
    sides = [network.grids[names.index(name)].side for name in (finer, names[names.index(finer) + 1], coarse)]
    assert sides == [15, 8, 8]


@pytest.mark.slow
def test_an_ensemble_is_the_mean_of_its_members(tmp_path):
    together = small_models.write(tmp_path / "m", "cnn", size=16, filters=(3, 4), hidden=(), members=2, plain=True)
    images = small_models.images(5, 16)
    classes = np.array([0, 1, 2, 3, 0])
    alone = [
        attribution.explain(dataclasses.replace(together, networks=(one,)), images, classes=classes).heat
        for one in together.networks
    ]
    mean = alone[0] + alone[1]
    mean /= np.maximum(mean.max((1, 2), keepdims=True), 1e-30)
    np.testing.assert_allclose(attribution.explain(together, images, classes=classes).heat, mean, atol=1e-5)
    in_small_batches = attribution.explain(together, images, classes=classes, batch_size=2).heat
    np.testing.assert_allclose(in_small_batches, mean, atol=1e-5)
    assert not np.allclose(alone[0], alone[1], atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("method", heat_map.METHODS)
def test_other_weights_give_other_maps(method, tmp_path):
    """The sanity check of arXiv:1810.03292: a map that stays when the weights are random shows the image alone."""
    model = small_models.write(tmp_path / "m", "cnn", size=32, filters=(6, 8), hidden=(), plain=True)
    image = phantom.render(0, label="glioma_tumor", seed=0).image
    images, classes = np.repeat(model.preprocessing(image)[None], 4, axis=0), np.arange(4)
    generator = np.random.default_rng(5)

    def shuffled(leaf):
        return jnp.asarray(generator.permutation(np.asarray(leaf).ravel()).reshape(leaf.shape))

    other = with_params(model, lambda params: jax.tree.map(shuffled, params))
    before, after = (attribution.explain(one, images, classes=classes, method=method).heat for one in (model, other))
    alike = [
        np.corrcoef(one.ravel(), another.ravel())[0, 1]
        for one, another in zip(before, after, strict=True)
        if one.any() and another.any()
    ]
    assert alike and np.mean(alike) < 0.7


def test_what_cannot_be_explained(bright):
    images, _ = bright_squares()
    with pytest.raises(UsageError, match="unknown attribution method 'lime': use one of gradcam"):
        attribution.explain(bright, images, method="lime")
    with pytest.raises(UsageError, match="heat maps by gradients need the networks"):
        attribution.explain(dataclasses.replace(bright, networks=()), images)
    with pytest.raises(ValueError, match="must be 6 integers from 0 to 3"):
        attribution.explain(bright, images, classes=[0] * 5)
    assert attribution.explain(bright, images[:0]).heat.shape == (0, 32, 32)

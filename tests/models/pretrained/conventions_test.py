import json
import pathlib

import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.models.normalise import IMAGENET, LITE, Normalisation
from bt_jax.models.pretrained import conventions, efficientnet_names, names, vgg_names

PATH = pathlib.Path("a.h5")
MEAN, STD = np.float32(IMAGENET.mean), np.float32(IMAGENET.std)


def keras(variance: np.ndarray, layers: list[str], *, official: bool, mean: np.ndarray = MEAN) -> Normalisation:
    tensors = {"normalization_1/0": mean, "normalization_1/1": variance, "normalization_1/2": np.array(0)}
    return conventions.infer_keras(tensors, layers, PATH, official=official).normalisation


def close(actual: Normalisation, expected: Normalisation) -> bool:
    return np.allclose((actual.mean, actual.std), (expected.mean, expected.std), rtol=1e-6)


def test_published_keras_files_hold_deviations_as_variances() -> None:
    assert close(keras(STD, ["rescaling", "normalization_1"], official=True), IMAGENET)


def test_keras_models_saved_with_the_second_rescaling() -> None:
    assert close(keras(STD, ["rescaling", "normalization_1", "rescaling_1"], official=False), IMAGENET)
    assert close(keras(STD, ["rescaling_3", "normalization_1", "rescaling_4"], official=False), IMAGENET)


def test_other_keras_models_scale_as_their_layer_says() -> None:
    expected = Normalisation(mean=IMAGENET.mean, std=tuple(np.sqrt(IMAGENET.std)))
    assert close(keras(STD, ["rescaling", "normalization_1"], official=False), expected)
    assert close(keras(STD**2, ["rescaling", "normalization_1"], official=False), IMAGENET)
    untouched = keras(np.ones(3), ["rescaling", "normalization_1"], official=False, mean=np.zeros(3))
    assert close(untouched, Normalisation(mean=(0, 0, 0), std=(1, 1, 1)))


def test_keras_files_without_normalisation() -> None:
    found = conventions.infer_keras({"stem_conv/0": np.zeros(1)}, ["stem_conv"], PATH, official=False)
    assert found.normalisation == IMAGENET
    assert found.notice is not None and "no Normalization layer" in found.notice


def test_keras_files_of_another_number_of_channels() -> None:
    with pytest.raises(UsageError, match=r"a\.h5: needs one Normalization layer of 3 channels"):
        keras(np.ones(1), [], official=False, mean=np.zeros(1))


TF, TORCH, HALF = conventions.TENSORFLOW, conventions.PYTORCH, conventions.SYMMETRIC


@pytest.mark.parametrize(
    ("file", "form", "model", "normalisation", "options"),
    [
        ("tf_efficientnet_b1_ns-99dd0c41.pth", efficientnet_names.TIMM, "efficientnet_b1", IMAGENET, TF),
        ("my-tf_efficientnet_b1.bin", efficientnet_names.TIMM, "efficientnet_b1", IMAGENET, TF),
        ("tf_efficientnet_b1_ap-44ef0a3d.pth", efficientnet_names.TIMM, "efficientnet_b1", HALF, TF),
        ("tf_efficientnet_b1.ap_in1k.pth", efficientnet_names.TIMM, "efficientnet_b1", HALF, TF),
        ("tf_efficientnet_lite1-bde8b488.pth", efficientnet_names.TIMM, "efficientnet_lite1", LITE, TF),
        ("efficientnet_b1-533bc792.pth", efficientnet_names.TIMM, "efficientnet_b1", IMAGENET, TORCH),
        ("efficientnet_b1.ra4_e3600_r240_in1k.bin", efficientnet_names.TIMM, "efficientnet_b1", HALF, TORCH),
        ("efficientnet_lite0_ra-37913777.pth", efficientnet_names.TIMM, "efficientnet_lite0", IMAGENET, TORCH),
        ("efficientnet-b1-f1951068.pth", efficientnet_names.PORT, "efficientnet_b1", IMAGENET, TF),
        ("adv-efficientnet-b1-0f3ce85a.pth", efficientnet_names.PORT, "efficientnet_b1", HALF, TF),
        ("efficientnet-lite1-77cc7160.pth", efficientnet_names.PORT, "efficientnet_lite1", LITE, TF),
    ],
)
def test_published_names(
    file: str, form: names.Format, model: str, normalisation: Normalisation, options: dict, tmp_path: pathlib.Path
) -> None:
    found = conventions.infer_torch(form, tmp_path / file, model=model)
    assert (found.normalisation, found.options, found.notice) == (normalisation, options, None)


@pytest.mark.parametrize(
    ("file", "normalisation"),
    [
        ("vgg16-397923af.pth", IMAGENET),
        ("best.safetensors", IMAGENET),
        ("vgg16_features-amdegroot-88682ab5.pth", Normalisation((0.48235, 0.45882, 0.40784), (1 / 255,) * 3)),
    ],
)
def test_vgg_of_torchvision(file: str, normalisation: Normalisation, tmp_path: pathlib.Path) -> None:
    found = conventions.infer_torch(vgg_names.TORCHVISION, tmp_path / file, model="vgg16")
    assert (found.normalisation, found.options, found.notice) == (normalisation, {}, None)


def test_vgg_of_keras_takes_blue_green_red_from_0_to_255() -> None:
    found = conventions.infer_keras_vgg(pathlib.Path("a.h5"), official=True)
    assert (found.options, found.notice) == ({}, None)
    white = np.asarray(found.normalisation(np.ones((1, 1, 1), np.float32)))[0, 0, 0]
    np.testing.assert_allclose(white, 255 - np.array([103.939, 116.779, 123.68]), rtol=1e-5)
    own = conventions.infer_keras_vgg(pathlib.Path("a.h5"), official=False)
    assert own.notice is not None and own.notice.startswith("a.h5 does not state the scaling of its inputs")


def test_metadata_of_a_network_without_padding(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "best.safetensors"
    guessed = conventions.infer_torch(vgg_names.TORCHVISION, path, model="vgg16")
    found = conventions.override(guessed, {"mean": "[0.1, 0.2, 0.3]", "std": "[1, 2, 3]"}, path)
    assert found == conventions.Conventions(Normalisation((0.1, 0.2, 0.3), (1, 2, 3)), {})


def test_a_name_that_says_nothing_gives_a_notice(tmp_path: pathlib.Path) -> None:
    found = conventions.infer_torch(efficientnet_names.TIMM, tmp_path / "best.pth", model="efficientnet_b1")
    assert found.options == conventions.PYTORCH
    assert found.notice is not None and "tf_efficientnet_b1.pth" in found.notice


def test_the_config_beside_the_weights_tells(tmp_path: pathlib.Path) -> None:
    config = {"architecture": "tf_efficientnet_b1", "pretrained_cfg": {"tag": "x", "mean": [0.1] * 3, "std": [0.2] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = tmp_path / "model.safetensors"
    found = conventions.infer_torch(efficientnet_names.TIMM, path, model="efficientnet_b1")
    assert found.normalisation == Normalisation(mean=(0.1,) * 3, std=(0.2,) * 3)
    assert (found.options, found.notice) == (conventions.TENSORFLOW, None)
    assert conventions.infer_torch(efficientnet_names.TIMM, path, model="efficientnet_lite1").normalisation == LITE

    (tmp_path / "config.json").write_text(json.dumps({"something": "else"}))
    assert (
        conventions.infer_torch(efficientnet_names.TIMM, path, model="efficientnet_b1").options == conventions.PYTORCH
    )
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json: not readable as JSON"):
        conventions.infer_torch(efficientnet_names.TIMM, path, model="efficientnet_b1")
    config["pretrained_cfg"] = {"mean": [0.1], "std": [0.2]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="not numbers for three channels"):
        conventions.infer_torch(efficientnet_names.TIMM, path, model="efficientnet_b1")


def test_metadata_overrides(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "best.safetensors"
    guessed = conventions.infer_torch(efficientnet_names.TIMM, path, model="efficientnet_b1")
    assert conventions.override(guessed, {"format": "pt"}, path) == guessed
    said = {"padding": "same", "epsilon": "0.002", "mean": "[0.1, 0.2, 0.3]", "std": "[1, 2, 3]"}
    found = conventions.override(guessed, said, path)
    assert found.normalisation == Normalisation(mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    assert found.options == {"padding": "same", "epsilon": 0.002, "momentum": 0.9}
    assert found.notice is None
    for wrong in ({"padding": "valid"}, {"epsilon": "small"}, {"mean": "[0, 0]"}, {"std": "[1, 1, 0]"}):
        with pytest.raises(UsageError, match=r"best\.safetensors"):
            conventions.override(guessed, wrong, path)

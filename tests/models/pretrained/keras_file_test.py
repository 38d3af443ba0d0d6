import pathlib
import shutil

import h5py
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.models.pretrained import keras_file

LAYERS = ["rescaling", "normalization", "rescaling_1", "stem_conv", "stem_bn"]


@pytest.fixture
def expected(golden: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(golden / "containers" / "keras.npz") as file:
        return {key.replace(":", "/"): file[key] for key in file}


@pytest.mark.parametrize("name", ["tiny.h5", "tiny.weights.h5"])
def test_reads_what_keras_wrote(name: str, golden: pathlib.Path, expected: dict[str, np.ndarray]) -> None:
    tensors = keras_file.read(golden / "containers" / name)
    assert tensors.keys() == expected.keys()
    for key, tensor in tensors.items():
        assert tensor.dtype == expected[key].dtype
        np.testing.assert_array_equal(tensor, expected[key], err_msg=key)
    assert set(LAYERS) <= set(keras_file.read_layer_names(golden / "containers" / name))


def test_layers_by_class_and_number_where_names_are_not_stored(
    golden: pathlib.Path, expected: dict[str, np.ndarray], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "early.weights.h5"
    shutil.copy(golden / "containers" / "tiny.weights.h5", path)
    with h5py.File(path, "r+") as file:
        for layer in file["layers"].values():
            del layer["vars"].attrs["name"]
    tensors = keras_file.read(path)
    np.testing.assert_array_equal(tensors["conv2d/0"], expected["stem_conv/0"])
    np.testing.assert_array_equal(tensors["conv2d_1/1"], expected["block1a_project_conv/1"])
    np.testing.assert_array_equal(tensors["batch_normalization/3"], expected["stem_bn/3"])
    assert {"rescaling", "rescaling_1"} <= set(keras_file.read_layer_names(path))


def test_weights_saved_alone_with_long_lists_in_pieces(tmp_path: pathlib.Path) -> None:
    # As Keras 2 wrote `save_weights("x.h5")` of a model with more layers than an attribute can name.
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names0"], file.attrs["layer_names1"] = [b"stem_conv"], [b"stem_bn"]
        for layer, weights in (("stem_conv", ["kernel:0"]), ("stem_bn", ["gamma:0", "beta:0"])):
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{weight}".encode() for weight in weights]
            for number, weight in enumerate(weights):
                group[f"{layer}/{weight}"] = np.float32([number])
    tensors = keras_file.read(path)
    assert {key: float(tensor[0]) for key, tensor in tensors.items()} == {
        "stem_conv/0": 0,
        "stem_bn/0": 0,
        "stem_bn/1": 1,
    }


def test_a_model_written_as_a_class(tmp_path: pathlib.Path) -> None:
    """Its attributes are layers, or rows of layers; names that come twice are told apart by their places."""
    path = tmp_path / "class.weights.h5"
    with h5py.File(path, "w") as file:
        places = (("block/layers/conv2d", "first"), ("side", "conv2d"), ("other", "conv2d"), ("bare", None))
        for number, (place, name) in enumerate(places):
            variables = file.create_group(f"{place}/vars")
            variables["0"], variables["1"] = np.float32([number]), np.float32([-number])
            if name:
                variables.attrs["name"] = name
        file.create_group("vars")
        file["optimizer/vars/0"] = np.float32([9])
    tensors = {key: float(tensor[0]) for key, tensor in keras_file.read(path).items()}
    # HDF5 visits in alphabetical order.
    expected = {"bare": 3, "first": 0, "conv2d": 2, "side": 1}
    assert tensors == {f"{name}/{i}": (-value if i else value) for name, value in expected.items() for i in (0, 1)}


def test_errors_name_the_file(golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.h5: there is no such file"):
        keras_file.read(tmp_path / "absent.h5")
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["data"] = [1.0]
    with pytest.raises(UsageError, match=r"other\.h5: an HDF5 file, but not of Keras"):
        keras_file.read(other)
    for name in ("tiny.h5", "tiny.weights.h5"):
        content = (golden / "containers" / name).read_bytes()
        for length in range(0, len(content) - 1, len(content) // 20):
            (tmp_path / "cut.h5").write_bytes(content[:length])
            with pytest.raises(UsageError, match=r"cut\.h5: .*(damaged|not of Keras)"):
                keras_file.read(tmp_path / "cut.h5")

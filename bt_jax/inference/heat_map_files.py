"""Heat maps of a predictor on the pixels of the original images, and files of them."""

import dataclasses
import hashlib
import io
import pathlib
import re

import numpy as np

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.inference import class_maps, heat_map
from bt_jax.inference.predictor import Prediction, Predictor, PreparedSlice
from bt_jax.inference.trained_model import TrainedModel

INDEX = "index.csv"
_LONGEST_NAME = 80  # characters of the file's own name that are kept


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """The heat map of an image for a class.

    Attributes:
      heat: [H, W] float32 in [0, 1], on the image's pixels; the maximum is 1, or 0 without any evidence for the class.
      label: name of the class.
      method: the method used, see `attribution`.
      image: [H, W] uint8 or uint16.
    """

    heat: np.ndarray
    label: str
    method: str
    image: np.ndarray

    def draw(self) -> np.ndarray:
        """Draws the colours of the heat over the image: [H, W, 3] uint8."""
        return heat_map.overlay(self.image, self.heat)


def check_explainable(predictor: Predictor, method: str) -> None:
    """Raises `UsageError` if a model has no heat maps by this method."""
    if method not in predictor.methods:
        others = f", or use the method {' or '.join(predictor.methods)}" if predictor.methods else ""
        raise UsageError(
            f"heat maps by {method} are not available from this file: give --model the workdir or a safetensors file "
            f"of the model{others}"
        )


def explain_image(predictor: Predictor, image: np.ndarray, *, label: str, method: str = "gradcam") -> HeatMap:
    """Computes the heat map of an image [H, W] uint8 or uint16, the mean over the models."""
    number = predictor.class_names.index(label)
    heat, methods = np.zeros(image.shape, np.float32), dict[str, None]()
    for model in predictor.models:
        square, placement = model.preprocessing.letterbox(image)
        found, used = _explain(model, square[None], number=number, method=method)
        heat += heat_map.scale_to_one(placement.map_to_image(found[0]))
        methods[used] = None
    return HeatMap(heat_map.scale_to_one(heat), label, "+".join(methods), image)


def _explain(model: TrainedModel, images: np.ndarray, *, number: int, method: str) -> tuple[np.ndarray, str]:
    """Returns the heat maps [1, S, S] of a preprocessed image [1, S, S], and the method used."""
    if model.class_maps:
        return model.class_maps.explain(images, classes=[number]), class_maps.METHOD
    from bt_jax.inference import attribution  # needs JAX

    found = attribution.explain(model, images, classes=[number], method=method, batch_size=1)
    return found.heat, found.method


class HeatMapFiles:
    """Writes heat maps of predicted slices to a folder: overlays (PNG), values (.npy), and a table of the files.

    Args:
      folder: created if it does not exist.
      predictor: the predictor of the slices.
      method: one of `heat_map.METHODS`.

    Raises:
      UsageError: a model has no heat maps by this method, or the folder is a file.
    """

    def __init__(self, folder: files.Path, predictor: Predictor, *, method: str = "gradcam"):
        check_explainable(predictor, method)
        self._folder, self._predictor, self._method = pathlib.Path(folder), predictor, method
        if self._folder.exists() and not self._folder.is_dir():
            raise UsageError(f"--gradcam={str(folder)!r} is a file: give a folder")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._rows: list[tuple[str, ...]] = []

    def write(self, path: str, prepared: PreparedSlice, prediction: Prediction) -> None:
        """Writes the heat map of the predicted class of a slice, which must have kept its `origin`."""
        assert prepared.origin is not None
        found = explain_image(self._predictor, prepared.origin, label=prediction.label, method=self._method)
        name = make_file_name(path)
        files.write_bytes(self._folder / f"{name}.png", heat_map.encode_png(found.draw()))
        buffer = io.BytesIO()
        np.save(buffer, found.heat)
        files.write_bytes(self._folder / f"{name}.npy", buffer.getvalue())
        self._rows.append((path, f"{name}.png", f"{name}.npy", found.label, found.method))

    def write_index(self) -> None:
        """Writes the table that assigns the files to the records."""
        shown = [(path.encode("utf-8", "backslashreplace").decode(), *rest) for path, *rest in self._rows]
        files.write_csv(self._folder / INDEX, ("path", "overlay", "array", "class", "method"), shown)


def make_file_name(path: str) -> str:
    """Makes a file name, without suffix, for a record: portable, and unique for every path.

    It consists of the file's own name, with unusual characters replaced, and 16 digits of a hash of the path.
    """
    own = re.sub(r"[^A-Za-z0-9._-]+", "_", re.split(r"[/\\]", path)[-1]).lstrip(".-")
    digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{own[:_LONGEST_NAME] or 'image'}-{digest}"

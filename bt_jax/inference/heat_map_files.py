"""Where a predictor looks, on the pixels of the images it was given: as heat maps, and as files of them."""

import dataclasses
import hashlib
import io
import pathlib
import re

import numpy as np

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.inference import attribution, heat_map
from bt_jax.inference.predictor import Prediction, Predictor, PreparedSlice

INDEX = "index.csv"
_LONGEST_NAME = 80  # characters of a file's own name that its heat map keeps


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """Where a predictor looks for a class.

    Attributes:
      heat: [H, W] float32 in [0, 1], on the image's pixels; the largest value is 1, or 0 where nothing speaks for the
        class.
      label: name of the class.
      method: that was used, see `attribution`.
    """

    heat: np.ndarray
    label: str
    method: str


def check_explainable(predictor: Predictor) -> None:
    """Raises `UsageError` for a model that cannot be looked into."""
    if not all(model.networks for model in predictor.models):
        raise UsageError(
            "--model is a StableHLO file, which holds no network to look into: heat maps need the workdir of the run "
            "or a safetensors file"
        )


def explain_image(predictor: Predictor, image: np.ndarray, *, label: str, method: str = "gradcam") -> HeatMap:
    """The heat map of an image [H, W] uint8 or uint16; of several models the mean."""
    number = predictor.class_names.index(label)
    heat, methods = np.zeros(image.shape, np.float32), dict[str, None]()
    for model in predictor.models:
        square, placement = model.preprocessing.letterbox(image)
        found = attribution.explain(model, square[None], classes=[number], method=method, batch_size=1)
        heat += attribution.scale_to_one(placement.map_to_image(found.heat[0]))
        methods[found.method] = None
    return HeatMap(attribution.scale_to_one(heat), label, "+".join(methods))


class HeatMapFiles:
    """Heat maps of predicted slices in a folder: an overlay (PNG), the values (.npy), and a table of what is what.

    Args:
      folder: made if it is not there.
      predictor: that predicted.
      method: one of `attribution.METHODS`.

    Raises:
      UsageError: a model that cannot be looked into, or a file in the place of the folder.
    """

    def __init__(self, folder: files.Path, predictor: Predictor, *, method: str = "gradcam"):
        check_explainable(predictor)
        self._folder, self._predictor, self._method = pathlib.Path(folder), predictor, method
        if self._folder.exists() and not self._folder.is_dir():
            raise UsageError(f"--gradcam is {str(folder)!r}, a file: name a folder")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._rows: list[tuple[str, ...]] = []

    def write(self, path: str, prepared: PreparedSlice, prediction: Prediction) -> None:
        """Writes the heat map of the class that was predicted for a slice, which must have kept its `origin`."""
        assert prepared.origin is not None
        found = explain_image(self._predictor, prepared.origin, label=prediction.label, method=self._method)
        name = make_file_name(path)
        files.write_bytes(
            self._folder / f"{name}.png", heat_map.encode_png(heat_map.overlay(prepared.origin, found.heat))
        )
        buffer = io.BytesIO()
        np.save(buffer, found.heat)
        files.write_bytes(self._folder / f"{name}.npy", buffer.getvalue())
        self._rows.append((path, f"{name}.png", f"{name}.npy", found.label, found.method))

    def write_index(self) -> None:
        """Writes the table: which files belong to which record."""
        shown = [(path.encode("utf-8", "backslashreplace").decode(), *rest) for path, *rest in self._rows]
        files.write_csv(self._folder / INDEX, ("path", "overlay", "array", "class", "method"), shown)


def make_file_name(path: str) -> str:
    """A name for what belongs to a record: no folders, nothing odd, and another one for every path.

    The file's own name, as far as it consists of letters, digits and the like, and 16 digits of a hash of the path.
    """
    own = re.sub(r"[^A-Za-z0-9._-]+", "_", re.split(r"[/\\]", path)[-1]).lstrip(".-")
    digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{own[:_LONGEST_NAME] or 'image'}-{digest}"

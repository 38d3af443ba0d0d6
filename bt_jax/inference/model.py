"""The interface for Python programs and notebooks: `bt_jax.load` returns a `Model`.

It is what `bt_jax.predict` and the page use, with the same readers, limits, probabilities and warnings.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from bt_jax.data.io import file_reader
from bt_jax.data.io.decode import encode_png
from bt_jax.data.io.slices import Slice, UnreadableError
from bt_jax.inference import heat_map, heat_map_files, inputs, onnx_engine, shipped_model, stream
from bt_jax.inference.heat_map_files import HeatMap
from bt_jax.inference.inputs import Input
from bt_jax.inference.predictor import Predictor
from bt_jax.inference.stream import PredictionRecord

# A path of a file, folder or zip or a pattern, the content of a file, or a grey image [H, W] uint8 or uint16.
Source = str | os.PathLike[str] | bytes | np.ndarray
_MOST_BYTES = 2**29


class Model:
    """A trained model, or several as an ensemble, that predicts files, bytes and arrays.

    Attributes:
      predictor: what the commands and the page predict with.

    Args:
      predictor: of the models.
      batch_size: slices per step.
    """

    def __init__(self, predictor: Predictor, *, batch_size: int = 32):
        self.predictor, self._batch_size = predictor, batch_size

    @classmethod
    def load(
        cls,
        *models: str | os.PathLike[str],
        views: int = 1,
        batch_size: int = 32,
        engine: str = onnx_engine.AUTO,
    ) -> "Model":
        """Loads models, see `bt_jax.load`."""
        if engine not in onnx_engine.ENGINES:
            raise ValueError(f"engine is {engine!r}: use one of {', '.join(onnx_engine.ENGINES)}")
        paths = shipped_model.choose([os.fspath(model) for model in models])
        predictor = Predictor.load(paths, views=views, batch_size=batch_size, engine=engine)
        return cls(predictor, batch_size=batch_size)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities."""
        return self.predictor.class_names

    def predict(self, sources: Source | Iterable[Source]) -> list[PredictionRecord]:
        """Predicts one source or several.

        Args:
          sources: paths of files, folders and zips, patterns, contents of files as bytes, and grey images [H, W] uint8
            or uint16.

        Returns:
          A record for each image or slice, in order. The outcome of a file that cannot be read is the reason as text.

        Raises:
          TypeError: a source is none of these.
        """
        several = [sources] if isinstance(sources, str | os.PathLike | bytes | np.ndarray) else list(sources)
        left_out: list[str] = []
        files = [file for number, source in enumerate(several, 1) for file in _open(source, number, left_out.append)]
        with warnings.catch_warnings():
            file_reader.silence_parsers()
            batches = list(stream.predict(files, self.predictor, batch_size=self._batch_size))
        for line in left_out:
            warnings.warn(line, stacklevel=2)
        return [record for batch in batches for record in batch]

    def heat_map(
        self, source: Source, *, label: str | None = None, method: str = "gradcam", number: int = 1
    ) -> HeatMap:
        """Computes where the model found evidence for a class.

        Args:
          source: one image, or a file with slices; see `predict`.
          label: the class; None: the predicted one.
          method: `gradcam`, `layercam` (finer) or `integrated_gradients`.
          number: of the slice in a file with several, from 1.

        Raises:
          UnreadableError: the source cannot be read, or has no such slice.
          ValueError: no such class or method.
          UsageError: the model is a file without heat maps by this method.
        """
        if label is not None and label not in self.classes:
            raise ValueError(f"label is {label!r}: use one of {', '.join(self.classes)}")
        if method not in heat_map.METHODS:
            raise ValueError(f"method is {method!r}: use one of {', '.join(heat_map.METHODS)}")
        heat_map_files.check_explainable(self.predictor, method)
        with warnings.catch_warnings():
            file_reader.silence_parsers()
            image = self._read_slice(source, number).image
        if label is None:
            (prediction,) = self.predictor.predict([self.predictor.prepare(Slice(image))])
            label = prediction.label
        return heat_map_files.explain_image(self.predictor, image, label=label, method=method)

    def _read_slice(self, source: Source, number: int) -> Slice:
        files = list(_open(source, 1, lambda line: None))
        if len(files) != 1:
            raise UnreadableError(f"it stands for {len(files)} files: give one of them")
        try:
            slices = file_reader.read_slices(files[0].read(_MOST_BYTES + 1))
            return next(one for count, one in enumerate(slices, 1) if count == number)
        except StopIteration:
            raise UnreadableError(f"{files[0].name} has no slice {number}") from None
        except OSError as error:
            raise UnreadableError(inputs.describe_error(error)) from error


def _open(source: Source, number: int, left_out: Callable[[str], None]) -> Iterator[Input]:
    """Yields the files that a source stands for; bytes and arrays are called by their number."""
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"an array must be a grey image [H, W] uint8 or uint16, not {source.shape} {source.dtype}")
        yield _wrap(f"array {number}", encode_png(source))
    elif isinstance(source, bytes):
        yield _wrap(f"bytes {number}", source)
    elif isinstance(source, str | os.PathLike):
        yield from inputs.expand([os.fspath(source)], left_out=left_out)
    else:
        raise TypeError(f"a source must be a path, bytes or an array, not {type(source).__name__}")


def _wrap(name: str, content: bytes) -> Input:
    return Input(name, len(content), lambda most: content[:most])

"""From the files of a request to records: reads them within the limits and predicts them with other requests' files."""

import base64
import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from bt_jax.common.messages import Message
from bt_jax.data.io import file_reader
from bt_jax.data.io.slices import UnreadableError
from bt_jax.inference import heat_map
from bt_jax.inference.predictor import Prediction, PreparedSlice
from bt_jax.serve import i18n
from bt_jax.serve.batching import BusyError
from bt_jax.serve.engine import Engine
from bt_jax.serve.settings import Settings

_TOGETHER = 16  # slices of a request that are read and predicted at a time
_LONGEST_SIDE = 640  # pixels of the pictures in a response
_MAX_OOD_SCORE = 1e6  # JSON has neither infinity nor NaN
_MOST_DECODING = 4


class RefusedError(Exception):
    """A request is refused.

    Args:
      status: HTTP status code.
      reason: message for the user.
    """

    def __init__(self, status: int, reason: Message):
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """Options of a request.

    Attributes:
      language: of warnings and errors.
      number: the slice to predict, from 1; None predicts all.
      picture: whether to return the slice as a picture.
      explain: one of `heat_map.METHODS`; None for no heat map.
      label: the class to explain; None explains the predicted class.
    """

    language: str = "en"
    number: int | None = None
    picture: bool = False
    explain: str | None = None
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class Upload:
    """A file of a request: its name, which is only echoed and never opened, and its content."""

    name: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class _SliceItem:
    """A slice of a file, or the reason why it cannot be read."""

    path: str
    number: int | None
    content: PreparedSlice | str
    alone: bool  # the only slice of its file to predict


class Api:
    """Predicts the files of requests.

    Args:
      engine: the engine that runs the model.
      settings: the limits.
    """

    def __init__(self, engine: Engine, settings: Settings):
        self._engine, self._settings, self._limits = engine, settings, settings.make_file_limits()
        self._decoding = threading.BoundedSemaphore(min(os.cpu_count() or 1, _MOST_DECODING))

    def predict(self, uploads: Sequence[Upload], options: RequestOptions) -> list[dict[str, Any]]:
        """Makes a record for each slice, and for each file that cannot be read, in order.

        Raises:
          BusyError: the server is overloaded.
        """
        deadline = time.monotonic() + self._settings.seconds
        items = (item for upload in uploads for item in self._iterate_items(upload, options))
        answered: list[dict[str, Any]] = []
        while part := self._read(items, deadline):
            answered += self._predict(part, options, deadline=deadline, patient=bool(answered))
        return answered

    def _read(self, items: Iterator[_SliceItem], deadline: float) -> list[_SliceItem]:
        """Reads the next slices. Few requests decode at the same time, since each may need much memory."""
        if not self._decoding.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise BusyError(1)
        try:
            return list(itertools.islice(items, _TOGETHER))
        finally:
            self._decoding.release()

    def _iterate_items(self, upload: Upload, options: RequestOptions) -> Iterator[_SliceItem]:
        """Yields the requested slices of a file."""
        name, count = upload.name, 0
        try:
            for count, slice_ in enumerate(file_reader.read_slices(upload.content, limits=self._limits), 1):
                if options.number not in (None, count):
                    continue
                prepared = self._engine.predictor.prepare(slice_)
                alone = slice_.number is None or options.number is not None
                if alone and (options.picture or options.explain):
                    prepared = dataclasses.replace(prepared, origin=slice_.image)
                yield _SliceItem(
                    name if slice_.number is None else f"{name}#{slice_.number}", slice_.number, prepared, alone
                )
                if options.number is not None:
                    return
        except UnreadableError as error:
            yield _SliceItem(name, None, error.reason, True)
        except MemoryError:
            yield _SliceItem(name, None, Message("memory", "there is not enough memory to read it"), True)
        else:
            if options.number is not None:
                text = "it has no slice {number}: the number of slices is {count}"
                yield _SliceItem(name, None, Message("no_such_slice", text, number=options.number, count=count), True)

    def _predict(
        self, items: list[_SliceItem], options: RequestOptions, *, deadline: float, patient: bool
    ) -> Iterator[dict[str, Any]]:
        slices = [item.content for item in items if isinstance(item.content, PreparedSlice)]
        predictions = iter(self._engine.predict(slices, deadline=deadline, patient=patient) if slices else ())
        for item in items:
            if isinstance(item.content, PreparedSlice):
                prediction = next(predictions)
                pictures = self._make_pictures(item.content, prediction, options, deadline) if item.alone else {}
                yield make_record(item.path, item.number, prediction, options.language) | pictures
            else:
                yield make_failure(item.path, item.content, options.language)

    def _make_pictures(
        self, prepared: PreparedSlice, prediction: Prediction, options: RequestOptions, deadline: float
    ) -> dict[str, Any]:
        """Makes the requested pictures of a slice: the slice itself and its heat map."""
        image, made = prepared.origin, dict[str, Any]()
        if image is None:
            return made
        if options.picture:
            made["picture"] = _encode_data_url(_shrink(Image.fromarray(heat_map.scale_to_screen(image))))
        if options.explain:
            label = options.label or prediction.label
            found = self._engine.explain(image, label=label, method=options.explain, deadline=deadline)
            small = np.asarray(_shrink(Image.fromarray(found.heat)))
            made["heat_map"] = {
                "class": found.label,
                "method": found.method,
                "empty": not found.heat.any(),
                "picture": _encode_data_url(Image.fromarray(heat_map.make_layer(small))),
            }
        return made


def make_record(path: str, number: int | None, prediction: Prediction, language: str) -> dict[str, Any]:
    """Makes the record of a prediction: that of `bt_jax.predict`, and fields for programs.

    The field `doubt` is the OOD score, see `inference.ood`.
    """
    score = prediction.ood_score
    return {
        "path": path,
        "prediction": prediction.label,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
        "warnings": [i18n.translate(warning, language) for warning in prediction.warnings],
        "slice": number,
        "doubt": None if score is None else min(score, _MAX_OOD_SCORE) if score == score else _MAX_OOD_SCORE,
        "codes": [i18n.get_code_and_values(warning) for warning in prediction.warnings],
    }


def make_failure(path: str, reason: str, language: str) -> dict[str, Any]:
    """Makes the record of a file that cannot be read."""
    return {"path": path, "error": i18n.translate(reason, language), **i18n.get_code_and_values(reason)}


def _shrink(picture: Image.Image) -> Image.Image:
    """Shrinks a picture to the size that the page shows."""
    scale = _LONGEST_SIDE / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BOX)


def _encode_data_url(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(heat_map.encode_png(np.asarray(picture))).decode("ascii")

"""From the files of a request to records: read within limits, predicted together with those of other requests."""

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

from bt_jax.common.messages import Sentence
from bt_jax.data.io import file_reader
from bt_jax.data.io.slices import UnreadableError
from bt_jax.inference import heat_map
from bt_jax.inference.predictor import Prediction, Prepared
from bt_jax.serve import i18n
from bt_jax.serve.batching import BusyError
from bt_jax.serve.engine import Engine
from bt_jax.serve.settings import Settings

_TOGETHER = 16  # slices of a request that are read, and then predicted, at a time
_LONGEST_SIDE = 640  # pixels of the pictures in an answer
_MOST_DOUBT = 1e6  # what is farther off, or not a number at all, is said to be so far
_MOST_DECODING = 4


class RefusedError(Exception):
    """A request that is not answered as asked.

    Args:
      status: of HTTP.
      reason: for a person.
    """

    def __init__(self, status: int, reason: Sentence):
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a request asks for besides predictions.

    Attributes:
      language: of warnings and errors.
      number: the only slice that is wanted, from 1; None are all.
      picture: whether to show the slice.
      explain: a method of `gradcam`; None for no heat map.
      label: the class to explain; None is the one predicted.
    """

    language: str = "en"
    number: int | None = None
    picture: bool = False
    explain: str | None = None
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class Upload:
    """A file of a request: its name, which is never opened but only said again, and its content."""

    name: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class _Item:
    """A slice of a file, or why there is none."""

    path: str
    number: int | None
    content: Prepared | str
    alone: bool  # the only one of its file that is wanted


class Api:
    """Answers the files of requests.

    Args:
      engine: that predicts.
      settings: the limits.
    """

    def __init__(self, engine: Engine, settings: Settings):
        self._engine, self._settings, self._limits = engine, settings, settings.of_files()
        self._decoding = threading.BoundedSemaphore(min(os.cpu_count() or 1, _MOST_DECODING))

    def records(self, uploads: Sequence[Upload], wishes: Wishes) -> list[dict[str, Any]]:
        """A record for each slice, and for each file that cannot be read, in their order.

        Raises:
          BusyError: too much to do.
        """
        deadline = time.monotonic() + self._settings.seconds
        items = (item for upload in uploads for item in self._items(upload, wishes))
        answered: list[dict[str, Any]] = []
        while part := self._read(items, deadline):
            answered += self._answered(part, wishes, deadline=deadline, patient=bool(answered))
        return answered

    def _read(self, items: Iterator[_Item], deadline: float) -> list[_Item]:
        """The next slices. Few are decoded at the same time, since each may take much memory."""
        if not self._decoding.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise BusyError(1)
        try:
            return list(itertools.islice(items, _TOGETHER))
        finally:
            self._decoding.release()

    def _items(self, upload: Upload, wishes: Wishes) -> Iterator[_Item]:
        """The slices of a file that are wanted."""
        name, count = upload.name, 0
        try:
            for count, slice_ in enumerate(file_reader.read_slices(upload.content, limits=self._limits), 1):
                if wishes.number not in (None, count):
                    continue
                prepared = self._engine.predictor.prepare(slice_)
                alone = slice_.number is None or wishes.number is not None
                if alone and (wishes.picture or wishes.explain):
                    prepared = dataclasses.replace(prepared, origin=slice_.image)
                yield _Item(
                    name if slice_.number is None else f"{name}#{slice_.number}", slice_.number, prepared, alone
                )
                if wishes.number is not None:
                    return
        except UnreadableError as error:
            yield _Item(name, None, error.reason, True)
        except MemoryError:
            yield _Item(name, None, Sentence("memory", "it needs more memory than there is"), True)
        else:
            if wishes.number is not None:
                text = "it has no slice {number}: {count} are there"
                yield _Item(name, None, Sentence("no_such_slice", text, number=wishes.number, count=count), True)

    def _answered(
        self, items: list[_Item], wishes: Wishes, *, deadline: float, patient: bool
    ) -> Iterator[dict[str, Any]]:
        slices = [item.content for item in items if isinstance(item.content, Prepared)]
        predictions = iter(self._engine.predict(slices, deadline=deadline, patient=patient) if slices else ())
        for item in items:
            if isinstance(item.content, Prepared):
                prediction = next(predictions)
                pictures = self._pictures(item.content, prediction, wishes, deadline) if item.alone else {}
                yield record_of(item.path, item.number, prediction, wishes.language) | pictures
            else:
                yield failure_of(item.path, item.content, wishes.language)

    def _pictures(self, prepared: Prepared, prediction: Prediction, wishes: Wishes, deadline: float) -> dict[str, Any]:
        """The slice and its heat map, as far as they are wished for."""
        image, made = prepared.origin, dict[str, Any]()
        if image is None:
            return made
        if wishes.picture:
            made["picture"] = _png(_reduced(Image.fromarray(heat_map.on_screen(image))))
        if wishes.explain:
            label = wishes.label or prediction.label
            found = self._engine.explain(image, label=label, method=wishes.explain, deadline=deadline)
            small = np.asarray(_reduced(Image.fromarray(found.heat)))
            made["heat_map"] = {
                "class": found.label,
                "method": found.method,
                "empty": not found.heat.any(),
                "picture": _png(Image.fromarray(heat_map.layer(small))),
            }
        return made


def record_of(path: str, number: int | None, prediction: Prediction, spoken: str) -> dict[str, Any]:
    """A prediction as `bt_jax.predict` writes it, with what a program would ask for besides."""
    doubt = prediction.doubt
    return {
        "path": path,
        "prediction": prediction.label,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
        "warnings": [i18n.told(warning, spoken) for warning in prediction.warnings],
        "slice": number,
        "doubt": None if doubt is None else min(doubt, _MOST_DOUBT) if doubt == doubt else _MOST_DOUBT,
        "codes": [i18n.parts(warning) for warning in prediction.warnings],
    }


def failure_of(path: str, reason: str, spoken: str) -> dict[str, Any]:
    """The record of a file that cannot be read."""
    return {"path": path, "error": i18n.told(reason, spoken), **i18n.parts(reason)}


def _reduced(picture: Image.Image) -> Image.Image:
    """No larger than a page needs."""
    scale = _LONGEST_SIDE / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BOX)


def _png(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(heat_map.png(np.asarray(picture))).decode("ascii")

"""Streaming prediction: from files to records in input order, in memory that does not grow with the number of files."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from bt_jax.data.io import file_reader
from bt_jax.data.io.slices import Limits, UnreadableError
from bt_jax.inference.inputs import Input, describe_error
from bt_jax.inference.predictor import Prediction, Predictor, PreparedSlice, choose_rows

# Files are prepared ahead up to so many slices; files with more bytes are not prepared ahead at all.
_EAGER_SLICES = 16
_EAGER_BYTES = 2**24
_MOST_THREADS = 8  # an image at the pixel limit takes half a gigabyte while it is decoded
_MOST_RECORDS = 4  # records per batch, errors included, as a multiple of the batch size
_IN_FLIGHT = 4  # files per thread that are being prepared or wait for their turn


@dataclasses.dataclass(frozen=True)
class PredictionRecord:
    """The result for a slice or a file: a prediction, or the reason why there is none.

    Attributes:
      path: of the file; `path#number` for a slice of a file with several.
      outcome: a prediction, or an error message.
    """

    path: str
    outcome: Prediction | str

    @property
    def failed(self) -> bool:
        """Whether it is an error."""
        return isinstance(self.outcome, str)

    def to_dict(self) -> dict[str, Any]:
        """Converts the record to plain values for JSON."""
        if isinstance(self.outcome, str):
            return {"path": self.path, "error": self.outcome}
        return {
            "path": self.path,
            "prediction": self.outcome.label,
            "confidence": self.outcome.confidence,
            "probabilities": self.outcome.probabilities,
            "warnings": list(self.outcome.warnings),
        }

    def to_row(self, class_names: Iterable[str]) -> list[Any]:
        """Converts the record to a row of a CSV table with the columns of `make_csv_header`."""
        if isinstance(self.outcome, str):
            return [self.path, "", "", *("" for _ in class_names), "", self.outcome]
        probabilities = [self.outcome.probabilities[name] for name in class_names]
        return [
            self.path, self.outcome.label, self.outcome.confidence, *probabilities, " ".join(self.outcome.warnings), ""
        ]  # fmt: skip


def make_csv_header(class_names: Iterable[str]) -> list[str]:
    """Returns the columns of a CSV table of records."""
    return ["path", "prediction", "confidence", *class_names, "warnings", "error"]


# A path, and its slice or the reason why it cannot be read.
_Item = tuple[str, PreparedSlice | str]
# Called for every prediction with path, slice and prediction.
Listener = Callable[[str, PreparedSlice, Prediction], None]


def predict(
    inputs: Iterable[Input],
    predictor: Predictor,
    *,
    batch_size: int = 32,
    threads: int | None = None,
    limits: Limits | None = None,
    listener: Listener | None = None,
) -> Iterator[list[PredictionRecord]]:
    """Predicts files and yields their records in order, one batch at a time as soon as it is computed.

    Args:
      inputs: the files.
      predictor: the predictor.
      batch_size: slices per step; a first batch with fewer slices uses a smaller step.
      threads: number of threads that read and preprocess; None uses one per core, at most 8.
      limits: on the size of a file and its images.
      listener: called for every prediction before its record is yielded; the slices then keep their `origin`.
    """
    rows, batch, slices = 0, list[_Item](), 0
    threads = threads or min(os.cpu_count() or 1, _MOST_THREADS)
    reader = _FileReader(predictor, limits or Limits(), keeps_origin=listener is not None)
    with contextlib.closing(_prepare_ahead(inputs, reader, threads=threads)) as items:
        for item in items:
            batch.append(item)
            slices += not isinstance(item[1], str)
            if slices == batch_size or len(batch) == _MOST_RECORDS * batch_size:
                rows = batch_size
                yield _make_records(batch, predictor, rows, listener)
                batch, slices = [], 0
    if batch:
        yield _make_records(batch, predictor, rows or choose_rows(slices, batch_size=batch_size), listener)


def _make_records(
    batch: list[_Item], predictor: Predictor, rows: int, listener: Listener | None
) -> list[PredictionRecord]:
    predictions = iter(predictor.predict([content for _, content in batch if not isinstance(content, str)], rows=rows))
    records = []
    for path, content in batch:
        outcome = content if isinstance(content, str) else next(predictions)
        if listener and not isinstance(content, str) and not isinstance(outcome, str):
            listener(path, content, outcome)
        records.append(PredictionRecord(path, outcome))
    return records


def _prepare_ahead(inputs: Iterable[Input], reader: "_FileReader", *, threads: int) -> Generator[_Item, None, None]:
    """Yields the slices of all files in order, prepared ahead by threads."""
    waiting: collections.deque[concurrent.futures.Future[Iterator[_Item]] | Iterator[_Item]] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        for file in itertools.chain(inputs, itertools.repeat(None)):
            if file is None:
                if not waiting:
                    return
            elif file.size > _EAGER_BYTES:
                waiting.append(reader.read_lazily(file))
            else:
                waiting.append(pool.submit(reader.start, file))
            if file is None or len(waiting) >= threads * _IN_FLIGHT:
                first = waiting.popleft()
                yield from first.result() if isinstance(first, concurrent.futures.Future) else first
    finally:
        pool.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class _FileReader:
    """Reads files and preprocesses their slices."""

    predictor: Predictor
    limits: Limits
    keeps_origin: bool

    def start(self, file: Input) -> Iterator[_Item]:
        """Reads a file and preprocesses its first slices, unless that takes much memory."""
        try:
            content = file.read(self.limits.file_bytes + 1)
        except (OSError, UnreadableError) as error:
            return iter([(file.name, describe_error(error))])
        items = self._prepare_slices(file.name, content)
        if file_reader.is_compressed(content):
            return items
        return itertools.chain(list(itertools.islice(items, _EAGER_SLICES)), items)

    def read_lazily(self, file: Input) -> Iterator[_Item]:
        """Yields the slices of a file, each read and preprocessed on demand."""
        try:
            content = file.read(self.limits.file_bytes + 1)
        except (OSError, UnreadableError) as error:
            yield file.name, describe_error(error)
        else:
            yield from self._prepare_slices(file.name, content)

    def _prepare_slices(self, name: str, content: bytes) -> Iterator[_Item]:
        try:
            for slice_ in file_reader.read_slices(content, limits=self.limits):
                prepared = self.predictor.prepare(slice_)
                if self.keeps_origin:
                    prepared = dataclasses.replace(prepared, origin=slice_.image)
                yield (name if slice_.number is None else f"{name}#{slice_.number}"), prepared
        except UnreadableError as error:
            yield name, str(error)
        except MemoryError:
            yield name, "there is not enough memory to read it"

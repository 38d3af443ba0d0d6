"""Records of files: their order, their number, and that few of them are in memory."""

import threading
import weakref

import numpy as np
import pytest

from bt_jax.data.io import file_reader
from bt_jax.data.io.slices import Limits, Slice, UnreadableError
from bt_jax.inference import stream
from bt_jax.inference.inputs import Input
from bt_jax.inference.predictor import Prediction, PreparedSlice
from tests import hostile_inputs, medical_files


class Counting:
    """A predictor that answers with the mean grey value of a slice and counts what it is asked for."""

    class_names = ("dark", "light")

    def __init__(self):
        self.batches, self.rows = [], []
        self.alive = self.most_alive = 0
        self.lock = threading.Lock()

    def prepare(self, slice_: Slice) -> PreparedSlice:
        prepared = PreparedSlice((np.asarray(slice_.image[:1, :1]),), slice_.warnings)
        with self.lock:
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(prepared, self.gone)
        return prepared

    def gone(self) -> None:
        with self.lock:
            self.alive -= 1

    def predict(self, slices, *, rows: int):
        self.batches.append(len(slices))
        self.rows.append(rows)
        return [Prediction("dark", float(s.images[0][0, 0]), {"dark": 1.0, "light": 0.0}, s.warnings) for s in slices]


def file(number: int) -> Input:
    """A small image whose only grey value is its number; every seventh is broken."""
    content = b"nothing" if number % 7 == 3 else b"P5 2 2 255\n" + bytes([number % 256]) * 4
    return Input(f"{number}.png", len(content), lambda most: content)


def outcomes(inputs, predictor, **options) -> list[str | float]:
    batches = list(stream.predict(inputs, predictor, **options))
    return [r.outcome if r.failed else r.outcome.confidence for batch in batches for r in batch]


def test_records_come_in_the_order_of_the_files_and_errors_among_them():
    predictor = Counting()
    found = outcomes((file(number) for number in range(100)), predictor, batch_size=8, threads=3)
    expected = ["not an image in a known format" if n % 7 == 3 else float(n) for n in range(100)]
    assert found == expected
    assert predictor.batches[:-1] == [8] * (len(predictor.batches) - 1)
    assert set(predictor.rows) == {8}


def test_few_slices_make_a_small_step():
    for count, rows in ((1, 1), (2, 8), (9, 32), (33, 32)):
        predictor = Counting()
        outcomes((file(number * 7) for number in range(count)), predictor, batch_size=32)
        assert set(predictor.rows) == {rows}


def test_memory_does_not_grow_with_the_number_of_files():
    predictor = Counting()
    opened = []

    def many():
        for number in range(3000):
            opened.append(number)
            yield file(number)

    batches = stream.predict(many(), predictor, batch_size=4, threads=2)
    next(batches)
    assert len(opened) < 30
    for _ in batches:
        pass
    assert len(opened) == 3000
    assert predictor.most_alive < 40


def test_errors_alone_come_out_too():
    predictor = Counting()
    batches = stream.predict((file(3) for _ in range(100)), predictor, batch_size=4)
    assert [len(batch) for batch in batches] == [16] * 6 + [4]


def test_slices_of_a_volume_are_numbered_and_made_when_their_turn_has_come():
    frames = np.arange(60, dtype=np.uint8)[:, None, None] * np.ones((1, 9, 9), np.uint8)
    content = medical_files.dicom(frames, frames=60)
    predictor = Counting()
    files = [file(1), Input("scan.dcm", len(content), lambda most: content), file(2)]
    batches = stream.predict(files, predictor, batch_size=4, threads=1)
    records = next(batches)
    assert predictor.most_alive < 30
    records += [record for batch in batches for record in batch]
    assert [record.path for record in records] == ["1.png", *(f"scan.dcm#{k}" for k in range(1, 61)), "2.png"]
    assert [record.outcome.confidence for record in records[1:-1]] == list(range(60))


def test_a_volume_that_ends_early_keeps_its_first_slices():
    frames = np.stack([hostile_inputs.scan()] * 3)
    whole = hostile_inputs._encapsulated(frames[0], "1.2.840.10008.1.2.5", hostile_inputs._run_lengths(frames[0]))
    content = whole.replace(b"(\x00\x10\x00US", b"(\x00\x08\x00IS\x02\x003 (\x00\x10\x00US")
    predictor = Counting()
    (batch,) = stream.predict([Input("scan.dcm", 9, lambda most: content)], predictor)
    assert [record.path for record in batch] == ["scan.dcm#1", "scan.dcm"]
    assert "DICOM file is" in batch[1].outcome


def test_large_and_packed_files_wait_for_their_turn(monkeypatch):
    """They are not read, or not unpacked, beside each other."""
    predictor, reading_now, most = Counting(), [], []
    packed = medical_files.nifti(np.zeros((4, 4, 3), np.uint8), packed=True)
    original = file_reader.read_slices

    def watched(content, *, limits):
        reading_now.append(1)
        most.append(len(reading_now))
        yield from original(content, limits=limits)
        reading_now.pop()

    monkeypatch.setattr(file_reader, "read_slices", watched)
    inputs = [Input(f"{k}.nii.gz", len(packed), lambda most: packed) for k in range(20)]
    large = [Input(f"{k}.nii", 2**30, lambda most: packed) for k in range(20)]
    assert len(outcomes([*inputs, *large], predictor, threads=4)) == 120
    assert max(most) == 1


def test_reasons_of_the_system_and_limits():
    def denied(most):
        raise PermissionError(13, "Permission denied", "/secret/place")

    def gone(most):
        raise UnreadableError("there is no such file or folder")

    inputs = [Input("a", 0, denied), Input("b", 2**30, denied), Input("c", 0, gone), file(1)]
    found = outcomes(inputs, Counting(), limits=Limits(file_bytes=5))
    assert found == ["permission denied"] * 2 + [
        "there is no such file or folder",
        "15 bytes are more than the limit of 5",
    ]


def test_stopping_early_leaves_no_thread_behind():
    before = threading.active_count()
    batches = stream.predict((file(n) for n in range(1000)), Counting(), batch_size=2, threads=3)
    next(batches)
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("outcome", ["broken", Prediction("dark", 0.75, {"dark": 0.75, "light": 0.25}, ("A.", "B."))])
def test_a_record_as_json_and_csv(outcome):
    record = stream.PredictionRecord("a.png", outcome)
    header = stream.make_csv_header(Counting.class_names)
    row = dict(zip(header, record.to_row(Counting.class_names), strict=True))
    if record.failed:
        assert record.to_dict() == {"path": "a.png", "error": "broken"}
        assert {name: value for name, value in row.items() if value} == {"path": "a.png", "error": "broken"}
    else:
        assert record.to_dict() == {
            "path": "a.png", "prediction": "dark", "confidence": 0.75,
            "probabilities": {"dark": 0.75, "light": 0.25}, "warnings": ["A.", "B."],
        }  # fmt: skip
        assert row == {
            "path": "a.png", "prediction": "dark", "confidence": 0.75, "dark": 0.75, "light": 0.25,
            "warnings": "A. B.", "error": "",
        }  # fmt: skip

"""Steps of whatever waits: their size, order and limits."""

import threading
import time

import pytest

from bt_jax.serve.batching import Batcher, BusyError


class Worker:
    """Doubles numbers, when it is let, and notes its steps."""

    def __init__(self, *, most: int = 4, capacity: int = 8):
        self.steps: list[list[int]] = []
        self.let = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.batcher = Batcher(self.run, most=lambda: most, capacity=capacity, name="worker")

    def run(self, work: list[int]) -> list[int]:
        self.steps.append(work)
        self.begun.release()
        assert self.let.acquire(timeout=20)
        if 13 in work:
            raise ValueError("unlucky")
        return [2 * one for one in work]

    def close(self) -> None:
        for _ in range(100):
            self.let.release()
        self.batcher.close()
        with pytest.raises(BusyError):
            self.batcher.submit([1], deadline=soon())


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.close()


def soon(seconds: float = 20) -> float:
    return time.monotonic() + seconds


def submitting(worker: Worker, work: list[int], answers: dict, **options) -> threading.Thread:
    def submit() -> None:
        try:
            answers[tuple(work)] = worker.batcher.submit(work, **{"deadline": soon(), **options})
        except Exception as error:
            answers[tuple(work)] = error

    thread = threading.Thread(target=submit)
    thread.start()
    return thread


def until(condition) -> None:
    end = soon()
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_what_waits_during_a_step_goes_into_the_next(worker):
    answers: dict = {}
    threads = [submitting(worker, [1], answers)]
    worker.begun.acquire()  # the first is never kept waiting for company
    for number in range(2, 8):
        threads.append(submitting(worker, [number], answers))
        until(lambda number=number: len(worker.batcher) == number - 1)
    for _ in range(3):
        worker.let.release()
    for thread in threads:
        thread.join(20)
    assert worker.steps == [[1], [2, 3, 4, 5], [6, 7]]
    assert answers == {(number,): [2 * number] for number in range(1, 8)}
    assert (worker.batcher.steps, worker.batcher.pieces) == (3, 7)


def test_a_request_of_many_pieces_is_answered_in_their_order(worker):
    for _ in range(2):
        worker.let.release()
    assert worker.batcher.submit([5, 3, 9, 1, 7], deadline=soon()) == [10, 6, 18, 2, 14]
    assert worker.steps == [[5, 3, 9, 1], [7]]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(worker):
    answers: dict = {}
    threads = [submitting(worker, [1], answers)]
    worker.begun.acquire()
    threads.append(submitting(worker, list(range(20, 28)), answers))
    until(lambda: len(worker.batcher) == 8)
    begin = time.monotonic()
    with pytest.raises(BusyError) as caught:
        worker.batcher.submit([2], deadline=soon())
    assert time.monotonic() - begin < 5
    assert 1 <= caught.value.retry_after <= 30
    # Whoever has been answered in part waits for room.
    threads.append(submitting(worker, [3], answers, patient=True))
    for _ in range(4):
        worker.let.release()
    for thread in threads:
        thread.join(20)
    assert answers[3,] == [6]


def test_what_comes_too_late_is_not_done_any_more(worker):
    answers: dict = {}
    thread = submitting(worker, [1], answers)
    worker.begun.acquire()
    with pytest.raises(BusyError):
        worker.batcher.submit([2], deadline=soon(0.05))
    with pytest.raises(BusyError):
        worker.batcher.submit([3], deadline=soon(-1))
    for _ in range(2):
        worker.let.release()
    thread.join(20)
    assert worker.batcher.submit([4], deadline=soon()) == [8]
    assert worker.steps == [[1], [4]]


def test_an_error_reaches_those_in_its_step_and_no_others(worker):
    for _ in range(3):
        worker.let.release()
    with pytest.raises(ValueError, match="unlucky"):
        worker.batcher.submit([13, 1], deadline=soon())
    with pytest.raises(ValueError, match="unlucky"):
        worker.batcher.submit([13], deadline=soon())
    assert worker.batcher.submit([2], deadline=soon()) == [4]


def test_closing_answers_what_waits():
    worker, answers = Worker(), {}
    threads = [submitting(worker, [1], answers)]
    worker.begun.acquire()
    threads.append(submitting(worker, [2], answers))
    until(lambda: len(worker.batcher) == 1)
    worker.close()
    for thread in threads:
        thread.join(20)
    assert answers == {(1,): [2], (2,): [4]}

"""Dynamic batching: a bounded queue, from which a thread takes as much work as fits into one step."""

import collections
import concurrent.futures
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")

_LONGEST_WAIT = 30  # seconds, the upper limit of `retry_after`


class BusyError(Exception):
    """The queue is full, or the work was not done before its deadline.

    Args:
      retry_after: seconds to wait before the next attempt.
    """

    def __init__(self, retry_after: int):
        super().__init__(f"try again in {retry_after} s")
        self.retry_after = retry_after


class Batcher(Generic[Work, Result]):
    """Runs queued work in batches, first come, first served.

    While a step runs, new work queues for the next step. Steps are therefore full under load, and a single request
    never waits for others.

    Args:
      run: computes the results of a batch of work, in order; called in one thread.
      most: returns the largest batch; called before each step.
      capacity: number of pieces of work that may wait.
      name: of the thread.
    """

    def __init__(
        self,
        run: Callable[[list[Work]], Sequence[Result]],
        *,
        most: Callable[[], int],
        capacity: int,
        name: str,
    ):
        self._run, self._most, self.capacity = run, most, capacity
        self._waiting: collections.deque[tuple[Work, concurrent.futures.Future[Result]]] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.05  # per piece, a moving average over the last steps
        self.steps = self.pieces = 0
        self._thread = threading.Thread(target=self._run_steps, name=name)
        self._thread.start()

    def __len__(self) -> int:
        """Returns the number of waiting pieces."""
        return len(self._waiting)

    def submit(self, work: Sequence[Work], *, deadline: float, patient: bool = False) -> list[Result]:
        """Queues pieces of work and waits for their results.

        Args:
          work: at most `capacity` pieces.
          deadline: on the clock of `time.monotonic`.
          patient: whether to wait for room in the queue, as for the later parts of a request in progress.

        Raises:
          BusyError: the queue is full, or the deadline has passed; work that has not started by then is cancelled.
        """
        futures = self._enqueue(work, deadline=deadline, patient=patient)
        done, late = concurrent.futures.wait(
            futures, max(0.0, deadline - time.monotonic()), concurrent.futures.FIRST_EXCEPTION
        )
        if late and not any(future.exception() for future in done if not future.cancelled()):
            for future in late:
                future.cancel()
            raise self.make_busy_error()
        return [future.result() for future in futures]

    def close(self, *, seconds: float | None = None) -> None:
        """Finishes the waiting work, accepts no more, and joins the thread for at most `seconds`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _enqueue(
        self, work: Sequence[Work], *, deadline: float, patient: bool
    ) -> list[concurrent.futures.Future[Result]]:
        futures: list[concurrent.futures.Future[Result]] = [concurrent.futures.Future() for _ in work]
        with self._changed:
            while self._closed or len(self._waiting) + len(work) > self.capacity:
                left = deadline - time.monotonic()
                if self._closed or not patient or left <= 0:
                    raise self.make_busy_error()
                self._changed.wait(left)
            self._waiting.extend(zip(work, futures, strict=True))
            self._changed.notify_all()
        return futures

    def make_busy_error(self) -> BusyError:
        """Makes the error for a full queue; its `retry_after` estimates when the waiting work will be done."""
        return BusyError(min(_LONGEST_WAIT, 1 + math.ceil(len(self._waiting) * self._seconds)))

    def _run_steps(self) -> None:
        while batch := self._take_batch():
            begin = time.monotonic()
            try:
                results = self._run([work for work, _ in batch])
            except Exception as error:  # raised again in the threads that wait for the results
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    future.set_result(result)
            self.steps += 1
            self.pieces += len(batch)
            self._seconds += 0.2 * ((time.monotonic() - begin) / len(batch) - self._seconds)

    def _take_batch(self) -> list[tuple[Work, concurrent.futures.Future[Result]]]:
        """Waits for work and takes the next batch; empty once the queue is closed."""
        with self._changed:
            while True:
                batch = list[tuple[Work, concurrent.futures.Future[Result]]]()
                most = max(1, self._most())
                while self._waiting and len(batch) < most:
                    piece = self._waiting.popleft()
                    if piece[1].set_running_or_notify_cancel():
                        batch.append(piece)
                self._changed.notify_all()
                if batch or self._closed:
                    return batch
                self._changed.wait()

"""Work of many requests done in few steps: a bounded queue, from which a thread takes as much as fits into one step."""

import collections
import concurrent.futures
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")

_LONGEST_WAIT = 30  # seconds that anybody is asked to wait before the next try


class BusyError(Exception):
    """There is more to do than the server takes on, or it did not get to it in time.

    Args:
      retry_after: seconds after which it is worth to try again.
    """

    def __init__(self, retry_after: int):
        super().__init__(f"try again in {retry_after} s")
        self.retry_after = retry_after


class Batcher(Generic[Work, Result]):
    """Steps of whatever waits, in the order in which it came.

    While a step runs, others line up for the next one: under load steps are full, and a single request never waits for
    company.

    Args:
      run: results of some pieces of work, in their order; called in one thread.
      most: how many fit into a step; asked for before each.
      capacity: pieces that may wait.
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
        self._seconds = 0.05  # for one piece, on average over the last steps
        self.steps = self.pieces = 0
        self._thread = threading.Thread(target=self._run_steps, name=name)
        self._thread.start()

    def __len__(self) -> int:
        """How much waits."""
        return len(self._waiting)

    def submit(self, work: Sequence[Work], *, deadline: float, patient: bool = False) -> list[Result]:
        """Results of some pieces of work, waited for.

        Args:
          work: at most `capacity` pieces.
          deadline: on the clock of `time.monotonic`.
          patient: waits for room in the queue, as for the later parts of what has begun already.

        Raises:
          BusyError: no room in the queue, or no result before the deadline; what has not begun by then never will.
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
        """Finishes what waits, takes nothing more, and ends the thread; waits for that no longer than is said."""
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
        """What to tell whoever comes when there is too much to do: to come back when what waits now will be done."""
        return BusyError(min(_LONGEST_WAIT, 1 + math.ceil(len(self._waiting) * self._seconds)))

    def _run_steps(self) -> None:
        while batch := self._take_batch():
            begin = time.monotonic()
            try:
                results = self._run([work for work, _ in batch])
            except Exception as error:  # whoever waits for a result is told
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    future.set_result(result)
            self.steps += 1
            self.pieces += len(batch)
            self._seconds += 0.2 * ((time.monotonic() - begin) / len(batch) - self._seconds)

    def _take_batch(self) -> list[tuple[Work, concurrent.futures.Future[Result]]]:
        """What goes into the next step; nothing when there will be none any more."""
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

"""Traces training steps for XProf or TensorBoard's profiler: what the host and the devices did, and when."""

import contextlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax

from bt_jax.common.errors import UsageError

FOLDER = "profile"  # in a workdir


def parse(text: str) -> tuple[int, int] | None:
    """Parses `START:STOP`, steps counted from 0 without the last one, into a pair; returns None for an empty text.

    Raises:
      UsageError: the text is something else.
    """
    if not text:
        return None
    numbers = re.fullmatch(r"(\d+):(\d+)", str(text))
    if not numbers or int(numbers[1]) >= int(numbers[2]):
        raise UsageError(f"config.profile is {text!r}: use START:STOP, two steps counted from 0, such as 10:20")
    return int(numbers[1]), int(numbers[2])


class Profiler:
    """Traces the requested steps on the first process.

    A run that is resumed or ends among them traces those that it does.
    """

    def __init__(self, text: str, workdir: pathlib.Path, *, steps: int):
        """Checks the requested steps.

        Args:
          text: see `parse`.
          workdir: where the folder of the trace is made.
          steps: of the whole run.

        Raises:
          UsageError: no such steps.
        """
        self._span = parse(text)
        if self._span and self._span[1] > steps:
            raise UsageError(f"config.profile is {text!r}, but the run has {steps} steps: stop at {steps} or before")
        self._folder = workdir.absolute() / FOLDER
        self._running, self._last = False, -1

    @contextlib.contextmanager
    def trace_step(self, number: int) -> Iterator[None]:
        """Surrounds a step, from waiting for its batch to dispatching it."""
        if self._span is None or not self._span[0] <= number < self._span[1] or jax.process_index():
            yield
            return
        if not self._running:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # which would fill the trace with functions of the standard library
            jax.profiler.start_trace(str(self._folder), profiler_options=options)
            self._running = True
        self._last = number
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def stop_if_over(self, results: Any) -> None:
        """Stops the trace after its last step; waits for the results of that step."""
        if self._running and self._span and self._last + 1 == self._span[1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes the trace, if one is running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

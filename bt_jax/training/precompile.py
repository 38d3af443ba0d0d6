"""Compiles training steps ahead: a stage's while its features are computed, the next one's while it trains."""

import threading
import time
from collections.abc import Callable

import jax

from bt_jax.training.program_cache import compile_step
from bt_jax.training.stage_inputs import StageInputs
from bt_jax.training.stages import Stage
from bt_jax.training.train_state import TrainState
from bt_jax.training.train_step import StepFunction, TrainStep


class Programs:
    """The compiled steps of a run by the program of their stage, each compiled once.

    Args:
      step: the training step.
      inputs: what the stages train on.
      state: a state of the run; only its shapes and dtypes matter.
    """

    def __init__(self, step: TrainStep, inputs: StageInputs, state: TrainState):
        self._step, self._inputs, self._state = step, inputs, state
        self._threads: dict[int, threading.Thread] = {}
        self._done: dict[int, StepFunction | BaseException] = {}
        self._turn = threading.Lock()
        self.seconds: dict[int, float] = {}  # of compilation, by `Stage.program_segment`

    def start_ahead(self, stage: Stage) -> None:
        """Starts to compile a stage's step beside other work, unless that is under way or done.

        On a GPU it does nothing: the compiler times kernels there, which takes the device's time, and other work
        spoils what it measures (https://github.com/openxla/xla/issues/41399).
        """
        if jax.default_backend() != "gpu":
            self._start(stage)

    def _start(self, stage: Stage) -> None:
        if stage.program_segment not in self._threads:
            # No daemon: a compiler that comes back to a finalized interpreter aborts the process (SIGABRT). Commands
            # that are told to stop do not wait for it either: see cli.run.
            self._threads[stage.program_segment] = threading.Thread(target=self._compile, args=(stage,))
            self._threads[stage.program_segment].start()

    def get(self, stage: Stage, *, interrupted: Callable[[], bool] = lambda: False) -> StepFunction | None:
        """Returns a stage's compiled step, and waits for it if need be; None when `interrupted` became true before."""
        self._start(stage)
        while self._threads[stage.program_segment].is_alive():
            if interrupted():
                return None
            self._threads[stage.program_segment].join(0.1)
        result = self._done[stage.program_segment]
        if isinstance(result, BaseException):
            raise result
        return result

    def _compile(self, stage: Stage) -> None:
        with self._turn:  # one at a time
            begin = time.monotonic()
            try:
                batch = self._inputs.describe_batch(stage)
                self._done[stage.program_segment] = compile_step(self._step, stage, self._state, batch)
            except BaseException as error:  # raised where the program is asked for
                self._done[stage.program_segment] = error
            self.seconds[stage.program_segment] = time.monotonic() - begin

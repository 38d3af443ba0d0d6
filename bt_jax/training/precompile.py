"""Compiled programs, made ahead in the background: the next stage's compiles while the current one trains."""

import threading
import time
from collections.abc import Callable
from typing import Any

Program = Callable[..., Any]


class Programs:
    """Programs by key, each compiled once.

    Args:
      compile_one: key -> compiled program; called in a thread, one at a time.
    """

    def __init__(self, compile_one: Callable[[int], Program]):
        self._compile_one = compile_one
        self._threads: dict[int, threading.Thread] = {}
        self._done: dict[int, Program | BaseException] = {}
        self._turn = threading.Lock()
        self.seconds: dict[int, float] = {}  # of compilation, by key

    def start(self, key: int) -> None:
        """Begins to compile in the background, unless that is under way or done."""
        if key not in self._threads:
            # No daemon: a compiler that comes back to a finalized interpreter aborts the process (SIGABRT). Commands
            # that are told to stop do not wait for it either: see commandline.run.
            self._threads[key] = threading.Thread(target=self._compile, args=(key,))
            self._threads[key].start()

    def _compile(self, key: int) -> None:
        with self._turn:
            begin = time.monotonic()
            try:
                self._done[key] = self._compile_one(key)
            except BaseException as error:  # raised where the program is asked for
                self._done[key] = error
            self.seconds[key] = time.monotonic() - begin

    def get(self, key: int, *, give_up: Callable[[], bool] = lambda: False) -> Program | None:
        """The compiled program, waited for if need be; None when `give_up` became true before."""
        self.start(key)
        while self._threads[key].is_alive():
            if give_up():
                return None
            self._threads[key].join(0.1)
        result = self._done[key]
        if isinstance(result, BaseException):
            raise result
        return result

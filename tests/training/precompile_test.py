import threading
import time

import jax
import pytest

from bt_jax.training.precompile import Programs
from bt_jax.training.stages import Stage


class Compiler:
    """Stands for the training step and for the inputs: compiles when it is allowed to."""

    def __init__(self, *, allowed: bool = True):
        self.allowed = threading.Event()
        if allowed:
            self.allowed.set()
        self.begun: list[int] = []
        self.threads: set[int] = set()
        self.at_once = 0
        self.most_at_once = 0

    def describe_batch(self, stage: Stage):
        return {"segment": stage.program_segment}

    def compile(self, stage: Stage, state: str, batch: dict[str, int]):
        key = stage.program_segment
        assert (state, batch) == ("a state", {"segment": key})
        self.begun.append(key)
        self.threads.add(threading.get_ident())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.allowed.wait(20)
        time.sleep(0.005)
        self.at_once -= 1
        if key < 0:
            raise ArithmeticError(f"no program {key}")
        return lambda x: x * key


def programs_of(compiler: Compiler) -> Programs:
    return Programs(compiler, compiler, "a state")


def stage(segment: int) -> Stage:
    return Stage(number=1, first_segment=segment, program_segment=segment, learning_rate=1e-3, steps=1, first_step=0)


def test_a_program_is_compiled_once():
    compiler = Compiler()
    programs = programs_of(compiler)
    program = programs.get(stage(3))
    assert program is not None and program(5) == 15
    programs.start_ahead(stage(3))
    assert programs.get(stage(3)) is program
    assert compiler.begun == [3]


def test_a_program_is_compiled_in_the_background():
    compiler = Compiler(allowed=False)
    programs = programs_of(compiler)
    programs.start_ahead(stage(2))
    programs.start_ahead(stage(2))
    assert 2 not in programs.seconds
    compiler.allowed.set()
    program = programs.get(stage(2))
    assert program is not None and program(1) == 2
    assert compiler.begun == [2] and threading.get_ident() not in compiler.threads
    assert programs.seconds[2] > 0


def test_one_at_a_time():
    compiler = Compiler()
    programs = programs_of(compiler)
    for key in range(1, 6):
        programs.start_ahead(stage(key))
    assert all(programs.get(stage(key)) is not None for key in range(1, 6))
    assert sorted(compiler.begun) == [1, 2, 3, 4, 5] and compiler.most_at_once == 1
    assert programs.seconds.keys() == {1, 2, 3, 4, 5}


def test_an_error_is_raised_where_the_program_is_asked_for():
    programs = programs_of(Compiler())
    programs.start_ahead(stage(-1))
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="no program -1"):
            programs.get(stage(-1))
    other = programs.get(stage(4))
    assert other is not None and other(2) == 8, "one that fails does not stop the others"


def test_giving_up():
    compiler = Compiler(allowed=False)
    programs = programs_of(compiler)
    asked = 0

    def interrupted() -> bool:
        nonlocal asked
        asked += 1
        return asked >= 3

    begin = time.monotonic()
    assert programs.get(stage(1), interrupted=interrupted) is None
    assert asked == 3 and time.monotonic() - begin < 5
    compiler.allowed.set()
    program = programs.get(stage(1), interrupted=lambda: False)
    assert program is not None and compiler.begun == [1]


def test_on_a_gpu_nothing_is_compiled_before_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compiler = Compiler()
    programs = programs_of(compiler)
    programs.start_ahead(stage(1))
    assert compiler.begun == []
    assert programs.get(stage(1)) is not None and compiler.begun == [1]


def test_a_program_that_is_there_is_given_even_to_one_who_would_interrupted():
    programs = programs_of(Compiler())
    programs.get(stage(1))
    assert programs.get(stage(1), interrupted=lambda: True) is not None

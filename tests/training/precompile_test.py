import threading
import time

import pytest

from bt_jax.training.precompile import Programs


class Compiler:
    """Compiles when it is allowed to."""

    def __init__(self, *, allowed: bool = True):
        self.allowed = threading.Event()
        if allowed:
            self.allowed.set()
        self.begun: list[int] = []
        self.threads: set[int] = set()
        self.at_once = 0
        self.most_at_once = 0

    def __call__(self, key: int):
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


def test_a_program_is_compiled_once():
    compiler = Compiler()
    programs = Programs(compiler)
    program = programs.get(3)
    assert program is not None and program(5) == 15
    programs.start(3)
    assert programs.get(3) is program
    assert compiler.begun == [3]


def test_start_compiles_in_the_background():
    compiler = Compiler(allowed=False)
    programs = Programs(compiler)
    programs.start(2)
    programs.start(2)
    assert 2 not in programs.seconds
    compiler.allowed.set()
    program = programs.get(2)
    assert program is not None and program(1) == 2
    assert compiler.begun == [2] and threading.get_ident() not in compiler.threads
    assert programs.seconds[2] > 0


def test_one_at_a_time():
    compiler = Compiler()
    programs = Programs(compiler)
    for key in range(1, 6):
        programs.start(key)
    assert all(programs.get(key) is not None for key in range(1, 6))
    assert sorted(compiler.begun) == [1, 2, 3, 4, 5] and compiler.most_at_once == 1
    assert programs.seconds.keys() == {1, 2, 3, 4, 5}


def test_an_error_is_raised_where_the_program_is_asked_for():
    programs = Programs(Compiler())
    programs.start(-1)
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="no program -1"):
            programs.get(-1)
    other = programs.get(4)
    assert other is not None and other(2) == 8, "one that fails does not stop the others"


def test_giving_up():
    compiler = Compiler(allowed=False)
    programs = Programs(compiler)
    asked = 0

    def give_up() -> bool:
        nonlocal asked
        asked += 1
        return asked >= 3

    begin = time.monotonic()
    assert programs.get(1, give_up=give_up) is None
    assert asked == 3 and time.monotonic() - begin < 5
    compiler.allowed.set()
    program = programs.get(1, give_up=lambda: False)
    assert program is not None and compiler.begun == [1]


def test_a_program_that_is_there_is_given_even_to_one_who_would_give_up():
    programs = Programs(Compiler())
    programs.get(1)
    assert programs.get(1, give_up=lambda: True) is not None

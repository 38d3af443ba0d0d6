import time

import pytest

from bt_jax.training import watchdog
from bt_jax.training.watchdog import Watchdog


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    found = Clock()
    monkeypatch.setattr(watchdog, "time", found)
    monkeypatch.setattr(watchdog.threading.Thread, "start", lambda self: None)
    return found


def steps(dog, clock, count, *, seconds=1.0):
    for number in range(count):
        with dog.watch_step(number):
            clock.now += seconds
        dog.note_fetch()


def test_a_step_that_takes_many_times_the_usual_is_told_of_and_again_later(tmp_path, clock):
    dog = Watchdog(times=30, folder=tmp_path, warn=print)
    steps(dog, clock, 10)
    with dog.watch_step(11):
        clock.now += 30
        assert dog.describe_overdue() is None
        clock.now += 1
        line = dog.describe_overdue()
        assert line is not None
        assert line.startswith("warning: step 11 has been under way for 31 s, 31 times the usual 1 s: ")
        assert line.endswith(f"the stacks of all threads are in {tmp_path / 'stacks.txt'}")
        clock.now += 31
        assert dog.describe_overdue() is None
        clock.now += 1
        assert dog.describe_overdue() is not None
    assert dog.describe_overdue() is None


def test_steps_that_are_sent_off_ahead_count_by_the_fetches(tmp_path, clock):
    """Nine steps return at once, the tenth waits for all."""
    dog = Watchdog(times=30, folder=tmp_path, warn=print, least=1)
    for _ in range(3):
        for number in range(10):
            with dog.watch_step(number):
                clock.now += 0.001 if number < 9 else 10
        dog.note_fetch()
    with dog.watch_step(31):
        clock.now += 29
        assert dog.describe_overdue() is None
        clock.now += 3
        assert "the usual 1 s" in (dog.describe_overdue() or "")


def test_nothing_is_too_long_before_the_usual_is_known_or_where_it_is_off(tmp_path, clock):
    dog = Watchdog(times=30, folder=tmp_path, warn=print)
    with dog.watch_step(1):
        clock.now += 10_000
        assert dog.describe_overdue() is None
    off = Watchdog(times=0, folder=tmp_path, warn=print)
    steps(off, clock, 3)
    with off.watch_step(4):
        clock.now += 10_000
        assert off.describe_overdue() is None


def test_short_stops_are_nothing(tmp_path, clock):
    dog = Watchdog(times=30, folder=tmp_path, warn=print)
    steps(dog, clock, 5, seconds=0.01)
    with dog.watch_step(6):
        clock.now += 29  # thousands of times the usual
        assert dog.describe_overdue() is None


def test_the_thread_warns_and_writes_where_all_threads_are(tmp_path):
    lines: list[str] = []
    dog = Watchdog(times=5, folder=tmp_path, warn=lines.append, least=0.2)
    for number in range(3):
        with dog.watch_step(number):
            time.sleep(0.01)
        dog.note_fetch()
    with dog.watch_step(4):
        deadline = time.monotonic() + 20
        while not lines and time.monotonic() < deadline:
            time.sleep(0.01)
    dog.close()
    assert "step 4 has been under way" in lines[0]
    stacks = (tmp_path / "stacks.txt").read_text()
    assert stacks.startswith(lines[0]) and "watchdog_test.py" in stacks

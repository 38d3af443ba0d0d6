import time

import pytest

from bt_jax.common import waiting


def test_a_short_wait_says_nothing():
    lines: list[str] = []
    with waiting.report("reading", say=lines.append):
        pass
    assert lines == []


def test_a_long_wait_says_what_it_waits_for_again_and_again():
    lines: list[str] = []
    with waiting.report("reading", say=lines.append, first=0.01, every=0.01):
        while len(lines) < 3:
            time.sleep(0.01)
    count = len(lines)
    assert set(lines) == {"reading: 0 s so far"}
    time.sleep(0.05)
    assert len(lines) == count  # no line after the block


def test_the_text_may_change():
    done, lines = [0], []
    with waiting.report(lambda: f"{done[0]} images read", say=lines.append, first=0.01, every=0.01):
        while not lines:
            time.sleep(0.01)
        done[0] = 7
        while not lines[-1].startswith("7"):
            time.sleep(0.01)
    assert lines[0] == "0 images read: 0 s so far"


def test_an_error_ends_the_lines():
    lines: list[str] = []
    with pytest.raises(ValueError, match="broken"), waiting.report("reading", say=lines.append, first=0.01, every=0.01):
        raise ValueError("broken")
    count = len(lines)
    time.sleep(0.05)
    assert len(lines) == count


def test_a_reader_that_has_gone_does_not_matter():
    def say(line: str) -> None:
        raise BrokenPipeError

    with waiting.report("reading", say=say, first=0.001, every=0.001):
        time.sleep(0.02)


def test_lines_go_to_the_standard_error(capsys):
    with waiting.report("reading", first=0.01, every=10):
        time.sleep(0.1)
    assert capsys.readouterr() == ("", "reading: 0 s so far\n")

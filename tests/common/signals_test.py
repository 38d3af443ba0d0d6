import os
import signal
import subprocess
import sys
import threading

import pytest

from bt_jax.common import signals

BOTH = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_noted_and_the_block_goes_on(number, status):
    went_on = False
    with signals.catch_signals() as interrupt:
        assert not interrupt and interrupt.number is None
        os.kill(os.getpid(), number)
        went_on = True
        assert interrupt and interrupt.number == number and interrupt.status == status
    assert went_on


@pytest.mark.parametrize("number", BOTH)
def test_handlers_are_as_before_afterwards(number):
    received = []

    def mine(*arguments: object) -> None:
        received.append(arguments[0])

    original = signal.signal(number, mine)
    try:
        with pytest.raises(ValueError, match="inside"), signals.catch_signals():
            assert signal.getsignal(number) is not mine
            os.kill(os.getpid(), number)
            raise ValueError("inside")
        assert signal.getsignal(number) is mine
        with signals.catch_signals() as second:
            assert not second
        os.kill(os.getpid(), number)
        assert received == [number]
    finally:
        signal.signal(number, original)


def test_the_second_ctrl_c_is_a_keyboard_interrupt():
    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), signals.catch_signals() as interrupt:
        interrupted()
        assert interrupt
        interrupted()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_after_sigterm_is_still_a_first_one():
    with signals.catch_signals() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.number == signal.SIGINT


def test_the_second_sigterm_ends_the_process():
    program = (
        "import os, signal\n"
        "from bt_jax.common import signals\n"
        "with signals.catch_signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('once', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('twice', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == "once\n"


def test_a_signal_wakes_a_main_thread_that_waits():
    with signals.catch_signals() as interrupt:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        timer.join()
        threading.Event().wait(0.01)
        assert interrupt.number == signal.SIGTERM

import os
import signal
import subprocess
import sys
import time

import pytest

from tests import command_server, runs


def test_a_fork_answers_as_a_fresh_process_does(tmp_path):
    for arguments in (["--help"], ["--config=nowhere.py"], ["--config=configs/mlp.py", "--config.data.fald=1"]):
        command = [sys.executable, "-m", "bt_jax.main", *arguments]
        forked, fresh = runs.run(command), runs.run(command, fresh=True)
        assert (forked.returncode, forked.stdout, forked.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)


def test_environment_and_arguments_arrive(monkeypatch, tmp_path):
    monkeypatch.setenv("BT_CACHE", str(tmp_path))
    (tmp_path / "told.txt").touch()
    ended = runs.run([sys.executable, "-m", "tests.command_server_told", "a b", ""], BT_MORE="more")
    assert (ended.returncode, ended.stderr) == (3, "to stderr")
    assert ended.stdout.splitlines() == ["['a b', '']", str(tmp_path), "more", str(runs.ROOT), "True"]


def test_other_variables_of_jax_need_a_fresh_process():
    assert command_server.fits(dict(os.environ))
    assert command_server.fits({**os.environ, "BT_CACHE": "elsewhere"})
    assert not command_server.fits({**os.environ, "JAX_NUM_CPU_DEVICES": "8"})


def test_a_killed_command_has_the_status_of_the_signal():
    environment = {**os.environ, "BT_ACT": "kill"}
    assert command_server.run("tests.command_server_told", [], environment, timeout=60)[0] == -signal.SIGKILL


def test_a_command_that_hangs_is_killed():
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        command_server.run("tests.command_server_told", [], {**os.environ, "BT_ACT": "hang"}, timeout=0.5)
    assert time.monotonic() - begun < 30

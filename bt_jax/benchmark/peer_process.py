"""Runs the networks of other libraries, each in its own process, and measures them in alternation with ours."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from bt_jax.common import waiting
from bt_jax.common.errors import UsageError

PYTHON_VARIABLE = "BT_PEERS_PYTHON"
PEERS_FOLDER = pathlib.Path(__file__).parent / "peers"

# The threads of a library spin for a while after their work; the next turn begins after that.
PAUSE_S = 0.25

# Our models by their names in timm and in keras.applications.
_NUMBERS = range(8)
TIMM_NAMES = {
    **{f"efficientnet_b{i}": f"tf_efficientnet_b{i}" for i in _NUMBERS},
    **{f"efficientnet_lite{i}": f"tf_efficientnet_lite{i}" for i in range(5)},
    "vgg16": "vgg16",
}
KERAS_NAMES = {**{f"efficientnet_b{i}": f"EfficientNetB{i}" for i in _NUMBERS}, "vgg16": "VGG16"}


@dataclasses.dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Attributes:
      name: for reports.
      script: uses the protocol of `peers/turns.py`.
      models: names of our models -> names of the same models in the library; None: it takes any, as an ONNX file.
      options: of the script.
      modes: modes that it supports.
    """

    name: str
    script: pathlib.Path
    models: Mapping[str, str] | None
    options: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("train", "infer")


PEERS = (
    Peer("timm", PEERS_FOLDER / "pytorch_timm.py", TIMM_NAMES),
    Peer("timm + torch.compile", PEERS_FOLDER / "pytorch_timm.py", TIMM_NAMES, ("compile",)),
    Peer("Keras on TensorFlow", PEERS_FOLDER / "keras_tensorflow.py", KERAS_NAMES),
    Peer("ONNX Runtime", PEERS_FOLDER / "onnx_runtime.py", None, modes=("infer",)),
    Peer("OpenVINO", PEERS_FOLDER / "openvino_runtime.py", None, modes=("infer",)),
)
PEERS_ON_GPU = (
    Peer("timm", PEERS_FOLDER / "pytorch_timm.py", TIMM_NAMES, ("gpu",)),
    Peer("timm + torch.compile", PEERS_FOLDER / "pytorch_timm.py", TIMM_NAMES, ("gpu", "compile")),
)


class PeerError(Exception):
    """A peer cannot be measured; the message says why in one line."""


class PeerProcess:
    """The running process of a peer; `close` ends it.

    Attributes:
      ready_s: seconds to build, compile and warm up.
      version: versions of its libraries.
      peak_memory_bytes: of its process, after its last turn.

    Raises:
      PeerError: from the constructor and from `turn`.
    """

    def __init__(self, peer: Peer, *, python: str, mode: str, model: str, batch: int, size: int):
        self.peak_memory_bytes: int | None = None
        with contextlib.ExitStack() as stack:
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            arguments = [mode, str(batch), str(size), (peer.models or {}).get(model, model), *peer.options]
            self._process = subprocess.Popen(
                [python, str(peer.script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                encoding="utf-8",
            )
            stack.callback(self._end)
            answer = self._answer()
            if "not_installed" in answer:
                raise PeerError(f"not installed ({answer['not_installed']})")
            self.ready_s, self.version = float(answer["ready_s"]), str(answer["version"])
            self._stack = stack.pop_all()

    def turn(self) -> float:
        """Measures one turn and returns the seconds per step."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("turn\n")
            self._process.stdin.flush()
        except OSError:
            raise PeerError(self._explain_failure()) from None
        answer = self._answer()
        self.peak_memory_bytes = answer.get("peak_memory_bytes")
        return float(answer["seconds"])

    def close(self) -> None:
        """Ends the process."""
        self._stack.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(self._explain_failure())
        try:
            answer: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            raise PeerError(f"answered {line.strip()!r}") from None
        return answer

    def _explain_failure(self) -> str:
        """Returns the exit status and the last line of the standard error of the process."""
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"ended with status {status}{': ' + said[-1].strip() if said else ''}"

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # unwritten input has no reader any more
                stream.close()


def find_peers_python() -> str:
    """Returns the interpreter that has the peers: `$BT_PEERS_PYTHON`, else this one.

    Raises:
      UsageError: it does not exist.
    """
    chosen = os.environ.get(PYTHON_VARIABLE) or sys.executable
    if shutil.which(chosen) is None:
        raise UsageError(f"${PYTHON_VARIABLE} is {chosen!r}, which is not a program: give the path of a Python")
    return chosen


def start_peers(
    *,
    mode: str,
    model: str,
    batch: int,
    size: int,
    python: str,
    options: tuple[str, ...] = (),
    onnx_file: pathlib.Path | None = None,
    peers: tuple[Peer, ...] = PEERS,
) -> tuple[dict[str, PeerProcess], dict[str, str]]:
    """Starts the peers one after the other, each with its own options and the given ones.

    Those without names of models get the ONNX file as an option.

    Returns:
      The ready peers by name, and for each other peer why it is missing.
    """
    ready: dict[str, PeerProcess] = {}
    missing: dict[str, str] = {}
    try:
        for peer in peers:
            own = options if peer.models is not None else (str(onnx_file),)
            peer = dataclasses.replace(peer, options=(*peer.options, *own))
            if mode not in peer.modes:
                missing[peer.name] = f"does not {mode}"
            elif peer.models is None and onnx_file is None:
                missing[peer.name] = "there is no ONNX file to run"
            elif peer.models is not None and model not in peer.models:
                missing[peer.name] = f"has no {model}"
            else:
                try:
                    with waiting.report(f"starting {peer.name}, which builds, compiles and warms up"):
                        ready[peer.name] = PeerProcess(
                            peer, python=python, mode=mode, model=model, batch=batch, size=size
                        )
                except PeerError as error:
                    missing[peer.name] = str(error)
    except BaseException:
        for process in ready.values():
            process.close()
        raise
    return ready, missing


def measure_in_turns(
    turns: Mapping[str, Callable[[], float]], *, repeats: int, pause_s: float = 0.0
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Measures all functions in turn, again and again, so that a slowdown of the machine affects all of them alike.

    Args:
      turns: functions by name; each does its work once and returns its seconds.
      repeats: turns of each function.
      pause_s: seconds of pause before each turn.

    Returns:
      The seconds of each function's turns; functions that failed are left out, with the reasons in the second dict.
    """
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    failed: dict[str, str] = {}
    measured = ""
    with waiting.report(lambda: f"measuring {measured}"):
        for number in range(1, repeats + 1):
            for name, turn in turns.items():
                if name in failed:
                    continue
                measured = f"{name}, turn {number} of {repeats}"
                time.sleep(pause_s)
                try:
                    seconds[name].append(turn())
                except PeerError as error:
                    failed[name] = str(error)
    return {name: values for name, values in seconds.items() if name not in failed}, failed

"""The protocol between the benchmark and its peers, with peers that do nothing."""

import ast
import pathlib
import subprocess
import sys
import time

import pytest

from bt_jax.benchmark import peer_process
from bt_jax.benchmark.peer_process import Peer, PeerError, PeerProcess
from bt_jax.benchmark.peers import turns
from bt_jax.common import waiting
from bt_jax.common.errors import UsageError


def test_the_peak_memory_of_a_process_is_its_own():
    """On Linux, `ru_maxrss` of a new process begins with the peak of the process that started it."""
    command = f"import sys; sys.path.insert(0, {str(pathlib.Path(turns.__file__).parent)!r}); import turns; "
    command += "print(turns.read_peak_memory())"
    start = "import subprocess, sys; held = b'x' * 300_000_000; "
    start += "print(subprocess.run([sys.executable, '-c', sys.argv[1]], capture_output=True, text=True).stdout)"
    ended = subprocess.run([sys.executable, "-c", start, command], capture_output=True, text=True, check=True)
    assert 2**20 < int(ended.stdout) < 200_000_000


# A peer as those in the package, without a library: its step fails at a given number.
SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import turns

turns.__version__ = "1.2"

def build(mode, batch, size, model, *options):
    print("a library says hello")
    print("and complains", file=sys.stderr)
    assert (mode, batch, size, model) == ("infer", 4, 32, "theirs"), sys.argv
    if "absent" in options:
        import a_library_that_is_not_there
    if "broken" in options:
        raise RuntimeError("out of memory")
    steps = []

    def step():
        print("noise between the answers")
        steps.append(None)
        if "dies" in options and len(steps) > turns.WARM_UP + 1:
            raise RuntimeError("cannot go on")

    return turns.Step(step)

turns.serve(build, packages=("turns",))
"""


def peer(folder: pathlib.Path, *options: str, name: str = "fake") -> Peer:
    script = folder / "fake.py"
    script.write_text(SCRIPT.format(folder=str(peer_process.PEERS_FOLDER)))
    return Peer(name, script, {"ours": "theirs"}, options, modes=("infer",))


def started(peer: Peer) -> PeerProcess:
    return PeerProcess(peer, python=sys.executable, mode="infer", model="ours", batch=4, size=32)


def test_a_peer_takes_its_turns_and_ends(tmp_path):
    process = started(peer(tmp_path))
    assert process.version == "turns 1.2"
    assert process.ready_s > 0 and process.peak_memory_bytes is None
    assert all(0 < process.turn() < 1 for _ in range(3))
    assert process.peak_memory_bytes is not None and process.peak_memory_bytes > 2**20
    process.close()
    assert process._process.returncode is not None


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("absent", r"not installed \(No module named 'a_library_that_is_not_there'\)"),
        ("broken", "ended with status 1: RuntimeError: out of memory"),
    ],
)
def test_a_peer_that_cannot_start_says_why_in_a_line(tmp_path, option, reason):
    with pytest.raises(PeerError, match=reason):
        started(peer(tmp_path, option))


def test_a_program_that_does_not_speak_the_protocol(tmp_path):
    script = tmp_path / "other.py"
    script.write_text("print('hello')")
    with pytest.raises(PeerError, match="answered 'hello'"):
        started(Peer("other", script, {"ours": "theirs"}))


def test_those_that_are_not_ready_are_listed_with_the_reason(tmp_path):
    peers = (
        peer(tmp_path, name="well"),
        peer(tmp_path, "absent", name="absent"),
        Peer("narrow", tmp_path / "fake.py", {}),
        Peer("slow", tmp_path / "fake.py", {"ours": "theirs"}, modes=("train",)),
    )
    ready, missing = peer_process.start_peers(
        mode="infer", model="ours", batch=4, size=32, python=sys.executable, peers=peers
    )
    ready.pop("well").close()
    assert ready == {}
    assert missing == {
        "absent": "not installed (No module named 'a_library_that_is_not_there')",
        "narrow": "has no ours",
        "slow": "does not infer",
    }


@pytest.mark.parametrize("count", [turns.STEPS_ON_CPU, 7])
def test_a_turn_runs_in_and_then_times_its_steps_with_one_wait(monkeypatch, count):
    clock = iter([10.0, 10.0 + 2 * count])
    calls = []
    monkeypatch.setattr(turns.time, "perf_counter", lambda: (calls.append("clock"), next(clock))[1])
    step = turns.Step(lambda: calls.append("run"), lambda: calls.append("wait"), count)
    assert turns.make_turn(step)() == 2
    assert calls == ["run"] * turns.RUN_IN + ["wait", "clock"] + ["run"] * count + ["wait", "clock"]


@pytest.mark.parametrize("script", sorted({peer.script for peer in (*peer_process.PEERS, *peer_process.PEERS_ON_GPU)}))
def test_peers_use_what_the_protocol_has(script):
    """Their libraries are not installed here, so that a name which is not there would only show in a measurement."""
    used = {
        node.attr
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "turns"
    }
    assert "serve" in used
    assert used <= vars(turns).keys()


def test_turns_alternate():
    order = []

    def turn(name: str, seconds: float) -> float:
        order.append(name)
        return seconds

    seconds, failed = peer_process.measure_in_turns({"a": lambda: turn("a", 1), "b": lambda: turn("b", 2)}, repeats=3)
    assert order == ["a", "b"] * 3
    assert seconds == {"a": [1, 1, 1], "b": [2, 2, 2]}
    assert failed == {}


def test_a_peer_that_dies_on_the_way_is_left_out_and_the_others_go_on(tmp_path):
    process = started(peer(tmp_path, "dies"))
    seconds, failed = peer_process.measure_in_turns({"peer": process.turn, "ours": lambda: 1.0}, repeats=4)
    process.close()
    assert seconds == {"ours": [1.0] * 4}
    assert failed == {"peer": "ended with status 1: RuntimeError: cannot go on"}


def test_errors_of_our_own_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        peer_process.measure_in_turns({"ours": lambda: 1 / 0}, repeats=1)


def test_the_interpreter_of_the_peers(monkeypatch):
    monkeypatch.delenv("BT_PEERS_PYTHON", raising=False)
    assert peer_process.find_peers_python() == sys.executable
    monkeypatch.setenv("BT_PEERS_PYTHON", "/nowhere/python")
    with pytest.raises(UsageError, match=r"\$BT_PEERS_PYTHON is '/nowhere/python', which is not a program"):
        peer_process.find_peers_python()


def test_every_peer_has_its_script_and_the_same_models():
    for each in peer_process.PEERS:
        assert each.script.is_file()
        # Those without names take an ONNX file of any network.
        assert each.models is None or {"efficientnet_b1", "vgg16"} <= each.models.keys()
    assert len({each.name for each in peer_process.PEERS}) == len(peer_process.PEERS)


def test_slow_peers_and_turns_are_named_while_the_benchmark_waits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(waiting, "_FIRST", 0.01)
    monkeypatch.setattr(waiting, "_NEXT", 0.01)
    ready, _ = peer_process.start_peers(
        mode="infer", model="ours", batch=4, size=32, python=sys.executable, peers=(peer(tmp_path),)
    )
    assert capsys.readouterr().err.splitlines()[0].startswith("starting fake, which builds, compiles and warms up: ")
    slow = {"ours": lambda: time.sleep(0.05) or 0.05, "fake": ready["fake"].turn}
    peer_process.measure_in_turns(slow, repeats=2, pause_s=0.05)
    ready["fake"].close()
    lines = {line.partition(": ")[0] for line in capsys.readouterr().err.splitlines()}
    assert lines >= {f"measuring {name}, turn {number} of 2" for name in ("ours", "fake") for number in (1, 2)}

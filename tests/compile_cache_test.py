import os
import pathlib
import subprocess
import sys
import zlib

import pytest

from tests import compile_cache


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BT_CACHE", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, os.environ[name])


def write(session: pathlib.Path, name: str, content: bytes) -> None:
    (session / "xla" / f"{name}-cache").write_bytes(content)


def kept(folder: pathlib.Path) -> set[str]:
    return {path.name for path in (folder / "kept").iterdir()}


def test_a_session_finds_what_the_one_before_compiled(tmp_path: pathlib.Path) -> None:
    session = compile_cache.open_session(tmp_path)
    assert os.environ["BT_CACHE"] == str(session)
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(session / "xla")
    write(session, "step", zlib.compress(b"program"))
    compile_cache.close_session(session)
    assert not session.exists()
    again = compile_cache.open_session(tmp_path)
    assert zlib.decompress((again / "xla" / "step-cache").read_bytes()) == b"program"
    compile_cache.close_session(again)
    assert kept(tmp_path) == {"step-cache"}


def test_half_a_program_is_not_kept(tmp_path: pathlib.Path) -> None:
    session = compile_cache.open_session(tmp_path)
    whole = zlib.compress(os.urandom(1000))
    write(session, "whole", whole)
    write(session, "half", whole[: len(whole) // 2])
    write(session, "nothing", b"")
    compile_cache.close_session(session)
    assert kept(tmp_path) == {"whole-cache"}


def test_the_oldest_programs_make_room(tmp_path: pathlib.Path) -> None:
    session = compile_cache.open_session(tmp_path)
    for age, name in enumerate(("newest", "older", "oldest")):
        write(session, name, zlib.compress(os.urandom(1000)))
        os.utime(session / "xla" / f"{name}-cache", (10_000 - age, 10_000 - age))
    compile_cache.close_session(session, limit=2500)
    assert kept(tmp_path) == {"newest-cache", "older-cache"}


def test_the_folder_of_a_killed_session_is_removed(tmp_path: pathlib.Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, other = tmp_path / f"session-{ended.pid}", tmp_path / f"session-{os.getppid()}"
    left.mkdir()
    other.mkdir()
    compile_cache.open_session(tmp_path)
    assert not left.exists() and other.exists()


def test_features_of_a_session_are_not_kept(tmp_path: pathlib.Path) -> None:
    session = compile_cache.open_session(tmp_path)
    (session / "features").mkdir()
    compile_cache.close_session(session)
    assert not (compile_cache.open_session(tmp_path) / "features").exists()


def test_this_session_uses_it() -> None:
    import jax

    assert jax.config.jax_compilation_cache_dir == os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.3

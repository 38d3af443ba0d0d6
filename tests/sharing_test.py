import pathlib

import pytest

from tests import sharing


def test_it_is_made_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    calls = []

    def make(path: pathlib.Path) -> None:
        calls.append(path)
        path.write_text("expensive", encoding="utf-8")

    first, second = (sharing.make_once(tmp_path_factory, "sharing-test", make) for _ in range(2))
    assert first == second and first.read_text() == "expensive"
    assert len(calls) == 1


def test_what_failed_is_made_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    def fail(path: pathlib.Path) -> None:
        path.mkdir()
        raise ValueError

    with pytest.raises(ValueError):
        sharing.make_once(tmp_path_factory, "sharing-failed", fail)
    assert sharing.make_once(tmp_path_factory, "sharing-failed", pathlib.Path.mkdir).is_dir()

"""Forward passes kept on disk: found again, with the same bits, and never in place of others or when damaged."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.inference import stored_programs
from bt_jax.inference.stored_programs import StoredForward

WEIGHTS = ({"head": {"kernel": np.arange(12, dtype=np.float32).reshape(4, 3)}}, {})
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 2, 2), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "programs"


def make():
    @jax.jit
    def forward(params, batch_stats, images):
        x = jnp.sin(images.reshape(len(images), -1) / 7)
        return x @ params["head"]["kernel"], x

    return forward


def refuse():
    raise AssertionError("nothing has to be traced")


def open_forward(facts=None, weights=WEIGHTS, make=make):
    return StoredForward({"name": "sine"} if facts is None else facts, weights, make)


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_program_is_traced_once_and_then_read_with_the_same_bits(cache):
    first = open_forward()
    assert not first.is_known
    outputs = first(*WEIGHTS, IMAGES)
    expected = np.sin(IMAGES.reshape(5, -1) / 7) @ WEIGHTS[0]["head"]["kernel"]
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-5, atol=1e-4)
    (path,) = files_in(cache)
    second = open_forward(make=refuse)
    assert second.is_known
    for found, expected in zip(second(*WEIGHTS, IMAGES), outputs, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert files_in(cache) == [path]


def test_each_batch_size_is_a_program(cache):
    forward = open_forward()
    for count in (1, 2, 2):
        assert len(forward(*WEIGHTS, IMAGES[:count])[0]) == count
    assert [path.stem.split("_")[0] for path in files_in(cache)] == ["1", "2"]


def test_the_network_is_made_once():
    made = []
    forward = open_forward(make=functools.partial(lambda: made.append(0) or make()))
    for count in (1, 2, 3):
        forward(*WEIGHTS, IMAGES[:count])
    assert made == [0]


@pytest.mark.parametrize(
    "other",
    [
        {"facts": {"name": "cosine"}},
        {"weights": ({"head": {"kernel": np.zeros((4, 2), np.float32)}}, {})},
        {"weights": ({"head": {"bias": np.zeros((4, 3), np.float32)}}, {})},
    ],
)
def test_what_differs_is_another_program(other):
    open_forward()(*WEIGHTS, IMAGES)
    assert not open_forward(**other).is_known


def test_a_program_of_another_precision_is_not_used(cache):
    forward = open_forward()
    with jax.default_matmul_precision("highest"):
        forward(*WEIGHTS, IMAGES)
    forward(*WEIGHTS, IMAGES)
    assert len(files_in(cache)) == 2
    with jax.default_matmul_precision("highest"):
        open_forward(make=refuse)(*WEIGHTS, IMAGES)
    with pytest.raises(AssertionError, match="nothing has to be traced"), jax.default_matmul_precision("high"):
        open_forward(make=refuse)(*WEIGHTS, IMAGES)


@pytest.mark.parametrize("what", ["code", "jax"])
def test_a_program_of_another_version_is_not_used(monkeypatch, what):
    open_forward()(*WEIGHTS, IMAGES)
    if what == "code":
        monkeypatch.setattr(stored_programs, "_hash_package", lambda: "other code")
    else:
        monkeypatch.setattr(jax, "__version__", "99.0")
    assert not open_forward().is_known


def test_the_code_is_hashed_file_by_file():
    stored_programs._hash_package.cache_clear()
    assert len(stored_programs._hash_package()) == 64


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: content + b"x"])
def test_a_damaged_file_is_traced_again_and_replaced(cache, damage):
    outputs = open_forward()(*WEIGHTS, IMAGES)
    (path,) = files_in(cache)
    path.write_bytes(damage(path.read_bytes()))
    again = open_forward()
    assert not again.is_known
    np.testing.assert_array_equal(again(*WEIGHTS, IMAGES)[0], outputs[0])
    assert open_forward(make=refuse).is_known


def test_a_folder_that_cannot_be_searched_costs_nothing_but_time(monkeypatch):
    def forbid(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "is_dir", forbid)
    assert not open_forward().is_known


def test_without_a_folder_that_is_safe_nothing_is_kept(monkeypatch):
    def refuse_all():
        raise UsageError("others can write to it")

    monkeypatch.setattr(stored_programs.caches, "get_cache_directory", refuse_all)
    for _ in range(2):
        forward = open_forward()
        assert not forward.is_known
        assert forward(*WEIGHTS, IMAGES)[0].shape == (5, 3)


def test_a_folder_that_cannot_be_made_costs_nothing_but_time(cache):
    cache.parent.write_text("a file in the way")
    for _ in range(2):
        forward = open_forward()
        assert not forward.is_known
        assert forward(*WEIGHTS, IMAGES)[0].shape == (5, 3)

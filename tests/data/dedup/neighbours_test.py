import hypothesis
import numpy as np
from hypothesis import strategies as st

from bt_jax.data.dedup.neighbours import CellIndex


def points(count: int, *, seed: int = 0, dimensions: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=-1)


def found(index: CellIndex, queries: np.ndarray, **options) -> set[tuple[int, int]]:
    i, j = index.search(queries, **options)
    pairs = list(zip(i.tolist(), j.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


@hypothesis.settings(deadline=None)
@hypothesis.given(
    rows=st.integers(1, 60),
    queries=st.integers(0, 20),
    count=st.integers(1, 5),
    sure=st.floats(0, 3),
    seed=st.integers(0, 99),
)
def test_a_search_of_all_cells_is_a_plain_search(rows, queries, count, sure, seed):
    a, b = points(queries, seed=seed), points(rows, seed=seed + 1000)
    apart = distances(a, b)
    order = np.argsort(apart, axis=1)
    expected = {(i, int(j)) for i in range(queries) for j in order[i, :count]}
    expected |= {(int(i), int(j)) for i, j in np.argwhere(apart <= sure)}
    cells = CellIndex(b)
    assert found(cells, a, count=count, most=rows, cells=rows, sure=sure) == expected
    limited = found(cells, a, count=count, most=count + 2, cells=rows, sure=sure)
    assert limited == {(i, j) for i, j in expected if j in order[i, : count + 2]}


def test_every_row_lies_in_one_cell():
    rows = points(500)
    cells = CellIndex(rows)
    assert len(cells.members) == 22
    assert sorted(np.concatenate(cells.members).tolist()) == list(range(500))


def test_few_cells_find_what_is_near():
    rows = points(2000, dimensions=32)
    queries = rows + points(2000, seed=1, dimensions=32) * 0.05
    pairs = found(CellIndex(rows), queries, count=1, most=1, cells=4, sure=0.0)
    assert len(pairs) == 2000
    assert np.mean([i == j for i, j in pairs]) > 0.99


def test_a_row_is_not_its_own_neighbour(monkeypatch):
    rows = points(40)
    rows[7] = rows[3]
    for at_once in (4096, 7):
        monkeypatch.setattr("bt_jax.data.dedup.neighbours._QUERIES_AT_ONCE", at_once)
        pairs = found(CellIndex(rows), rows, count=1, most=1, cells=40, sure=0.0, itself=True)
        assert all(i != j for i, j in pairs)
        assert {(3, 7), (7, 3)} <= pairs
        assert len(pairs) == 40


def test_blocks_of_queries_change_nothing(monkeypatch):
    rows, queries = points(300), points(50, seed=1)
    options = {"count": 3, "most": 5, "cells": 3, "sure": 1.0}
    whole = found(CellIndex(rows), queries, **options)
    monkeypatch.setattr("bt_jax.data.dedup.neighbours._QUERIES_AT_ONCE", 16)
    assert found(CellIndex(rows), queries, **options) == whole


def test_nothing_to_find():
    none = np.zeros((0, 4), np.float32)
    assert found(CellIndex(none), none, count=2, most=4, cells=2, sure=1.0, itself=True) == set()
    assert found(CellIndex(points(3, dimensions=4)), none, count=2, most=4, cells=2, sure=1.0) == set()
    assert found(CellIndex(none), points(3, dimensions=4), count=2, most=4, cells=2, sure=1.0) == set()
    one = points(1, dimensions=4)
    assert found(CellIndex(one), one, count=2, most=4, cells=2, sure=1.0, itself=True) == set()

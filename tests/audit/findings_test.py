"""From images to pairs, leaks and groups, on small sets of phantoms that hold known copies."""

import dataclasses
import itertools
import time
from collections.abc import Sequence

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from bt_jax.audit import findings
from bt_jax.audit.findings import DuplicatePair, Findings
from bt_jax.audit.inspection import inspect
from bt_jax.common import waiting
from bt_jax.data.dedup import near_duplicates
from bt_jax.data.dedup.near_duplicates import Pairs
from bt_jax.data.io import decode
from bt_jax.data.phantoms import phantom
from bt_jax.data.sources import Record, Source

NAMES = ("glioma_tumor", "no_tumor")


def slice_of(patient: int) -> np.ndarray:
    return phantom.render(4 * patient, label="glioma_tumor", seed=0).image


def half(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2), Image.Resampling.BOX))


def source_of(images: dict[str, np.ndarray], groups: dict[str, str] | None = None) -> Source:
    """Images by path."""
    contents = {path: decode.encode_png(np.ascontiguousarray(image)) for path, image in images.items()}
    return Source(
        description="images of a test",
        class_names=NAMES,
        records=tuple(Record(path, NAMES.index(path.split("/")[1]), path.split("/")[0]) for path in sorted(contents)),
        groups=groups or {},
        read=contents.__getitem__,
    )


def examine(source: Source) -> Findings:
    return findings.examine(source, inspect(source))


@pytest.fixture(scope="module")
def found() -> Findings:
    head = [slice_of(k) for k in range(10)]
    return examine(
        source_of({
            "Training/glioma_tumor/0.png": head[0],
            "Training/glioma_tumor/1.png": head[1],
            "Training/glioma_tumor/2.png": head[2],
            "Training/glioma_tumor/3.png": head[3],
            "Training/no_tumor/1 again.png": half(head[1]),
            "Training/no_tumor/4.png": head[4],
            "Training/no_tumor/5.png": head[5],
            "Testing/glioma_tumor/0 again.png": head[0],
            "Testing/glioma_tumor/2 mirrored.png": head[2][:, ::-1],
            "Testing/glioma_tumor/6.png": head[6],
            "Testing/no_tumor/0 half.png": half(head[0]),
            "Testing/no_tumor/4 turned.png": np.rot90(head[4]),
            "Testing/no_tumor/7.png": head[7],
            "Testing/no_tumor/of 3.png": head[8],
        }, groups={"Training/glioma_tumor/3.png": "p3", "Testing/no_tumor/of 3.png": "p3"})
    )  # fmt: skip


def paths(found: Findings, pair: DuplicatePair) -> tuple[str, str]:
    records = found.inspection.records
    return records[pair.first].path, records[pair.second].path


def test_pairs_with_their_kinds(found):
    assert {paths(found, pair): pair.kind for pair in found.pairs} == {
        ("Testing/glioma_tumor/0 again.png", "Training/glioma_tumor/0.png"): "exact",
        ("Testing/glioma_tumor/0 again.png", "Testing/no_tumor/0 half.png"): "near",
        ("Testing/no_tumor/0 half.png", "Training/glioma_tumor/0.png"): "near",
        ("Training/glioma_tumor/1.png", "Training/no_tumor/1 again.png"): "near",
        ("Testing/glioma_tumor/2 mirrored.png", "Training/glioma_tumor/2.png"): "mirrored",
        ("Testing/no_tumor/4 turned.png", "Training/no_tumor/4.png"): "rotated",
    }
    assert found.count_pairs(across=True) == {"exact": 1, "near": 1, "mirrored": 1, "rotated": 1}
    assert found.count_pairs(across=False) == {"exact": 0, "near": 2, "mirrored": 0, "rotated": 0}
    assert all(pair.first < pair.second and 0.95 <= pair.similarity <= 1 for pair in found.pairs)
    assert {pair.similarity for pair in found.pairs if pair.kind == "exact"} == {1.0}


def test_leaks_by_the_most_alike_twin(found):
    records = found.inspection.records
    assert {records[row].path: kind for row, kind in found.leak_kind.items()} == {
        "Testing/glioma_tumor/0 again.png": "exact",
        "Testing/no_tumor/0 half.png": "near",
        "Testing/glioma_tumor/2 mirrored.png": "mirrored",
        "Testing/no_tumor/4 turned.png": "rotated",
    }
    assert [records[row].path for row in found.same_group] == ["Testing/no_tumor/of 3.png"]


def test_contradictory_labels(found):
    assert {paths(found, pair) for pair in found.contradictions} == {
        ("Testing/glioma_tumor/0 again.png", "Testing/no_tumor/0 half.png"),
        ("Testing/no_tumor/0 half.png", "Training/glioma_tumor/0.png"),
        ("Training/glioma_tumor/1.png", "Training/no_tumor/1 again.png"),
    }


def test_clusters_the_largest_first(found):
    sizes = [len(rows) for rows in found.clusters]
    assert sizes == [3, 2, 2, 2]
    assert {found.inspection.records[row].path for row in found.clusters[0]} == {
        "Training/glioma_tumor/0.png", "Testing/glioma_tumor/0 again.png", "Testing/no_tumor/0 half.png"
    }  # fmt: skip


def test_groups_keep_twins_and_patients_together(found):
    for rows in found.clusters:
        assert len({found.groups[row] for row in rows}) == 1
    assert len(set(found.groups)) == 14 - 5 - 1
    assert found.grouping == "2 images by groups.csv, 12 images by near-duplicates, since their patients are unknown"


def test_twins_are_found_without_the_groups(found):
    without = dataclasses.replace(found.source, groups={})
    assert findings.examine(without, found.inspection).pairs == found.pairs


def test_labels_play_no_part(found):
    records = tuple(dataclasses.replace(record, label=1 - record.label) for record in found.inspection.records)
    swapped = dataclasses.replace(found.inspection, records=records)
    assert findings.examine(found.source, swapped).pairs == found.pairs


def test_no_twins_at_all():
    nothing = examine(source_of({f"Training/{NAMES[k % 2]}/{k}.png": slice_of(k) for k in range(3)}))
    assert nothing.pairs == () and nothing.clusters == () and nothing.leak_kind == {} and nothing.contradictions == []
    assert isinstance(nothing.shortcuts, str)


def pairs_of(edges: Sequence[tuple[int, int, int, float]]) -> Pairs:
    """Twins by set numbers, orientation and correlation."""
    first, second, orientation, correlation = (np.array(column) for column in zip(*edges, strict=True))
    ones = np.ones(len(edges), np.float32)
    return Pairs(first, second, orientation, correlation.astype(np.float32), ones, ones, ones > 0)


listings = st.integers(2, 7).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=n, max_size=n),
        st.dictionaries(
            st.sampled_from(list(itertools.combinations(range(n), 2))),
            st.tuples(st.sampled_from([0, 0, 2, 5]), st.sampled_from([0.7, 0.99])),
            min_size=1,
        ),
    )
)


@hypothesis.settings(deadline=None)
@hypothesis.given(listing=listings)
def test_what_is_listed_says_all_there_is_to_say(listing):
    """Joined images stay joined, and whoever has a twin in the other split is listed with one."""
    splits_of_sets, edges = listing
    rows = itertools.count()
    sets = [[next(rows) for _ in members] for members in splits_of_sets]
    split_of = ["Training" if training else "Testing" for members in splits_of_sets for training in members]
    near_pairs = pairs_of([(i, j, *values) for (i, j), values in edges.items()])
    made = findings._Listing(sets, near_pairs, split_of)
    pairs = list(made.list_pairs())
    everything = {pair for members in sets for pair in itertools.combinations(members, 2)}
    everything |= {(a, b) for i, j in edges for a in sets[i] for b in sets[j]}
    listed = {(pair.first, pair.second) for pair in pairs}
    assert len(listed) == len(pairs)
    assert listed <= {(min(pair), max(pair)) for pair in everything}
    n = len(split_of)
    np.testing.assert_array_equal(
        near_duplicates.find_components(n, listed), near_duplicates.find_components(n, everything)
    )
    for chosen in (everything, listed):
        across = [pair for pair in chosen if split_of[pair[0]] != split_of[pair[1]]]
        reached = {row for pair in across for row in pair}
        assert set(made.classify_leaks()) == {row for row in reached if split_of[row] == "Testing"}
    for i, j in edges:
        if edges[i, j] == (0, 0.99):
            assert {(min(a, b), max(a, b)) for a in sets[i] for b in sets[j]} <= listed


def test_many_copies_are_not_listed_each_with_each():
    sets = [list(range(300)), list(range(300, 400))]
    split_of = ["Testing" if row % 3 == 0 else "Training" for row in range(400)]
    made = findings._Listing(sets, pairs_of([(0, 1, 0, 0.99)]), split_of)
    pairs = list(made.list_pairs())
    assert len(pairs) < 5 * 400
    reached = {
        row for pair in pairs if split_of[pair.first] != split_of[pair.second] for row in (pair.first, pair.second)
    }
    assert reached == set(range(400))
    assert len(made.list_clusters()) == 1 and len(made.list_clusters()[0]) == 400


def test_a_long_search_for_shortcuts_says_that_it_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(waiting, "_FIRST", 0.01)
    monkeypatch.setattr(findings, "find_shortcuts", lambda *arguments, **options: time.sleep(0.1))
    examine(source_of({f"Training/{name}/{number}.png": slice_of(number) for number, name in enumerate(NAMES)}))
    assert "looking for shortcuts: 0 s so far" in capsys.readouterr().err

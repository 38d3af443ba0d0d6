import dataclasses

import numpy as np
import pytest

from bt_jax.audit import findings, html_report, inspection, shortcuts
from bt_jax.audit.findings import DuplicatePair, Findings
from bt_jax.data.io import decode
from bt_jax.data.sources import Record, Source

COUNT = 70


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65535, (40, 30), dtype=np.uint16)


@pytest.fixture
def found() -> Findings:
    """Made up, with more pairs, files and clusters than a page shows."""
    source = Source(
        description="folder <data> & more",
        class_names=("glioma_tumor", "no_tumor"),
        records=(),
        groups={},
        read=lambda path: decode.encode_png(picture(int(path.split("/")[-1].split(".")[0]))),
        warnings=("one <thing>",),
        synthetic=True,
    )
    records = tuple(
        Record(
            f"{'Testing' if k % 2 else 'Training'}/glioma_tumor/{k}.png", k % 3 % 2, "Testing" if k % 2 else "Training"
        )
        for k in range(COUNT)
    )
    looked_at = inspection.Inspection(
        records=records,
        fingerprints=tuple(map(str, range(COUNT))),
        thumbnails=np.zeros((COUNT, 2, 64, 64), np.uint8),
        cues=np.ones((COUNT, 5), np.float32),
        oddities=tuple(frozenset({"deep"}) if k < 60 else frozenset() for k in range(COUNT)),
        unreadable=tuple((Record(f"Training/no_tumor/bad{k}<.png", 1, "Training"), "broken & gone") for k in range(55)),
    )
    near_pairs = [(k, k + 1) for k in range(0, COUNT, 2)]
    return Findings(
        source=source,
        inspection=looked_at,
        pairs=tuple(DuplicatePair(a, b, "near" if a < 56 else "mirrored", 0.99) for a, b in near_pairs),
        clusters=tuple(near_pairs),
        leak_kind={1: "near"},
        close_calls=tuple(DuplicatePair(0, k, "similar", 0.96) for k in range(1, 30)),
        groups=tuple(f"group {k // 2}" for k in range(COUNT)),
        grouping="by <guess>",
        shortcuts=shortcuts.Shortcuts(
            images=35, folds=5, chance=0.5, by_all=0.9, by_cue={"width": 0.8},
            rules=(shortcuts.ShortcutRule("width", "no_tumor", 0.9, "width < 5"),),
        ),
    )  # fmt: skip


def test_everything_from_outside_is_escaped(found):
    page = html_report.render(found)
    for text in (
        "folder &lt;data&gt; &amp; more",
        "one &lt;thing&gt;",
        "bad0&lt;.png",
        "broken &amp; gone",
        "by &lt;guess&gt;",
        "width &lt; 5",
    ):
        assert text in page
    assert "<data>" not in page and "<thing>" not in page


def test_long_lists_are_cut_and_say_so(found):
    page = html_report.render(found)
    assert page.count("Training/no_tumor/bad") == 50
    assert "and 5 more" in page
    assert "The first 24 are shown." in page and "The first 12 are shown." in page
    sheets = {"contradictions": min(24, len(found.contradictions)), "near": 24, "mirrored": 7, "similar": 12}
    assert page.count("<figure>") == sum(sheets.values()) + 6 + 1, "and six clusters, and the odd files"


def test_what_a_reader_needs_first_comes_first(found):
    page = html_report.render(found)
    for advice in ("Report the score on the clean", "Remove size", "Split by the groups"):
        assert page.count(f"<li>{advice}") == 1
    order = ["SYNTHETIC PHANTOMS", "1 of 35 Testing images", "no_tumor is distinguished from the rest by width alone"]
    order += [
        "Duplicates and leaks",
        "Contradictory labels",
        "Pairs to check",
        "Shortcuts",
        "unusual files",
        "Patients and groups",
    ]
    places = [page.index(text) for text in order[:3]] + [page.index(f"{text}</h2>") for text in order[3:]]
    assert places == sorted(places)


def test_one_pair_of_each_picture_and_the_least_alike_first(found):
    pairs = [
        DuplicatePair(0, 2, "near", 0.99),
        DuplicatePair(0, 1, "near", 0.98),
        DuplicatePair(4, 6, "near", 0.96),
        DuplicatePair(4, 5, "near", 0.97),
    ]
    chosen = html_report._choose_one_of_each_cluster(dataclasses.replace(found, clusters=((0, 1, 2), (4, 5, 6))), pairs)
    assert chosen == [pairs[3], pairs[1]], "across splits before within"


def test_nothing_found(found):
    empty = dataclasses.replace(
        found,
        pairs=(), clusters=(), leak_kind={}, close_calls=(), shortcuts="too few", groups=tuple(map(str, range(COUNT))),
        inspection=dataclasses.replace(found.inspection, unreadable=(), oddities=(frozenset(),) * COUNT),
    )  # fmt: skip
    page = html_report.render(empty)
    assert "None: duplicates always have the same label." in page
    assert "Not measured, because too few." in page
    assert "<img" not in page
    assert "<li>" not in page.split("Duplicates and leaks")[0], "no advice where nothing was found"


def test_the_same_findings_make_the_same_page(found):
    assert html_report.render(found) == html_report.render(dataclasses.replace(found))
    assert findings.KINDS == ("exact", "near", "mirrored", "rotated")

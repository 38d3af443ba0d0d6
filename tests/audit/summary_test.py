import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from bt_jax.audit import findings, summary
from bt_jax.audit.findings import Findings
from bt_jax.audit.inspection import inspect
from bt_jax.data.io import decode
from bt_jax.data.phantoms import phantom
from bt_jax.data.sources import Record, Source

NAMES = ("glioma_tumor", "no_tumor")


def examined(paths: list[str], *, copies: dict[str, str], broken: tuple[str, ...] = ()) -> Findings:
    """Phantoms of other patients at the paths, and smaller copies of some."""
    images = {path: phantom.render(4 * k, label="no_tumor", seed=0).image for k, path in enumerate(paths)}
    for path, original in copies.items():
        images[path] = np.asarray(Image.fromarray(images[original]).resize((120, 140), Image.Resampling.BOX))
    contents = {path: decode.encode_png(image) for path, image in images.items()} | dict.fromkeys(broken, b"broken")
    source = Source(
        description="folder x",
        class_names=NAMES,
        records=tuple(Record(path, NAMES.index(path.split("/")[1]), path.split("/")[0]) for path in sorted(contents)),
        groups={},
        read=contents.__getitem__,
    )
    return findings.examine(source, inspect(source))


@pytest.fixture(scope="module")
def found() -> Findings:
    original = "Training/glioma_tumor/a.png"
    return examined(
        [original, "Training/no_tumor/b.png", "Training/no_tumor/c.png", "Testing/no_tumor/d.png"],
        copies={"Testing/glioma_tumor/a half.png": original, "Testing/no_tumor/a, too.png": original},
        broken=("Training/no_tumor/z.png",),
    )


def test_files_hold_what_was_found(found, tmp_path):
    summary.write(tmp_path / "out", found)
    result = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert result == json.loads(json.dumps(summary.build_content(found)))
    assert result["schema"] == 1 and result["classes"] == list(NAMES)
    assert result["images"] == {
        "Training": {"glioma_tumor": 1, "no_tumor": 2}, "Testing": {"glioma_tumor": 1, "no_tumor": 2}
    }  # fmt: skip
    assert result["unreadable"] == [{"path": "Training/no_tumor/z.png", "reason": "not an image in a known format"}]
    assert result["duplicates"]["across_splits"] == {"exact": 0, "near": 2, "mirrored": 0, "rotated": 0}
    assert result["duplicates"]["within_splits"] == {"exact": 1, "near": 0, "mirrored": 0, "rotated": 0}
    assert [len(paths) for paths in result["duplicates"]["clusters"]] == [3]
    assert len(result["contradictions"]) == 2
    assert result["contradictions"][0] == {
        "path_a": "Testing/glioma_tumor/a half.png", "path_b": "Testing/no_tumor/a, too.png", "kind": "exact",
        "label_a": "glioma_tumor", "label_b": "no_tumor",
    }  # fmt: skip
    assert result["shortcuts"] == {"strongest": None, "why_not": "a class has images of only one patient or group"}
    with (tmp_path / "out" / "duplicates.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(summary.COLUMNS)
    assert rows[1] == [
        "Testing/glioma_tumor/a half.png", "Testing/no_tumor/a, too.png", "exact", "1.0000", "glioma_tumor", "no_tumor"
    ]  # fmt: skip
    assert len(rows) == 4


def test_leaks_add_up(found):
    leaks = summary.count_leaks(found)
    assert leaks["testing_images"] == 3 == leaks["with_twin"] + leaks["same_group"] + leaks["clean"]
    assert leaks["with_twin"] == 2 == sum(leaks["by_kind"].values())
    for total in ("testing_images", "with_twin", "same_group"):
        assert leaks[total] == sum(values[total] for values in leaks["by_class"].values())


def test_medians_by_split_and_class(found):
    rows = summary.compute_medians(found)
    assert [(row["split"], row["class"], row["images"]) for row in rows] == [
        ("Training", "glioma_tumor", 1), ("Training", "no_tumor", 2),
        ("Testing", "glioma_tumor", 1), ("Testing", "no_tumor", 2),
    ]  # fmt: skip
    assert (rows[2]["width"], rows[2]["height"]) == (120, 140)
    assert (rows[2]["common_size"], rows[2]["common_size_share"]) == ("120x140", 1.0)
    assert rows[3]["common_size_share"] == 0.5


def test_the_summary_counts(found):
    lines = summary.summarise(found)
    assert lines[0] == "6 images, 1 unreadable files, 0 unusual files"
    assert (
        lines[1]
        == "Testing: 2 of 3 images have a duplicate in Training, 0 more share a patient or group with it, 1 are clean"
    )
    assert "duplicate pairs across splits: 0 exact, 2 near, 0 mirrored, 0 rotated" in lines
    assert "contradictory labels: 2 pairs" in lines
    assert lines[-1] == "shortcut: not measured, because a class has images of only one patient or group"


def test_without_a_testing_folder():
    alone = examined(["Training/glioma_tumor/a.png", "Training/no_tumor/b.png"], copies={})
    assert summary.build_content(alone)["leaks"]["testing_images"] == 0
    assert "Testing" not in summary.build_content(alone)["images"]
    assert not any(line.startswith("Testing") for line in summary.summarise(alone))


def test_phantoms_are_called_phantoms(found):
    synthetic = dataclasses.replace(found, source=dataclasses.replace(found.source, synthetic=True))
    assert "SYNTHETIC" in summary.build_content(synthetic)["notice"]
    assert summary.build_content(found)["notice"] is None

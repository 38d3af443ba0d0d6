"""The audit as a command: on a folder and a zip of phantoms with planted faults, and on the real images."""

import csv
import dataclasses
import html.parser
import json
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from bt_jax.audit import findings, html_report, inspection, summary
from bt_jax.data import kaggle_patients, sources
from tests import phantom_folder, runs


def audit(*flags: str) -> subprocess.CompletedProcess[str]:
    return runs.run([sys.executable, "-m", "bt_jax.audit", *flags])


def read(out: pathlib.Path) -> tuple[dict, list[dict[str, str]], str]:
    """audit.json, duplicates.csv and report.html."""
    with (out / "duplicates.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    return json.loads((out / "audit.json").read_text()), pairs, (out / "report.html").read_text()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Phantoms, without their patients; what has no tumour is 60 pixels wider; and some faults."""
    folder = tmp_path_factory.mktemp("audit") / "images"
    phantom_folder.write(folder, training_per_class=12, testing_per_class=3, seed=0)
    (folder / "groups.csv").unlink()
    for file in sorted(folder.glob("*/no_tumor/*")):
        Image.fromarray(np.pad(np.asarray(Image.open(file)), ((0, 0), (30, 30)))).save(file)
    training = sorted((folder / "Training" / "glioma_tumor").iterdir())
    copied = Image.open(training[0])
    copied.save(folder / "Testing" / "glioma_tumor" / "copy.bmp")
    copied.resize((200, 210)).save(folder / "Testing" / "meningioma_tumor" / "small <b>&.jpg")
    copied.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "Testing" / "glioma_tumor" / "mirror.png")
    copied.convert("RGB").save(folder / "Training" / "no_tumor" / "a png.jpg", "PNG")
    (folder / "Training" / "no_tumor" / "note.txt").write_text("no image")
    (folder / "Training" / "no_tumor" / "half.png").write_bytes(training[1].read_bytes()[:500])
    return folder


@pytest.fixture(scope="module")
def audited(images: pathlib.Path) -> pathlib.Path:
    out = images.parent / "out"
    ended = audit(f"--data={images}", f"--out={out}")
    assert ended.returncode == 0, ended.stderr
    assert "60 of 60" not in ended.stdout and "66 of 66 images read" in ended.stderr
    (images.parent / "said.txt").write_text(ended.stdout)
    return out


def test_what_was_planted_is_found(images, audited):
    result, pairs, _ = read(audited)
    original = f"Training/glioma_tumor/{min(path.name for path in (images / 'Training' / 'glioma_tumor').iterdir())}"
    kinds = {(pair["path_a"], pair["path_b"]): pair["kind"] for pair in pairs}
    assert kinds["Testing/glioma_tumor/copy.bmp", original] == "exact"
    assert kinds["Testing/meningioma_tumor/small <b>&.jpg", original] == "near"
    assert kinds["Testing/glioma_tumor/mirror.png", original] == "mirrored"
    assert kinds[original, "Training/no_tumor/a png.jpg"] == "exact"
    assert list(pairs[0]) == ["path_a", "path_b", "kind", "similarity", "label_a", "label_b"]
    assert all(pair["label_a"] == pair["path_a"].split("/")[1] for pair in pairs)
    assert all(0.95 <= float(pair["similarity"]) <= 1 for pair in pairs)
    assert [(entry["path"], entry["reason"]) for entry in result["unreadable"]][1] == (
        "Training/no_tumor/note.txt", "not an image in a known format"
    )  # fmt: skip
    assert result["odd"]["extension"]["paths"] == ["Training/no_tumor/a png.jpg"]
    assert result["leaks"]["with_twin"] == 3
    assert result["leaks"]["by_kind"] == {"exact": 1, "near": 1, "mirrored": 1, "rotated": 0}
    assert result["leaks"]["by_class"]["meningioma_tumor"]["with_twin"] == 1
    assert {"Testing/meningioma_tumor/small <b>&.jpg", original} in [
        {pair["path_a"], pair["path_b"]} for pair in result["contradictions"]
    ]
    groups = result["groups"]["of_image"]
    assert len(groups) == 64
    assert (
        len({groups[path] for path in (original, "Testing/glioma_tumor/copy.bmp", "Testing/glioma_tumor/mirror.png")})
        == 1
    )


def test_the_shortcut_is_named(audited):
    result, _, page = read(audited)
    assert re.match(
        r"no_tumor is distinguished from the rest by (width|aspect) alone", result["shortcuts"]["strongest"]
    )
    assert result["shortcuts"]["balanced_accuracy"]["all"] > result["shortcuts"]["chance"]
    assert result["shortcuts"]["strongest"] in page
    said = (audited.parent / "said.txt").read_text()
    assert result["shortcuts"]["strongest"] in said
    assert "Testing: 3 of 15 images have a duplicate in Training" in said
    assert "2 unreadable files" in said


class Page(html.parser.HTMLParser):
    """Checks that tags are closed in order, and collects what the page points to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("img", "br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_nothing_else(audited):
    _, _, text = read(audited)
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.links) > 10
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert "Testing/meningioma_tumor/small <b>&.jpg" in page.text, "file names are shown as they are"
    assert "small <b>" not in text


def test_the_same_again_and_from_a_zip(images, audited, tmp_path):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for file in sorted(images.rglob("*"), reverse=True):
            if file.is_file():
                archive.write(file, pathlib.Path("wrapped") / file.relative_to(images))
    ended = audit(f"--data={tmp_path / 'archive.zip'}", f"--out={tmp_path / 'deep' / 'out'}")
    assert ended.returncode == 0, ended.stderr
    first, second = read(audited), read(tmp_path / "deep" / "out")
    assert second[1] == first[1]
    for result in (first[0], second[0]):
        del result["source"]
    assert second[0] == first[0]
    assert second[2].replace(f"zip {tmp_path / 'archive.zip'}", f"folder {images}") == first[2]
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == [
        "audit.json", "duplicates.csv", "report.html"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--out=O"], "--data is missing: see --help"),
        (["--data=D"], "--out is missing: see --help"),
        (["--data=nowhere", "--out=O"], "--data is 'nowhere', which does not exist"),
        (["--data=D", "--out=F"], "which is a file: give a folder"),
        (["--data=D", "--out=O", "--depth=3"], "Unknown command line flag 'depth'"),
        (["--data=D", "--out=O", "more"], "unexpected argument 'more'"),
    ],
)
def test_wrong_flags(images, tmp_path, flags, said):
    (tmp_path / "file").write_text("text")
    places = {"D": images, "O": tmp_path / "out", "F": tmp_path / "file"}
    given = [
        f"{name}={places.get(value, value)}" if equals else name
        for name, equals, value in (flag.partition("=") for flag in flags)
    ]
    ended = audit(*given)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_readable_image(tmp_path):
    for name in ("glioma", "notumor"):
        (tmp_path / "data" / "Training" / name).mkdir(parents=True)
        (tmp_path / "data" / "Training" / name / "a.png").write_bytes(b"nothing")
    ended = audit(f"--data={tmp_path / 'data'}", f"--out={tmp_path / 'out'}")
    assert ended.returncode == 2
    assert "holds no readable images: 2 files are unreadable" in ended.stderr


def correlations(thumbnails: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of all with all, the larger one of whole frame and head, by the textbook: [N, M]."""
    found = []
    for kind in range(2):
        rows, columns = (
            side[:, kind].reshape(len(side), -1).astype(np.float64) for side in (thumbnails, others)
        )  # fmt: skip
        rows, columns = ((side - side.mean(1, keepdims=True)) for side in (rows, columns))
        norms = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(columns, axis=1)
        found.append(rows @ columns.T / norms)
    return np.maximum(*found)


@pytest.mark.real_data
@pytest.mark.slow
def test_the_real_set_without_its_patients(tmp_path, monkeypatch):
    """At least 98 % of the 260 leaking Testing images, and 95 % of the pairs across splits are right."""
    real = pathlib.Path(os.environ["BT_DATA"])
    monkeypatch.setattr(kaggle_patients, "load_groups", dict)
    source = dataclasses.replace(sources.open_path(real, field="$BT_DATA"), groups={})
    looked_at = inspection.inspect(source)
    found = findings.examine(source, looked_at)
    summary.write(tmp_path, found)
    (tmp_path / "report.html").write_text(html_report.render(found))
    result, pairs, _ = read(tmp_path)
    assert result["unreadable"] == [] and result["odd"] == {}

    paths = np.array([record.path for record in looked_at.records])
    testing, training = found.list_rows("Testing"), found.list_rows("Training")
    near = correlations(looked_at.thumbnails[testing], looked_at.thumbnails[training]) >= 0.98
    truth = {
        (a, b) for a, row in zip(paths[testing].tolist(), near, strict=True) for b in paths[training][row].tolist()
    }
    listed = {(pair["path_a"], pair["path_b"]): pair for pair in pairs}
    across = {pair for pair in listed if pair[0].startswith("Testing/") and pair[1].startswith("Training/")}
    assert len(across) == sum(result["duplicates"]["across_splits"].values())
    exact = {pair for pair in across if listed[pair]["kind"] == "exact"}
    assert len({a for a, _ in exact}) == 251
    leaking = {a for a, _ in across}
    assert {a for a, _ in truth} <= leaking
    assert len(leaking) == 260 == result["leaks"]["with_twin"]
    right = across & truth
    # All of the others were looked at: they are the same slices, cropped inside the head.
    assert len(right) / len(across) > 0.97
    assert len(right) / len(truth) > 0.98

    assert all(float(listed[pair]["similarity"]) > 0.98 for pair in across)

    # Slices beside each other resemble more than .98 in some places; no two slices of a figshare patient are twins.
    with (real / "groups.csv").open(newline="") as file:
        patient = {row["path"]: row["patient"] for row in csv.DictReader(file)}
    assert not [
        pair for pair in listed
        if listed[pair]["kind"] != "exact" and patient.get(pair[0]) and patient.get(pair[1])
        and patient[pair[0]] == patient[pair[1]]
    ]  # fmt: skip
    group_of = result["groups"]["of_image"]
    patients_of: dict[str, set[str]] = {}
    for path in patient.keys() & group_of.keys():
        patients_of.setdefault(group_of[path], set()).add(patient[path])
    assert not [patients for patients in patients_of.values() if len(patients - {""}) > 1], "no two patients are joined"
    assert len(set(group_of.values())) < 2779 - 300, "slices that lie beside each other are joined"
    assert result["shortcuts"]["strongest"].startswith("no_tumor is distinguished from the rest by width alone")
    assert result["leaks"]["clean"] == 3

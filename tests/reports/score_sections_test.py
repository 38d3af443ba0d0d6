"""The sections of scores, as they stand in a model card."""

import pathlib

import numpy as np
import pytest

from bt_jax.metrics.by_patient import Patients
from tests.reports.model_card_test import card, scored, section


def test_card_leads_with_the_clean_images(tmp_path: pathlib.Path) -> None:
    testing = scored("testing", leaked=np.arange(80) < 15)
    validation = scored("validation", n=120)
    text = card(tmp_path, {"validation": validation, "testing": testing})
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section(text, "Results").splitlines()
        if "|" in line
    ]
    assert [row[0] for row in rows[2:]] == [
        "validation", "**testing, clean images**", "testing, leaked images", "testing, all images",
    ]  # fmt: skip
    clean = testing["subsets"]["clean"]
    low, high = clean["accuracy_ci95"]
    assert rows[3][1:5] == ["65", "-", f"{clean['accuracy']:.3f}", f"{low:.3f} to {high:.3f}"]
    assert rows[3][5:] == [f"{clean[key]:.3f}" for key in ("macro_f1", "macro_auc", "macro_average_precision", "ece")]
    per_class = section(text, "Scores by class: testing")
    row = clean["per_class"]["glioma_tumor"]
    assert f"| `glioma_tumor` | {row['support']} | {row['recall']:.3f} | - | {row['precision']:.3f} |" in per_class
    assert "Clean images only (65 images)" in per_class
    assert text.index("- testing: ") < text.index("## Results")
    assert "Clean images only" not in section(text, "Scores by class: validation")
    assert "leaked images" not in card(tmp_path, {"validation": validation})


def test_an_empty_split_has_its_place(tmp_path: pathlib.Path) -> None:
    result = scored("testing", n=0)
    text = card(tmp_path, {"testing": result})
    assert "| testing | 0 | - | - | too few images | - | - | - | - |" in text
    assert "There are no images" in text


def test_patients_are_counted_and_answered(tmp_path: pathlib.Path) -> None:
    known = Patients([f"p{i // 4}" for i in range(80)], "80 images by groups.csv")
    result = scored("validation", patients=known)
    results = section(card(tmp_path, {"validation": result}), "Results")
    low, high = result["patients"]["image_intervals"]["accuracy"]
    assert f"| validation | 80 | 20 | {result['accuracy']:.3f} | {low:.3f} to {high:.3f} |" in results
    low, high = result["patients"]["macro_f1_ci95"]
    assert f"{result['patients']['macro_f1']:.3f} ({low:.3f} to {high:.3f})" in results
    assert "80 images by groups.csv" in results
    assert min(row["support"] for row in result["per_class"].values()) >= 10
    low, high = result["patients"]["image_intervals"]["recall"]["no_tumor"]
    assert f"{low:.3f} to {high:.3f}" in section(card(tmp_path, {"validation": result}), "Scores by class: validation")


@pytest.mark.parametrize(("leaked", "shown"), [(20, "these images"), (70, "all 80 images"), (80, "all 80 images")])
def test_the_card_says_what_its_pictures_show(tmp_path: pathlib.Path, leaked: int, shown: str) -> None:
    (tmp_path / "testing").mkdir()
    (tmp_path / "testing" / "calibration.png").write_bytes(b"")
    result = scored("testing", leaked=np.arange(80) < leaked)
    assert f"The pictures show {shown}." in card(tmp_path, {"testing": result})
    assert "The pictures show" not in card(tmp_path, {"testing": scored("testing")})


def test_a_class_of_few_images_has_no_interval(tmp_path: pathlib.Path) -> None:
    known = Patients([f"p{i // 4}" for i in range(80)], "80 images by groups.csv")
    result = scored("testing", leaked=np.arange(80) < 60, patients=known)
    table = section(card(tmp_path, {"testing": result}), "Scores by class: testing")
    for label, row in result["subsets"]["clean"]["per_class"].items():
        assert row["support"] < 10
        assert f"| `{label}` | {row['support']} | {row['recall']:.3f} | too few images |" in table

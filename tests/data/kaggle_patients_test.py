import csv

import numpy as np
import pytest

from bt_jax.common import files
from bt_jax.data import fingerprints, kaggle_patients


def test_the_table_knows_every_distinct_training_image_of_the_set():
    with kaggle_patients.PATH.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["fingerprint"] for row in rows}) == 2769
    assert [row["fingerprint"] for row in rows] == sorted(row["fingerprint"] for row in rows)
    assert all(len(row["fingerprint"]) == 32 and row["group"] for row in rows)
    assert len({row["group"] for row in rows}) == 645
    assert len({row["patient"] for row in rows} - {""}) == 225
    assert kaggle_patients.load_groups() == {row["fingerprint"]: row["group"] for row in rows}


def test_no_patient_is_divided_among_groups():
    groups_of: dict[str, set[str]] = {}
    with kaggle_patients.PATH.open(newline="") as file:
        for row in csv.DictReader(file):
            groups_of.setdefault(row["patient"], set()).add(row["group"])
    del groups_of[""]
    assert {len(groups) for groups in groups_of.values()} == {1}


def test_build_lists_every_distinct_image_once_in_the_order_of_fingerprints(folder):
    images = [np.full((5, 6), value, np.uint8) for value in (1, 2, 1, 3)]
    for i, image in enumerate(images):
        folder.write(f"Training/a/{i}.png", image)
    folder.write("groups.csv", "path,group,patient\n" + "".join(
        f"Training/a/{i}.png,{group},{patient}\n" for i, (group, patient) in enumerate(["7x", "8y", "7x", "9 "])
    ))  # fmt: skip
    rows = kaggle_patients.build(folder.path)
    expected = {(fingerprints.fingerprint(images[0]), "7", "x"), (fingerprints.fingerprint(images[1]), "8", "y"),
                (fingerprints.fingerprint(images[3]), "9", " ")}  # fmt: skip
    assert len(rows) == 3 and set(rows) == expected and rows == sorted(rows)


def test_build_refuses_equal_images_of_two_groups(folder):
    for i in range(2):
        folder.write(f"{i}.png", np.full((5, 6), 1, np.uint8))
    folder.write("groups.csv", "path,group,patient\n0.png,7,x\n1.png,8,x\n")
    with pytest.raises(ValueError, match=r"1\.png equals an image of another group"):
        kaggle_patients.build(folder.path)


@pytest.mark.real_data
def test_rebuilding_gives_the_committed_file(real_directory, tmp_path):
    files.write_csv(
        tmp_path / "patients.csv", ("fingerprint", "group", "patient"), kaggle_patients.build(real_directory)
    )
    assert (tmp_path / "patients.csv").read_bytes() == kaggle_patients.PATH.read_bytes()

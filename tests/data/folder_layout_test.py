"""Layouts that people have, as folders and as zips: which images are found, and what is said about the rest."""

import pathlib
import re
import zipfile

import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data import sources

# Name: (folders with two images each, {class folder as found: (class, split)}, patterns of warnings in their order).
# The warnings about absent classes and an absent Testing folder are tested elsewhere.
FOUND = {
    "the Kaggle layout": (
        ["Training/a", "Training/b", "Testing/a"],
        {"Training/a": ("a", "Training"), "Training/b": ("b", "Training"), "Testing/a": ("a", "Testing")},
        [],
    ),
    "a nested copy": (
        ["Training/a", "Training/b", "Brain tumor/Training/a", "Brain tumor/Training/b"],
        {"Training/a": ("a", "Training"), "Training/b": ("b", "Training")},
        [r"Brain tumor holds class folders of its own \(4 files\): left out"],
    ),
    "a nested copy inside of Training": (
        ["Training/a", "Training/b", "Training/Training/a", "Training/Training/b"],
        {"Training/a": ("a", "Training"), "Training/b": ("b", "Training")},
        [r"Training/Training holds class folders of its own|4 files in .* are not directly in a class folder"],
    ),
    "yes and no beside their own copy (Kaggle navoneel)": (
        ["yes", "no", "brain_tumor_dataset/yes", "brain_tumor_dataset/no"],
        {"yes": ("yes", "Training"), "no": ("no", "Training")},
        [r"brain_tumor_dataset holds class folders of its own \(4 files\): left out"],
    ),
    "images to predict beside the classes (Kaggle Br35H)": (
        ["yes", "no", "pred", "Br35H-Mask-RCNN/TRAIN", "Br35H-Mask-RCNN/VAL", "Br35H-Mask-RCNN/TEST"],
        {"yes": ("yes", "Training"), "no": ("no", "Training")},
        [r"pred holds 2 files without class folders: left out", r"6 files in .* such as Br35H-Mask-RCNN/TEST/0\.png"],
    ),
    "two wrappers (Kaggle preetviradiya)": (
        ["Data Set/Data Set/Brain Tumor", "Data Set/Data Set/Healthy"],
        {"Brain Tumor": ("Brain Tumor", "Training"), "Healthy": ("Healthy", "Training")},
        [],
    ),
    "splits that repeat their own name (Kaggle intel-image-classification)": (
        ["train/train/a", "train/train/b", "test/test/a"],
        {"train/train/a": ("a", "Training"), "train/train/b": ("b", "Training"), "test/test/a": ("a", "Testing")},
        [],
    ),
    "class folders that repeat their own name": (
        ["a/a", "b/b"],
        {"a/a": ("a", "Training"), "b/b": ("b", "Training")},
        [],
    ),
    "splits as Roboflow exports them (roboflow-python #153, ultralytics #21311)": (
        ["train/a", "train/b", "valid/a", "valid/b", "test/a"],
        {"train/a": ("a", "Training"), "train/b": ("b", "Training"), "test/a": ("a", "Testing")},
        [r"valid is not used \(4 files\): validation images are a fold of Training"],
    ),
    "other spellings of the splits": (
        ["set/Train_Set/a", "set/Train_Set/b", "set/VALIDATION/a", "set/Testing Data/b"],
        {"Train_Set/a": ("a", "Training"), "Train_Set/b": ("b", "Training"), "Testing Data/b": ("b", "Testing")},
        [r"set/VALIDATION is not used \(2 files\)"],
    ),
    "unlabelled test images (fastai #1552)": (
        ["train/a", "train/b", "test"],
        {"train/a": ("a", "Training"), "train/b": ("b", "Training")},
        [r"/test holds 2 files without class folders: left out"],
    ),
    "unlabelled images (pseudo_label_keras #1)": (
        ["train/a", "train/b", "validation/a", "no_label/no_label"],
        {"train/a": ("a", "Training"), "train/b": ("b", "Training")},
        [r"validation is not used \(2 files\)", r"2 files in .* such as no_label/no_label/0\.png: left out"],
    ),
    "unlabelled test images beside class folders": (
        ["a", "b", "test_images"],
        {"a": ("a", "Training"), "b": ("b", "Training")},
        [r"/test_images holds 2 files without class folders: left out"],
    ),
    "notebook checkpoints (colabtools #1824, mmpretrain #507)": (
        ["train/a", "train/b", "train/.ipynb_checkpoints", "train/a/.ipynb_checkpoints"],
        {"train/a": ("a", "Training"), "train/b": ("b", "Training")},
        [],
    ),
    "thumbnails of a Synology (photoprism #555)": (
        ["a", "b", "a/@eaDir/0.png", "@eaDir", "#recycle/a"],
        {"a": ("a", "Training"), "b": ("b", "Training")},
        [],
    ),
    "resource forks (deep-learning-v2-pytorch #217)": (
        ["set/a", "set/b", "__MACOSX/set/a", "set/__MACOSX/b"],
        {"a": ("a", "Training"), "b": ("b", "Training")},
        [],
    ),
    "classes that are called like splits": (
        ["valid", "invalid"],
        {"valid": ("valid", "Training"), "invalid": ("invalid", "Training")},
        [],
    ),
}

# Name: (folders, pattern of the error).
REFUSED = {
    "two sets side by side": (["MRI/a", "MRI/b", "CT/a", "CT/b"], r"several folders side by side, 'CT', 'MRI': .*give"),
    "a folder for each patient": (["glioma/P1", "glioma/P2", "notumor/P3"], r"side by side, 'notumor', 'glioma'"),
    "a folder for each patient of one class": (
        ["Training/glioma/P1", "Training/glioma/P2", "Training/notumor"],
        r"Training/glioma holds its images in folders of its own, such as Training/glioma/P1: move them",
    ),
    "a folder for each patient of a class of the set": (
        ["glioma/P1", "glioma/P2", "notumor", "pituitary"],
        r"glioma holds its images in folders of its own",
    ),
    "splits without classes": (["train", "test"], r"holds no images in class folders"),
}


@pytest.mark.parametrize("name", ["archive.zip", "set/images.tar.gz", "a.RAR"])
def test_a_folder_that_holds_an_archive_says_so(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=rf"holds no images in class folders: unpack {name}$"):
        sources.open_path(tmp_path, field="--data")


def write(directory: pathlib.Path, folders: list[str], *, as_zip: bool) -> pathlib.Path:
    files = [f"{folder}/{number}.png" for folder in folders for number in range(2)]
    if as_zip:
        with zipfile.ZipFile(directory / "set.zip", "w") as archive:
            for file in files:
                archive.writestr(file, file)
        return directory / "set.zip"
    for file in files:
        (directory / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / "images" / file).write_text(file)
    return directory / "images"


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("name", FOUND)
def test_images_are_found_once_and_the_rest_is_named(name, as_zip, tmp_path):
    folders, expected, patterns = FOUND[name]
    source = sources.open_path(write(tmp_path, folders, as_zip=as_zip), field="--data")
    paths = [record.path for record in source.records]
    assert paths == sorted(f"{folder}/{number}.png" for folder in expected for number in range(2))
    assert all(source.read(path).decode().endswith(path) for path in paths)
    found = {
        record.path.rpartition("/")[0]: (source.class_names[record.label], record.split) for record in source.records
    }
    assert found == expected
    lines = [line for line in source.warnings if "no Testing folder" not in line]
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.search(pattern, line), line
        assert "\n" not in line


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_is_an_error_that_says_what_to_do(name, as_zip, tmp_path):
    folders, pattern = REFUSED[name]
    with pytest.raises(UsageError, match=pattern):
        sources.open_path(write(tmp_path, folders, as_zip=as_zip), field="--data")


def test_folders_without_images_are_no_classes(tmp_path):
    """Labels for object detection lie beside the images (ultralytics #6658)."""
    path = write(tmp_path, ["train/a", "train/b"], as_zip=False)
    (path / "train/labels").mkdir()
    (path / "train/labels/0.txt").write_text("0 .5 .5 .1 .1")
    (path / "docs").mkdir()
    (path / "docs/paper.pdf").write_text("%PDF")
    source = sources.open_path(path, field="--data")
    assert source.class_names == ("a", "b") and len(source.records) == 4
    assert re.search(r"2 files in .* such as docs/paper\.pdf: left out", source.warnings[0])


def test_a_class_of_the_evaluated_model_is_found_by_any_name(tmp_path):
    path = write(tmp_path, ["a", "b", "pred"], as_zip=False)
    source = sources.open_path(path, field="--data", class_names=("a", "b", "pred"))
    assert {record.path for record in source.records} >= {"pred/0.png", "pred/1.png"}


def test_two_spellings_of_a_split_are_named(tmp_path):
    source = sources.open_path(write(tmp_path, ["Training/a", "train/b"], as_zip=True), field="--data")
    assert len(source.records) == 4
    assert any(re.search("several folders that all count as Training: Training, train", w) for w in source.warnings)

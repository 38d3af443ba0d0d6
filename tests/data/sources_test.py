import pathlib
import re
import zipfile

import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data import class_labels, sources


def contents(source: sources.Source) -> dict[sources.Record, bytes]:
    return {record: source.read(record.path) for record in source.records}


def zipped(directory: pathlib.Path, *, wrapper: str = "", junk: bool = False, folders: bool = False) -> pathlib.Path:
    path = directory.parent / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(directory.rglob("*"), reverse=True):
            name = wrapper + file.relative_to(directory).as_posix()
            if file.is_file():
                archive.write(file, name)
            elif folders:
                archive.writestr(f"{name}/", "")
            if junk and file.is_file():
                archive.writestr(f"__MACOSX/{pathlib.PurePosixPath(name).parent}/._{file.name}", b"resource fork")
                archive.writestr(f"{name.rpartition('/')[0]}/.DS_Store {file.name}", b"finder")
    return path


def test_folder_in_the_kaggle_layout(kaggle):
    source = kaggle.open()
    assert source.class_names == class_labels.BRAIN_TUMOR_CLASSES
    assert [record.path for record in source.records] == sorted(record.path for record in source.records)
    assert len(source.records) == 11
    assert source.divided and not source.synthetic and source.notice is None
    assert source.warnings == () and source.groups == {}
    for record in source.records:
        split, folder, _ = record.path.split("/")
        assert (record.split, source.class_names[record.label]) == (split, folder)
        assert source.read(record.path) == (kaggle.path / record.path).read_bytes()


def test_of_split_takes_the_records_of_that_split(kaggle):
    source = kaggle.open()
    assert {record.path.split("/")[0] for record in source.select_split("Testing").records} == {"Testing"}
    assert len(source.select_split("Training").records) + len(source.select_split("Testing").records) == len(
        source.records
    )


def test_patients_are_a_column_of_their_own_else_the_groups(kaggle):
    kaggle.write("groups.csv", "path,group,patient\nTraining/a/1.png,g1,p1\nTraining/a/2.png,g2,\n")
    assert kaggle.open().patients == {"Training/a/1.png": "p1", "Training/a/2.png": ""}
    kaggle.write("groups.csv", "path,group\nTraining/a/1.png,g1\nTraining/a/2.png,\n")
    assert kaggle.open().patients == kaggle.open().groups == {"Training/a/1.png": "g1"}
    phantoms = sources.open_phantoms(per_class=(2, 1), seed=0)
    assert phantoms.patients == phantoms.groups


@pytest.mark.parametrize("wrapper", ["", "archive/", "a/brain tumor/"])
@pytest.mark.parametrize("junk", [False, True])
def test_zip_gives_the_records_and_bytes_of_the_folder(kaggle, wrapper, junk):
    kaggle.write("groups.csv", "path,group\nTraining/glioma_tumor/image (5).png,p\n")
    from_folder = kaggle.open()
    from_zip = sources.open_path(zipped(kaggle.path, wrapper=wrapper, junk=junk), field="config.data.dir")
    assert from_zip.records == from_folder.records
    assert contents(from_zip) == contents(from_folder)
    assert from_zip.groups == from_folder.groups == {"Training/glioma_tumor/image (5).png": "p"}
    assert from_zip.warnings == ()
    assert "zip" in from_zip.description and "archive.zip" in from_zip.description


def test_wrapped_folder_gives_the_same_records(kaggle):
    wrapped = kaggle.path.parent / "outer"
    (wrapped / "deep").mkdir(parents=True)
    before = contents(kaggle.open())
    kaggle.path.rename(wrapped / "deep" / "images")
    assert contents(sources.open_path(wrapped, field="config.data.dir")) == before


def test_hidden_and_system_files_do_not_count(kaggle):
    before = kaggle.open().records
    kaggle.write("Training/glioma_tumor/.hidden.png", b"x").write("Training/glioma_tumor/Thumbs.db", b"x")
    kaggle.write("Training/no_tumor/desktop.ini", b"x").write("Training/.cache/image.png", b"x")
    kaggle.write("__MACOSX/Training/no_tumor/._image.png", b"x").write("__MACOSX/no_tumor/image.png", b"x")
    source = kaggle.open()
    assert source.records == before
    assert source.warnings == ()


def test_linked_class_folders_are_followed(kaggle, tmp_path):
    before = contents(kaggle.open())
    elsewhere = tmp_path / "elsewhere"
    (kaggle.path / "Training").rename(elsewhere)
    (kaggle.path / "Training").symlink_to(elsewhere)
    assert contents(kaggle.open()) == before


def test_files_outside_of_class_folders_are_counted_in_a_warning(kaggle):
    before = kaggle.open().records
    kaggle.write("README.txt", b"at the top: nobody expects an image").write("Training/stray.png", b"x")
    kaggle.write("Training/glioma_tumor/deeper/image.png", b"x").write("docs/paper.pdf", b"x")
    source = kaggle.open()
    assert source.records == before
    (warning,) = source.warnings
    assert re.match(r"3 files in .* are not directly in a class folder, such as .*: left out", warning)


def test_aliases_are_the_classes_of_the_set(folder):
    for name in ("Glioma", "meningioma-tumor", "notumor", "pituitary"):
        folder.add(f"training/{name}")
    folder.add("test/glioma_tumor").add("test/healthy")
    source = folder.open()
    assert source.class_names == class_labels.BRAIN_TUMOR_CLASSES
    found = {
        record.path.rsplit("/", 1)[0]: (source.class_names[record.label], record.split) for record in source.records
    }
    assert found == {
        "training/Glioma": ("glioma_tumor", "Training"),
        "training/meningioma-tumor": ("meningioma_tumor", "Training"),
        "training/notumor": ("no_tumor", "Training"),
        "training/pituitary": ("pituitary_tumor", "Training"),
        "test/glioma_tumor": ("glioma_tumor", "Testing"),
        "test/healthy": ("no_tumor", "Testing"),
    }


def test_other_class_folders_stand_in_alphabetical_order_under_their_own_names(folder):
    folder.add("train/yes").add("train/no").add("train/Unclear").add("test/no")
    source = folder.open()
    assert source.class_names == ("Unclear", "no", "yes")
    assert {record.path.split("/")[1]: record.label for record in source.records} == {"Unclear": 0, "no": 1, "yes": 2}


def test_flat_layout_is_all_training_and_serves_as_any_split(folder):
    folder.add("glioma").add("notumor")
    source = folder.open()
    assert not source.divided
    assert {record.split for record in source.records} == {"Training"}
    assert source.select_split("Testing").records == source.records
    assert any("no Testing folder" in line for line in source.warnings)


def test_missing_testing_is_a_warning(folder):
    folder.add("Training/yes").add("Training/no")
    source = folder.open()
    assert len(source.records) == 4 and source.divided
    (warning,) = source.warnings
    assert "no Testing folder" in warning
    assert source.select_split("Testing").records == ()


@pytest.mark.parametrize("as_zip", [False, True])
def test_empty_class_folder_in_training_is_an_error_that_names_it(kaggle, as_zip):
    (kaggle.path / "Training/pineal_tumor").mkdir()
    kaggle.write("Training/pineal_tumor/.DS_Store", b"hidden files do not fill a folder")
    path = zipped(kaggle.path, folders=True) if as_zip else kaggle.path
    with pytest.raises(UsageError, match=r"Training/pineal_tumor is an empty class folder"):
        sources.open_path(path, field="config.data.dir")


def test_empty_class_folder_in_testing_is_a_warning(kaggle):
    before = kaggle.open().records
    (kaggle.path / "Testing/pituitary_tumor").mkdir()
    source = kaggle.open()
    assert source.records == before
    (warning,) = source.warnings
    assert "Testing/pituitary_tumor is empty: pituitary_tumor is not evaluated" in warning


def test_class_in_testing_that_training_lacks_is_an_error(kaggle):
    kaggle.add("Testing/pineal_tumor")
    with pytest.raises(UsageError, match=r"Testing/pineal_tumor.*'pineal_tumor' is none of the classes glioma_tumor, "):
        kaggle.open()


def test_known_class_in_testing_that_training_lacks_is_an_error_too(folder):
    folder.add("Training/glioma").add("Training/notumor").add("Testing/glioma").add("Testing/pituitary")
    with pytest.raises(UsageError, match=r"'pituitary' is none of the classes glioma_tumor, no_tumor$"):
        folder.open()


def test_a_model_has_the_classes_of_its_data(folder):
    """Two of the four classes of the set are two classes; the absent ones are named."""
    folder.add("Training/notumor").add("Training/glioma").add("Testing/no_tumor")
    source = folder.open()
    assert source.class_names == ("glioma_tumor", "no_tumor")
    assert {record.path.split("/")[1]: record.label for record in source.records} == {
        "glioma": 0, "no_tumor": 1, "notumor": 1
    }  # fmt: skip
    (warning,) = source.warnings
    assert re.search(
        "has no images of meningioma_tumor, pituitary_tumor: the classes are glioma_tumor, no_tumor", warning
    )


def test_a_run_that_began_with_more_classes_keeps_them(folder):
    folder.add("Training/glioma").add("Training/notumor")
    source = folder.open()
    kept = sources.use_classes(source, class_labels.BRAIN_TUMOR_CLASSES)
    assert kept.class_names == class_labels.BRAIN_TUMOR_CLASSES
    assert [record.label for record in kept.records] == [0, 0, 2, 2]
    assert [record.path for record in kept.records] == [record.path for record in source.records]


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("prefix", ["", "archive/"])
def test_groups_csv_beside_the_folder_around_training(folder, as_zip, prefix):
    folder.add("archive/Training/a").add("archive/Training/b")
    folder.write("groups.csv", f"path,group\n{prefix}Training/a/image (1).png,p1 \n")
    source = sources.open_path(zipped(folder.path) if as_zip else folder.path, field="--data")
    assert source.groups == {"Training/a/image (1).png": "p1"}


def test_groups_csv_that_is_not_used_is_named(folder):
    folder.add("Training/a").add("Training/b").write("Training/groups.csv", "path,group\na/image (1).png,p1\n")
    assert any(
        re.search(r"Training/groups\.csv is not used: move it to .*images/, with", w) for w in folder.open().warnings
    )


@pytest.mark.parametrize("name", ["groups.csv.txt", "Groups.xlsx"])
def test_a_table_of_groups_in_another_form_is_named(folder, name):
    folder.add("Training/a").add("Training/b").write(name, "x")
    assert any(f"{name} is not used: save it as groups.csv" in line for line in folder.open().warnings)


def test_the_table_of_groups_may_have_capital_letters(folder):
    folder.add("Training/a").add("Training/b").write("Groups.CSV", "path,group\nTraining/a/image (1).png,p1\n")
    assert folder.open().groups == {"Training/a/image (1).png": "p1"}


def test_no_training_images_is_an_error(folder):
    folder.add("Testing/glioma_tumor")
    with pytest.raises(UsageError, match="nothing to train on"):
        folder.open()


@pytest.mark.parametrize("wrapper", ["", "archive/"])
def test_testing_alone_can_be_scored_against_the_classes_of_a_model(folder, wrapper):
    folder.add("Testing/pituitary").add("Testing/no_tumor", images=1)
    path = zipped(folder.path, wrapper=wrapper)
    source = sources.open_path(path, field="--data", class_names=class_labels.BRAIN_TUMOR_CLASSES)
    assert source.class_names == class_labels.BRAIN_TUMOR_CLASSES
    assert [(record.path.split("/")[1], record.label) for record in source.select_split("Testing").records] == [
        ("no_tumor", 2), ("pituitary", 3), ("pituitary", 3)
    ]  # fmt: skip


def test_a_class_that_the_model_does_not_know_is_an_error(folder):
    folder.add("cats")
    with pytest.raises(UsageError, match="'cats' is none of the classes dogs, wolves"):
        sources.open_path(folder.path, field="--data", class_names=("dogs", "wolves"))


def test_path_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"config\.data\.dir is '.*nowhere', which does not exist"):
        sources.open_path(tmp_path / "nowhere", field="config.data.dir")


@pytest.mark.parametrize("path", ["https://example.org/a.zip", "gs://bucket/a", "file:///a.zip"])
def test_an_address_is_no_path(path):
    with pytest.raises(UsageError, match=r"--data is '.*://.*', an address: download it"):
        sources.open_path(path, field="--data")
    with pytest.raises(UsageError, match=r"config\.data\.dir is '.*://.*', an address: download it"):
        sources.open_source("auto", directory=path)


def test_path_that_is_neither_folder_nor_zip(tmp_path):
    (tmp_path / "images.tar").write_bytes(b"not a zip")
    with pytest.raises(UsageError, match="neither a folder nor a zip"):
        sources.open_path(tmp_path / "images.tar", field="config.data.dir")


def test_truncated_zip(kaggle):
    path = zipped(kaggle.path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UsageError, match="a damaged zip: download or pack it again"):
        sources.open_path(path, field="config.data.dir")


def test_damaged_member_of_a_zip_is_an_error_of_reading_that_names_it(kaggle):
    path = zipped(kaggle.path)
    name = "Training/glioma_tumor/image (5).png"
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name).header_offset + 30 + len(name)
    content = bytearray(path.read_bytes())
    content[start + 20] ^= 0xFF
    path.write_bytes(content)
    source = sources.open_path(path, field="config.data.dir")
    with pytest.raises(OSError, match=re.escape(name)):
        source.read(name)
    assert source.read("Training/glioma_tumor/image (6).png")


def test_folder_without_class_folders(folder):
    folder.write("image.png", b"x")
    with pytest.raises(UsageError, match=r"holds no images in class folders: expected Training/<class>/<image>"):
        folder.open()


def test_groups_csv_is_read_with_empty_groups_left_out(kaggle):
    kaggle.write("groups.csv", "\ufeffpath,label,group\nTraining/a/1.png,a,p1\nTraining/a/2.png,a,\nTraining/a/3.png\n")
    assert kaggle.open().groups == {"Training/a/1.png": "p1"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"path,patient\nTraining/a/1.png,p\n",
        b"Training/a/1.png,p\n",
        b"path,label\n",
        b"path,group\n\xff\xfe,p\n",
        b"path,group\n" + b"x" * 200_000 + b",p\n",
    ],
    ids=["empty", "no group", "no header", "header only", "not UTF-8", "huge field"],
)
def test_broken_groups_csv(kaggle, content):
    kaggle.write("groups.csv", content)
    with pytest.raises(UsageError, match=r"groups\.csv is not a table with the columns path and group"):
        kaggle.open()


@pytest.mark.real_data
def test_the_real_set_by_class(real_source):
    counts = np.zeros(4, int)
    for record in real_source.select_split("Training").records:
        counts[record.label] += 1
    assert dict(zip(real_source.class_names, counts.tolist(), strict=True)) == {
        "glioma_tumor": 826, "meningioma_tumor": 822, "no_tumor": 395, "pituitary_tumor": 827
    }  # fmt: skip
    assert real_source.warnings == ()
    assert real_source.groups.keys() >= {record.path for record in real_source.select_split("Training").records}

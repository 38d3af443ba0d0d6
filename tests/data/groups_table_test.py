import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data import groups_table

PATHS = ("Training/a/1.png", "Training/a/2.png")


def parse(text: str, **options) -> groups_table.GroupsTable:
    return groups_table.parse(text.encode(), name="groups.csv", **options)


@pytest.mark.parametrize(
    "text",
    [
        "path,group\nTraining/a/1.png,P01\nTraining/a/2.png,P01 \n",
        "path, group \n Training/a/1.png , P01\nTraining/a/2.png,P01\n",
        "path,group\nTraining\\a\\1.png,P01\n./Training/a/2.png,P01\n",
        "path;group\nTraining/a/1.png;P01\nTraining/a/2.png;P01\n",
        "path\tgroup\r\nTraining/a/1.png\tP01\r\nTraining/a/2.png\tP01\r\n",
        "path,group\nTraining/a/1.png,P01\nTraining/a/1.png,P01\nTraining/a/1.png,\nTraining/a/2.png,P01\n",
    ],
    ids=["spaces after groups", "spaces everywhere", "Windows", "semicolons", "tabs", "repeated rows"],
)
def test_the_way_a_table_is_written_does_not_count(text):
    table = parse(text, paths=PATHS)
    assert table.groups == table.patients == dict.fromkeys(PATHS, "P01")
    assert table.warnings == ()


def test_a_file_name_may_have_spaces_and_accents_in_either_form():
    paths = ("a/ 1.png", "a/Mu\u00f1oz.png")
    assert parse("path,group\na/ 1.png,p\na/Mun\u0303oz.png,q\n", paths=paths).groups == dict(
        zip(paths, "pq", strict=True)
    )


@pytest.mark.parametrize("path", ["Training/a/1.png", "archive/Training/a/1.png", "archive\\Training\\a\\1.png"])
def test_paths_may_start_with_the_folder_around_training(path):
    table = parse(f"path,group\n{path},p1\n", paths=PATHS, prefix="archive/")
    assert table.groups == {"Training/a/1.png": "p1"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("Training/a/1.png,p1,\nTraining/a/1.png,p2,\n", r"the group of Training/a/1\.png is 'p1' and 'p2': keep one"),
        ("Training/a/1.png,p1,x\n./Training/a/1.png,p1,y\n", r"the patient of Training/a/1\.png is 'x' and 'y'"),
    ],
)
def test_rows_that_contradict_each_other(rows, message):
    with pytest.raises(UsageError, match=message):
        parse("path,group,patient\n" + rows, paths=PATHS)


def test_a_patient_with_two_groups_is_a_warning():
    table = parse("path,group,patient\nTraining/a/1.png,g1,x\nTraining/a/2.png,g2,x\n", paths=PATHS)
    assert table.groups == {"Training/a/1.png": "g1", "Training/a/2.png": "g2"}
    (warning,) = table.warnings
    assert "gives 1 patients several groups, such as x" in warning

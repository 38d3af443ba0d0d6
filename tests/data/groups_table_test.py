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
        "Path,GROUP\nTraining/a/1.png,P01\nTraining/a/2.png,P01\n",
        "sep=;\npath;group\nTraining/a/1.png;P01\nTraining/a/2.png;P01\n",
        "\n \r\npath,group\rTraining/a/1.png,P01\rTraining/a/2.png,P01\r",
        "path,group\nTraining/a/1.png,P01\u200b\nTraining/a/2.png,\ufeffP01\u00a0\n",
    ],
    ids=[
        "spaces after groups",
        "spaces everywhere",
        "Windows",
        "semicolons",
        "tabs",
        "repeated rows",
        "capital letters",
        "Excel",
        "old Mac, blank lines first",
        "invisible characters",
    ],
)
def test_the_way_a_table_is_written_does_not_count(text):
    table = parse(text, paths=PATHS)
    assert table.groups == table.patients == dict.fromkeys(PATHS, "P01")
    assert table.warnings == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_encodings_of_spreadsheets(encoding):
    text = "path\tgroup\r\nTraining/a/1.png\tN\u00fa\u00f1ez\r\n"
    table = groups_table.parse(text.encode(encoding), name="groups.csv", paths=PATHS)
    assert table.groups == {"Training/a/1.png": "N\u00fa\u00f1ez"}


def test_another_encoding_is_named_with_what_to_do():
    with pytest.raises(UsageError, match=r"in UTF-8: save it again, in a spreadsheet as `CSV UTF-8`"):
        groups_table.parse("path,group\na,N\u00fa\u00f1ez\n".encode("latin-1"), name="groups.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('path,group\n"Training/a/1.png,p1\nTraining/a/2.png,p2\n', "unexpected end of data"),
        ("path,group,Group\nTraining/a/1.png,p1,p2\n", "two columns have the same name"),
        ("path|group\nTraining/a/1.png|p1\n", "group is missing"),
    ],
)
def test_a_table_that_would_be_read_wrongly_is_refused(text, message):
    with pytest.raises(UsageError, match=f"is not a table with the columns path and group: {message}"):
        parse(text, paths=PATHS)


@pytest.mark.parametrize("path", ["training/A/1.png", "/home/me/set/Training/a/1.png", "1.png"])
def test_paths_of_no_image_are_a_warning(path):
    """Else the images would count as those of unknown patients without a word, and leak."""
    (warning,) = parse(f"path,group\n{path},p1\nTraining/a/2.png,p2\n", paths=PATHS).warnings
    assert f"has 1 paths of no image here, such as {path.strip('/')}" in warning
    assert warning.endswith("write paths as in Training/a/1.png")


def test_groups_that_differ_by_capital_letters_are_a_warning():
    (warning,) = parse("path,group\nTraining/a/1.png,p1\nTraining/a/2.png,P1\n", paths=PATHS).warnings
    assert "has the groups 'p1' and 'P1': write them alike" in warning


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

import pytest

from bt_jax.common import formatting


def test_a_table_of_three_columns_is_aligned_to_the_right() -> None:
    text = formatting.format_markdown_table(["Name", "A", "B"], [["x", 1, 2.5], ["y|z", None, "two\nlines"]])
    assert text == "| Name | A | B |\n| --- | --: | --: |\n| x | 1 | 2.5 |\n| y\\|z | None | two lines |"


def test_a_table_of_two_columns_is_aligned_to_the_left() -> None:
    assert formatting.format_markdown_table(["", ""], [["a", "b"]]) == "|  |  |\n| --- | --- |\n| a | b |"


def test_a_table_without_rows_is_empty() -> None:
    assert formatting.format_markdown_table(["Name", "A"], []) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.7, "60 s"),
        (99, "99 s"),
        (100, "1.7 min"),
        (5000, "83.3 min"),
        (6000, "1.7 h"),
        (7260, "2.0 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert formatting.format_duration(seconds) == text


def test_a_section_leaves_out_empty_paragraphs() -> None:
    assert formatting.format_markdown_section("A", "", "one", "two") == "## A\n\none\n\ntwo"
    assert formatting.format_markdown_section("A", "", "") == ""

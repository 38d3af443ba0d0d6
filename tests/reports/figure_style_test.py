import pytest
from PIL import Image

from bt_jax.reports import figure_style


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_the_header_grows_with_what_it_says():
    plain = figure_style.make_figure(5, 4, title="a title", notice=None)
    warned = figure_style.make_figure(5, 4, title="a title", notice="NOT REAL")
    longer = figure_style.make_figure(5, 4, title="a title", notice="NOT REAL " * 20)
    heights = [figure.get_size_inches()[1] for figure in (plain, warned, longer)]
    assert 4 < heights[0] < heights[1] < heights[2]
    assert texts(plain) == ["a title"] and texts(warned) == ["NOT REAL", "a title"]


def test_a_dollar_sign_starts_no_formula(tmp_path):
    figure = figure_style.make_figure(5, 4, title="$x^2$ and $broken", notice="$")
    figure_style.save(figure, tmp_path / "figure.png")
    assert texts(figure) == [r"\$", r"\$x^2\$ and \$broken"]


@pytest.mark.parametrize(("suffix", "begin"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_the_suffix_is_the_format(tmp_path, suffix, begin):
    figure_style.save(figure_style.make_figure(5, 4, title="t", notice=None), tmp_path / f"figure{suffix}")
    assert (tmp_path / f"figure{suffix}").read_bytes().startswith(begin)
    assert len(list(tmp_path.iterdir())) == 1


def test_legend_and_frame(tmp_path):
    figure = figure_style.make_figure(5, 4, title="t", notice=None)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], label="line")
    figure_style.style_axes(axes, xlabel="x", ylabel="y")
    figure_style.add_legend(axes)
    figure_style.save(figure, tmp_path / "figure.png")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["line"]
    assert (axes.get_xlabel(), axes.spines["top"].get_visible()) == ("x", False)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width == 5 * figure_style.DPI


def test_many_lines_look_different():
    styles = {
        (
            figure_style.LINE_COLOURS[i % len(figure_style.LINE_COLOURS)],
            str(figure_style.LINE_STYLES[i % len(figure_style.LINE_STYLES)]),
        )
        for i in range(28)
    }
    assert len(styles) == 28

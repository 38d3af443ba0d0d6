"""Draws a model as the chain of its segments, from the image to the classes."""

import pathlib
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from bt_jax.common.errors import UsageError
from bt_jax.models import summary
from bt_jax.models.summary import Segment
from bt_jax.reports import figure_style

SUFFIXES = (".svg", ".png")
_ROW, _BOX = 0.62, 0.42  # inches: distance between boxes, and height of a box
_BOXES, _SHAPES, _PARAMETERS, _FLOPS, _WIDTH = (
    0.1,
    4.3,
    6.15,
    8.35,
    10.5,
)  # inches: columns, and right edge
_BAR = 1.1  # inches: length of the longest bar
_LETTERS = 46  # letters that fit into the second line of a box


def draw_diagram(path: pathlib.Path, parts: Sequence[Segment], *, title: str, size: int) -> None:
    """Draws segments as a vertical chain, with output shapes and bars for parameters and operations.

    Consecutive segments that differ only in their name share a box.

    Args:
      path: of the picture, `.svg` or `.png`.
      parts: from `summary.summarise`.
      title: printed on top, followed by the totals.
      size: side of the image in pixels.

    Raises:
      UsageError: the suffix is neither `.svg` nor `.png`.
    """
    check_suffix(path)
    grouped = summary.group_repeated(parts)
    parameters, flops = summary.count_total(parts)
    title = f"{title}\n{parameters:,} parameters, {summary.format_mega(flops)} MFLOP per image"
    height = _ROW * (len(grouped) + 1) + 0.45
    figure = figure_style.make_figure(_WIDTH, height, title=title, notice=None)
    axes = figure.add_subplot()
    axes.set(xlim=(0, _WIDTH), ylim=(height, 0))
    axes.axis("off")
    for x, text in ((_SHAPES, "output"), (_PARAMETERS, "parameters"), (_FLOPS, "MFLOP")):
        axes.text(x, 0.2, text, va="center", fontsize=figure_style.LABEL_SIZE, color=figure_style.GREY)
    top = 0.4
    _draw_box(axes, top, name="image", below="grey, as three channels", shape=(size, size, 3))
    for number, group in enumerate(grouped):
        arrow = {"arrowstyle": "-|>", "color": figure_style.GREY, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (_BOXES + 0.5, top + _ROW), (_BOXES + 0.5, top + _BOX), arrowprops=arrow)
        top += _ROW
        first, count = group[0], len(group)
        name = first.name if count == 1 else f"{first.name} to {group[-1].name} ({count} times)"
        _draw_box(axes, top, name=name, below=_list_layer_kinds(first), shape=first.shape, colour="#DCEBF5")
        for x, colour, values, form in (
            (_PARAMETERS, figure_style.BLUE, [len(g) * g[0].parameters for g in grouped], "{:,}".format),
            (_FLOPS, figure_style.ORANGE, [len(g) * g[0].flops for g in grouped], summary.format_mega),
        ):
            value = values[number]
            _draw_bar(axes, x, top, value / max(1, *values), colour=colour, text=form(value))
    figure_style.save(figure, path)


def check_suffix(path: pathlib.Path) -> None:
    """Raises a UsageError if the suffix is neither `.svg` nor `.png`."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} is not a picture file: use a name that ends in {' or '.join(SUFFIXES)}")


def _draw_box(axes: Axes, top: float, *, name: str, below: str, shape: summary.Shape, colour: str = "white") -> None:
    axes.add_patch(
        FancyBboxPatch(
            (_BOXES, top),
            _SHAPES - _BOXES - 0.2,
            _BOX,
            boxstyle=f"round,pad=0,rounding_size={_BOX / 6}",
            facecolor=colour,
            edgecolor=figure_style.GREY,
        )
    )
    x, middle = _BOXES + 0.12, top + _BOX / 2
    y = top + 0.3 * _BOX if below else middle
    axes.text(x, y, figure_style.escape_dollars(name), va="center", fontsize=figure_style.LABEL_SIZE, weight="bold")
    axes.text(
        x, top + 0.72 * _BOX, figure_style.escape_dollars(below), va="center", fontsize=7.5, color=figure_style.GREY
    )
    axes.text(_SHAPES, middle, summary.format_shape(shape), va="center", fontsize=figure_style.LABEL_SIZE)


def _draw_bar(axes: Axes, x: float, top: float, share: float, *, colour: str, text: str) -> None:
    axes.barh(top + _BOX / 2, _BAR * share, height=0.2, left=x, color=colour)
    axes.text(x + _BAR * share + 0.06, top + _BOX / 2, text, va="center", fontsize=figure_style.SMALL_SIZE)


def _list_layer_kinds(segment: Segment) -> str:
    """Lists the layers with multiplications, as many as fit into the box."""
    names = [layer.name.split(".")[0].replace("_", " ") for layer in segment.layers if layer.flops]
    names = [name for name in dict.fromkeys(names) if name]
    text = ", ".join(names)
    while len(text) > _LETTERS and len(names) > 1:
        names.pop()
        text = f"{', '.join(names)}, ..."
    return text

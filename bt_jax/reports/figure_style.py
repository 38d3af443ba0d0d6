"""The common style of all pictures: colours, sizes, and a header with title and warning.

Figures use matplotlib's object-oriented interface, so they neither depend on pyplot's global state nor change it.
Sizes are in inches, text sizes in points. The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/),
which colour-blind readers can distinguish. Line styles distinguish the curves in grey print.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bt_jax.common import files

DPI = 150
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
# The eighth colour, yellow, is left out: a yellow line is hard to see on white.
LINE_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
# Seven and four have no common factor, so colours and styles give 28 different lines.
LINE_STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1)))
GREY = "#666666"
LIGHT_GREY = "#BBBBBB"

TITLE_SIZE, LABEL_SIZE, SMALL_SIZE = 12, 10, 8.5
_TITLE_LINE, _NOTICE_BAND, _MARGIN = 0.24, 0.36, 0.12


def make_figure(width: float, height: float, *, title: str, notice: str | None) -> Figure:
    """Makes a white figure of `width` x `height` inches, plus a header for the notice and the title."""
    letters = int(width * 9)
    lines = [line for part in title.splitlines() for line in textwrap.wrap(escape_dollars(part), letters)]
    warning = textwrap.wrap(escape_dollars(notice), letters) if notice else []
    band = _NOTICE_BAND + _TITLE_LINE * (len(warning) - 1) if warning else 0.0
    header = band + _MARGIN + _TITLE_LINE * len(lines)
    total = height + header
    figure = Figure(figsize=(width, total), facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, height / total), w_pad=_MARGIN, h_pad=_MARGIN)
    style: dict[str, Any] = {"ha": "center", "weight": "bold", "linespacing": 1.3, "fontsize": TITLE_SIZE}
    if warning:
        figure.add_artist(Rectangle((0, 1 - band / total), 1, band / total, facecolor=VERMILLION, edgecolor="none"))
        figure.text(0.5, 1 - band / total / 2, "\n".join(warning), va="center", color="white", **style)
    figure.text(0.5, 1 - (band + _MARGIN) / total, "\n".join(lines), va="top", **style)
    return figure


def save(figure: Figure, path: files.Path) -> None:
    """Saves the figure to `path` atomically, in the format of its suffix."""
    with files.replace_atomically(path) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor="white")


def style_axes(axes: Axes, *, xlabel: str = "", ylabel: str = "") -> None:
    """Adds labels and a faint grid to axes, and removes the box around them."""
    axes.set_xlabel(xlabel, fontsize=LABEL_SIZE)
    axes.set_ylabel(ylabel, fontsize=LABEL_SIZE)
    axes.tick_params(labelsize=SMALL_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)


def add_legend(axes: Axes, handles: Sequence[Any] | None = None, ncols: int = 1) -> None:
    """Adds a legend beside the axes, where it hides nothing."""
    style: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "fontsize": SMALL_SIZE}
    handles = axes.get_legend_handles_labels()[0] if handles is None else handles
    axes.legend(handles=handles, ncols=ncols, handlelength=2.6, labelspacing=0.7, frameon=False, **style)


def escape_dollars(text: str) -> str:
    """Escapes dollar signs, which would otherwise start a formula."""
    return text.replace("$", r"\$")

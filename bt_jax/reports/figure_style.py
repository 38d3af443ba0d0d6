"""How all pictures look: colours, sizes, the header with title and warning; matplotlib's figures and their files.

Figures are drawn with the object-oriented interface, so nothing here depends on or changes pyplot's global state. Sizes
are inches, text sizes points. Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which stay apart
for colour-blind readers; line styles tell the curves apart in print.
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
# The eighth, yellow, is left out: a line of it can hardly be seen on white.
LINE_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
# Seven colours and four styles have no common factor: 28 classes look different.
LINE_STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1)))
GREY = "#666666"
LIGHT_GREY = "#BBBBBB"

TITLE_SIZE, LABEL_SIZE, SMALL_SIZE = 12, 10, 8.5
_TITLE_LINE, _NOTICE_BAND, _MARGIN = 0.24, 0.36, 0.12


def make_figure(width: float, height: float, *, title: str, notice: str | None) -> Figure:
    """A white figure of `width` x `height` inches below a header that holds the notice and the title."""
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
    """Replaces `path` by the figure in the format that its suffix names, atomically."""
    with files.replace_atomically(path) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor="white")


def style_axes(axes: Axes, *, xlabel: str = "", ylabel: str = "") -> None:
    """Labels and a faint grid, without a box around."""
    axes.set_xlabel(xlabel, fontsize=LABEL_SIZE)
    axes.set_ylabel(ylabel, fontsize=LABEL_SIZE)
    axes.tick_params(labelsize=SMALL_SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)


def add_legend(axes: Axes, handles: Sequence[Any] | None = None, ncols: int = 1) -> None:
    """Beside the axes, where it hides nothing."""
    style: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "fontsize": SMALL_SIZE}
    handles = axes.get_legend_handles_labels()[0] if handles is None else handles
    axes.legend(handles=handles, ncols=ncols, handlelength=2.6, labelspacing=0.7, frameon=False, **style)


def escape_dollars(text: str) -> str:
    """Text in which a dollar sign stays one and starts no formula."""
    return text.replace("$", r"\$")

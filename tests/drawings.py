"""Captures figures when they are saved, for tests of their content."""

from typing import Any

import matplotlib.figure
import pytest
from matplotlib.text import Text


class Drawn:
    """The figure that was saved last."""

    figure: matplotlib.figure.Figure

    def texts(self) -> list[str]:
        return [text.get_text() for text in self.visible_texts()]

    def visible_texts(self) -> list[Text]:
        outside = set()  # tick labels beyond the limits of an axis exist, but are not drawn
        for axis in (axis for axes in self.figure.axes for axis in (axes.xaxis, axes.yaxis)):
            low, high = sorted(axis.get_view_interval())
            ticks = (*axis.get_major_ticks(), *axis.get_minor_ticks())
            outside |= {id(tick.label1) for tick in ticks if not low <= tick.get_loc() <= high}
        found = self.figure.findobj(Text)
        return [
            text
            for text in found
            if isinstance(text, Text) and text.get_visible() and text.get_text().strip() and id(text) not in outside
        ]

    def lines(self, axes: int) -> dict[str, Any]:
        return {str(line.get_label()): line for line in self.figure.axes[axes].get_lines()}

    def assert_readable(self) -> None:
        """Asserts that no text leaves the figure and no two texts overlap."""
        renderer = self.figure.canvas.get_renderer()  # type: ignore[attr-defined]
        width, height = self.figure.canvas.get_width_height()
        boxes = []
        for text in self.visible_texts():
            box = text.get_window_extent(renderer)
            boxes.append((text.get_text(), box))
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text.get_text()
        for i, (name, box) in enumerate(boxes):
            for other_name, other in boxes[:i]:
                # One pixel of tolerance: boxes of neighbouring lines of a legend touch.
                apart_x = min(box.x1, other.x1) - max(box.x0, other.x0) <= 1
                apart_y = min(box.y1, other.y1) - max(box.y0, other.y0) <= 1
                assert apart_x or apart_y, f"{name!r} overlaps {other_name!r}"


def keeping(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Captures all figures that are saved from now on."""
    keeper = Drawn()
    savefig = matplotlib.figure.Figure.savefig

    def keeping(figure: matplotlib.figure.Figure, *arguments: Any, **options: Any) -> None:
        keeper.figure = figure
        assert options["dpi"] == 150
        savefig(figure, *arguments, **{**options, "dpi": figure.dpi})  # the size that the texts are measured in

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keeping)
    return keeper

"""The picture of a run: loss, accuracy, macro F1 and learning rate over its stages."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from bt_jax.common import files
from bt_jax.reports import figure_style
from bt_jax.reports.figure_style import BLACK, BLUE, GREEN, GREY, LABEL_SIZE, LIGHT_GREY, ORANGE, SMALL_SIZE, VERMILLION

FINE_TUNING = "#CC0000"


def draw_training_curves(
    path: files.Path, *, rows: Sequence[Mapping[str, Any]], title: str, notice: str | None = None
) -> None:
    """Draws loss, accuracy, macro F1 and learning rate over the epochs of a run.

    Args:
      path: where the picture goes, as PNG.
      rows: rows of `metrics.jsonl` in the order of steps. Each has `epoch` (float) and `stage` (from 1), training rows
        `train/loss`, `train/accuracy` and `train/learning_rate`, evaluation rows `val/loss`, `val/accuracy` and
        `val/macro_f1`; what is absent or null is not drawn. A stage begins where the last row of the one before ends,
        and fine-tuning begins with stage 2.
      title: printed on top.
      notice: printed in a coloured band above the title.
    """
    figure = figure_style.make_figure(10, 8.2, title=title, notice=notice)
    loss, quality, rate = panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.7))
    _plot_smoothed_curve(loss, *_select_series(rows, "train/loss"), colour=BLUE, label="training")
    epochs, values = _select_series(rows, "val/loss")
    _plot_curve(loss, epochs, values, color=VERMILLION, linestyle="--", label="validation")
    if len(values):
        best = int(np.argmin(values))
        label = f"lowest validation loss:\n{values[best]:.4g} at epoch {epochs[best]:.4g}"
        marker: dict[str, Any] = {"marker": "*", "markersize": 15, "markeredgecolor": BLACK, "linestyle": "none"}
        loss.plot(epochs[best], values[best], color=ORANGE, label=label, zorder=4, **marker)
    _plot_smoothed_curve(quality, *_select_series(rows, "train/accuracy"), colour=BLUE, label="training accuracy")
    _plot_curve(
        quality, *_select_series(rows, "val/accuracy"), color=VERMILLION, linestyle="--", label="validation accuracy"
    )
    _plot_curve(quality, *_select_series(rows, "val/macro_f1"), color=GREEN, linestyle=":", label="validation macro F1")
    epochs, values = _select_series(rows, "train/learning_rate")
    _plot_curve(rate, epochs, values, markers=False, color=BLACK, label="learning rate")
    if (values > 0).any():
        rate.set_yscale("log", nonpositive="mask")
        # A schedule that ends at almost 0 would press all the rest into a flat line.
        rate.set_ylim(0.8 * max(values[values > 0].min(), 1e-4 * values.max()), 1.5 * values.max())
    all_epochs = [float(row["epoch"]) for row in rows] or [0.0]
    last = max(all_epochs) or 1.0
    loss.set_xlim(-0.01 * last, 1.01 * last)
    figure_style.style_axes(loss, ylabel="cross-entropy (nats)")
    figure_style.style_axes(quality, ylabel="share (0 to 1)")
    figure_style.style_axes(rate, ylabel="learning rate", xlabel="epoch (passes over the training images)")
    _mark_stages(panels, rows, last)
    figure_style.add_legend(loss)
    figure_style.add_legend(quality)
    if not rows:
        quality.text(0.5, 0.5, "nothing recorded yet", ha="center", transform=quality.transAxes, color=GREY)
    figure_style.save(figure, path)


def _select_series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    epochs, values = np.array(points, np.float64).reshape(-1, 2).T
    return epochs, values


def _plot_curve(axes: Axes, epochs: np.ndarray, values: np.ndarray, *, markers: bool = True, **style: Any) -> None:
    if not len(values):
        return
    # A single point draws no line; many markers would hide it.
    marker = "o" if len(values) == 1 or (markers and len(values) <= 60) else ""
    axes.plot(epochs, values, marker=marker, markersize=4, linewidth=1.8, **style)


def _plot_smoothed_curve(axes: Axes, epochs: np.ndarray, values: np.ndarray, *, colour: str, label: str) -> None:
    """The values faintly, and over them their mean over the neighbouring twentieth of the rows, which does not lag."""
    window = 2 * (len(values) // 40) + 1
    if window == 1:
        _plot_curve(axes, epochs, values, color=colour, label=label)
        return
    inside = np.convolve(np.ones(len(values)), np.ones(window), "same")  # fewer neighbours at both ends
    smooth = np.convolve(values, np.ones(window), "same") / inside
    axes.plot(epochs, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(epochs, smooth, color=colour, linewidth=1.8, label=f"{label} (smoothed)")


def _mark_stages(panels: Sequence[Axes], rows: Sequence[Mapping[str, Any]], last: float) -> None:
    """Marks where stages begin, their numbers above the first panel, and in red where fine-tuning begins."""
    stages = sorted({int(row["stage"]) for row in rows})
    if len(stages) < 2:
        return
    starts = [max(float(row["epoch"]) for row in rows if row["stage"] < stage) for stage in stages[1:]]
    bounds = [0.0, *starts, last]
    top = panels[0]
    above = top.get_xaxis_transform()  # x in epochs, y in heights of the panel
    shown = -math.inf
    for stage, begin, end in zip(stages, bounds[:-1], bounds[1:], strict=True):
        middle = (begin + end) / 2
        if middle - shown >= 0.03 * last:  # the width of two digits and a gap
            top.text(
                middle, 1.015, str(stage), ha="center", va="bottom", fontsize=SMALL_SIZE, color=GREY, transform=above
            )
            shown = middle
    top.text(-0.01, 1.015, "stage", ha="right", va="bottom", fontsize=SMALL_SIZE, color=GREY, transform=top.transAxes)
    for axes in panels:
        for stage, start in zip(stages[1:], starts, strict=True):
            if stage == 2:
                axes.axvline(start, color=FINE_TUNING, linewidth=2, zorder=1.5)
            else:
                axes.axvline(start, color=LIGHT_GREY, linewidth=0.7, zorder=1)
    if 2 in stages:
        start = starts[stages.index(2) - 1]
        side = "left" if start < 0.5 * last else "right"
        top.text(
            start, 1.075, "fine-tuning begins", ha=side, va="bottom", fontsize=LABEL_SIZE, weight="bold",
            color=FINE_TUNING, transform=above,
        )  # fmt: skip

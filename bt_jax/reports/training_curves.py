"""Draws the curves of a training run over its stages, and the validation curves of several runs side by side."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bt_jax.common import files
from bt_jax.reports import figure_style
from bt_jax.reports.figure_style import BLACK, BLUE, GREEN, GREY, LABEL_SIZE, LIGHT_GREY, ORANGE, SMALL_SIZE, VERMILLION

FINE_TUNING = "#CC0000"

_EPOCHS = "epoch (passes over the training images)"
_COMPARED = {
    "val/macro_f1": "macro-F1 (0 to 1)",
    "val/accuracy": "accuracy (0 to 1)",
    "val/loss": "cross-entropy (nats)",
}
Rows = Sequence[Mapping[str, Any]]
Points = tuple[np.ndarray, np.ndarray]  # epochs [N] and values [N], float64


def draw_training_curves(path: files.Path, *, rows: Rows, title: str, notice: str | None = None) -> None:
    """Draws loss, accuracy, macro F1 and learning rate over the epochs of a run.

    Args:
      path: of the PNG file.
      rows: rows of `metrics.jsonl` in the order of steps. Each has `epoch` (float) and `stage` (from 1), training rows
        `train/loss`, `train/accuracy` and `train/learning_rate`, evaluation rows `val/loss`, `val/accuracy` and
        `val/macro_f1`. Absent and null values are not drawn. A stage begins where the last row of the previous stage
        ends, and fine-tuning begins with stage 2.
      title: printed on top.
      notice: printed in a coloured band above the title.
    """
    figure = figure_style.make_figure(10, 8.2, title=title, notice=notice)
    loss, quality, rate = panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.7))
    _plot_smoothed_curve(loss, *select_series(rows, "train/loss"), colour=BLUE, label="training")
    epochs, values = select_series(rows, "val/loss")
    _plot_curve(loss, epochs, values, color=VERMILLION, linestyle="--", label="validation")
    if len(values):
        best = int(np.argmin(values))
        label = f"lowest validation loss:\n{values[best]:.4g} at epoch {epochs[best]:.4g}"
        marker: dict[str, Any] = {"marker": "*", "markersize": 15, "markeredgecolor": BLACK, "linestyle": "none"}
        loss.plot(epochs[best], values[best], color=ORANGE, label=label, zorder=4, **marker)
    _plot_smoothed_curve(quality, *select_series(rows, "train/accuracy"), colour=BLUE, label="training accuracy")
    validation: dict[str, Any] = {"color": VERMILLION, "linestyle": "--", "label": "validation accuracy"}
    _plot_curve(quality, *select_series(rows, "val/accuracy"), **validation)
    _plot_curve(quality, *select_series(rows, "val/macro_f1"), color=GREEN, linestyle=":", label="validation macro F1")
    epochs, values = select_series(rows, "train/learning_rate")
    _plot_curve(rate, epochs, values, markers=False, color=BLACK, label="learning rate")
    if (values > 0).any():
        rate.set_yscale("log", nonpositive="mask")
        # A schedule that ends near 0 would flatten the rest of the curve.
        rate.set_ylim(0.8 * max(values[values > 0].min(), 1e-4 * values.max()), 1.5 * values.max())
    all_epochs = [float(row["epoch"]) for row in rows] or [0.0]
    last = max(all_epochs) or 1.0
    loss.set_xlim(-0.01 * last, 1.01 * last)
    figure_style.style_axes(loss, ylabel="cross-entropy (nats)")
    figure_style.style_axes(quality, ylabel="score (0 to 1)")
    figure_style.style_axes(rate, ylabel="learning rate", xlabel=_EPOCHS)
    _mark_stages(panels, rows, last)
    figure_style.add_legend(loss)
    figure_style.add_legend(quality)
    if not rows:
        quality.text(0.5, 0.5, "nothing recorded yet", ha="center", transform=quality.transAxes, color=GREY)
    figure_style.save(figure, path)


def draw_run_comparison(
    path: files.Path, *, curves: Mapping[str, Sequence[Rows]], title: str, notice: str | None = None
) -> None:
    """Draws validation macro-F1, accuracy and loss by epoch: for each group of runs its mean as a line, its range as a
    band.

    Runs that were evaluated at different epochs are interpolated linearly. A run that ended early counts up to its
    last evaluation.

    Args:
      path: of the PNG file.
      curves: the runs of each group by its name, each run as the rows of its `metrics.jsonl`.
      title: printed on top.
      notice: printed in a coloured band above the title.
    """
    longest = max(len(name) for name in curves)
    figure = figure_style.make_figure(8.6 + 0.075 * min(longest, 60), 10.5, title=title, notice=notice)
    panels = figure.subplots(len(_COMPARED), 1, sharex=True)
    colours, styles = figure_style.LINE_COLOURS, figure_style.LINE_STYLES
    handles = []
    for number, (name, runs) in enumerate(curves.items()):
        style = {
            "color": colours[number % len(colours)],
            "linestyle": styles[number // len(colours) % len(styles)],
        }
        handles.append(Line2D([], [], linewidth=2, label=figure_style.escape_dollars(name), **style))
        for axes, key in zip(panels, _COMPARED, strict=True):
            _plot_mean_and_range(axes, [select_series(run, key) for run in runs], faint=len(curves) > 4, **style)
    for axes, (key, label) in zip(panels, _COMPARED.items(), strict=True):
        figure_style.style_axes(axes, ylabel=label)
        if key == "val/loss":
            _limit_loss_axis(axes, [select_series(run, key)[1] for runs in curves.values() for run in runs])
    panels[-1].set_xlabel(_EPOCHS, fontsize=LABEL_SIZE)
    figure_style.add_legend(panels[0], handles)
    figure_style.save(figure, path)


def select_series(rows: Rows, key: str) -> Points:
    """Selects the finite values of one metric with their epochs."""
    points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    epochs, values = np.array(points, np.float64).reshape(-1, 2).T
    return epochs, values


def _keep_last(epochs: np.ndarray, values: np.ndarray) -> Points:
    """Keeps the last value at each epoch."""
    points = dict(zip(epochs.tolist(), values.tolist(), strict=True))
    return np.array(list(points)), np.array(list(points.values()))


def compute_mean_and_range(runs: Sequence[Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Computes mean and range over runs at every epoch at which any run has a value.

    Args:
      runs: epochs, in rising order, and values of each run. Of several values at one epoch the last one counts.

    Returns:
      Epochs, mean, minimum and maximum, each [N] float64, over the runs that reach that epoch.
    """
    runs = [_keep_last(*points) for points in runs if len(points[0])]
    if not runs:
        return (np.zeros(0),) * 4
    grid = np.unique(np.concatenate([epochs for epochs, _ in runs]))
    # [runs, epochs]
    known = np.stack([np.interp(grid, epochs, values, left=np.nan, right=np.nan) for epochs, values in runs])
    return grid, np.nanmean(known, axis=0), np.nanmin(known, axis=0), np.nanmax(known, axis=0)


def _plot_curve(axes: Axes, epochs: np.ndarray, values: np.ndarray, *, markers: bool = True, **style: Any) -> None:
    if not len(values):
        return
    # A single point draws no line, and many markers would hide it.
    marker = "o" if len(values) == 1 or (markers and len(values) <= 60) else ""
    axes.plot(epochs, values, marker=marker, markersize=4, linewidth=1.8, **style)


def _plot_smoothed_curve(axes: Axes, epochs: np.ndarray, values: np.ndarray, *, colour: str, label: str) -> None:
    """Plots the values faintly, and over them a centred moving average over a twentieth of the rows."""
    window = 2 * (len(values) // 40) + 1
    if window == 1:
        _plot_curve(axes, epochs, values, color=colour, label=label)
        return
    inside = np.convolve(np.ones(len(values)), np.ones(window), "same")  # fewer neighbours at both ends
    smooth = np.convolve(values, np.ones(window), "same") / inside
    axes.plot(epochs, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(epochs, smooth, color=colour, linewidth=1.8, label=f"{label} (smoothed)")


def _plot_mean_and_range(axes: Axes, runs: Sequence[Points], *, faint: bool, **style: Any) -> None:
    epochs, mean, low, high = compute_mean_and_range(runs)
    if not len(epochs):
        return
    # The last point is marked, since a short run is easily overlooked among longer ones.
    axes.plot(epochs, mean, linewidth=1.6, marker="o", markersize=4, markevery=[len(epochs) - 1], **style)
    axes.fill_between(epochs, low, high, color=style["color"], alpha=0.08 if faint else 0.15, linewidth=0)


def _limit_loss_axis(axes: Axes, losses: Sequence[np.ndarray]) -> None:
    """Cuts the axis if the loss of one run explodes, which would flatten all other curves."""
    values = np.concatenate([*losses, np.zeros(0)])
    if not len(values):
        return
    high = np.quantile(values, 0.9)
    if values.max() > 3 * high:
        axes.set_ylim(0, 2 * high)
        axes.set_ylabel(f"{axes.get_ylabel()}, cut at the top")


def _mark_stages(panels: Sequence[Axes], rows: Rows, last: float) -> None:
    """Marks the beginning of each stage, with its number above the first panel; that of fine-tuning in red."""
    stages = sorted({int(row["stage"]) for row in rows})
    if len(stages) < 2:
        return
    starts = [max(float(row["epoch"]) for row in rows if row["stage"] < stage) for stage in stages[1:]]
    bounds = [0.0, *starts, last]
    top = panels[0]
    above = top.get_xaxis_transform()  # x in epochs, y in heights of the panel
    small: dict[str, Any] = {"va": "bottom", "fontsize": SMALL_SIZE, "color": GREY}
    shown = -math.inf
    for stage, begin, end in zip(stages, bounds[:-1], bounds[1:], strict=True):
        middle = (begin + end) / 2
        if middle - shown >= 0.03 * last:  # the width of two digits and a gap
            top.text(middle, 1.015, str(stage), ha="center", transform=above, **small)
            shown = middle
    top.text(-0.01, 1.015, "stage", ha="right", transform=top.transAxes, **small)
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

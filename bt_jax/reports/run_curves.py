"""The curves of several runs in one picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bt_jax.common import files
from bt_jax.reports import figure_style

_PANELS = (
    ("val/macro_f1", "macro-F1 (0 to 1)"),
    ("val/accuracy", "accuracy (0 to 1)"),
    ("val/loss", "cross-entropy (nats)"),
)
Rows = Sequence[Mapping[str, Any]]


def draw_run_comparison(
    path: files.Path, *, curves: Mapping[str, Sequence[Rows]], title: str, notice: str | None = None
) -> None:
    """Draws validation macro-F1, accuracy and loss by epoch: a line for the mean of a row's runs, a band for the range.

    Runs that were evaluated at different epochs are joined linearly in between. A run that ended early counts up to its
    last evaluation.

    Args:
      path: where the picture goes, as PNG.
      curves: for each row's name its runs, each as the rows of its `metrics.jsonl`.
      title: printed on top.
      notice: printed in a coloured band above the title.
    """
    longest = max(len(name) for name in curves)
    figure = figure_style.make_figure(8.6 + 0.075 * min(longest, 60), 10.5, title=title, notice=notice)
    panels = figure.subplots(len(_PANELS), 1, sharex=True)
    handles = []
    for number, (name, runs) in enumerate(curves.items()):
        style = {
            "color": figure_style.LINE_COLOURS[number % len(figure_style.LINE_COLOURS)],
            "linestyle": figure_style.LINE_STYLES[
                number // len(figure_style.LINE_COLOURS) % len(figure_style.LINE_STYLES)
            ],
        }
        handles.append(Line2D([], [], linewidth=2, label=figure_style.escape_dollars(name), **style))
        for axes, (key, _) in zip(panels, _PANELS, strict=True):
            _plot_mean_and_range(axes, [select_series(run, key) for run in runs], faint=len(curves) > 4, **style)
    for axes, (key, label) in zip(panels, _PANELS, strict=True):
        figure_style.style_axes(axes, ylabel=label)
        _limit_loss_axis(axes, curves, key)
    panels[-1].set_xlabel("epoch (passes over the training images)", fontsize=figure_style.LABEL_SIZE)
    figure_style.add_legend(panels[0], handles)
    figure_style.save(figure, path)


def select_series(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values of a number, where it was recorded: two arrays [N] float64."""
    points = {float(row["epoch"]): row[key] for row in rows if row.get(key) is not None}
    return np.array(list(points), np.float64), np.array(list(points.values()), np.float64)


def compute_mean_and_range(
    runs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Epochs at which any run has a value, and there the mean, lowest and highest of the runs that reach so far.

    Args:
      runs: epochs, rising, and values of each run.
    """
    runs = [(epochs, values) for epochs, values in runs if len(epochs)]
    if not runs:
        return (np.zeros(0),) * 4
    grid = np.unique(np.concatenate([epochs for epochs, _ in runs]))
    # [runs, epochs]
    known = np.stack([np.interp(grid, epochs, values, left=np.nan, right=np.nan) for epochs, values in runs])
    return grid, np.nanmean(known, axis=0), np.nanmin(known, axis=0), np.nanmax(known, axis=0)


def _plot_mean_and_range(
    axes: Axes, runs: Sequence[tuple[np.ndarray, np.ndarray]], *, faint: bool, **style: Any
) -> None:
    epochs, mean, low, high = compute_mean_and_range(runs)
    if not len(epochs):
        return
    # The end is marked: a short run is easily lost among longer ones.
    axes.plot(epochs, mean, linewidth=1.6, marker="o", markersize=4, markevery=[len(epochs) - 1], **style)
    axes.fill_between(epochs, low, high, color=style["color"], alpha=0.08 if faint else 0.15, linewidth=0)


def _limit_loss_axis(axes: Axes, curves: Mapping[str, Sequence[Rows]], key: str) -> None:
    """A loss that explodes in one run must not press all the others into a flat line."""
    values = np.concatenate([select_series(run, key)[1] for runs in curves.values() for run in runs] or [np.zeros(0)])
    if not len(values):
        return
    high = np.quantile(values, 0.9)
    if key == "val/loss" and values.max() > 3 * high:
        axes.set_ylim(0, 2 * high)
        axes.set_ylabel(f"{axes.get_ylabel()}, cut at the top")

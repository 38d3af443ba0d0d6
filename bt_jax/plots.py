"""The pictures of a report: confusion matrix, ROC curves, calibration, training curves."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bt_jax import figures, files, metrics
from bt_jax.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LABEL_SIZE,
    LIGHT_GREY,
    LINE_COLOURS,
    LINE_STYLES,
    ORANGE,
    SKY,
    SMALL_SIZE,
    VERMILLION,
)

FINE_TUNING = "#CC0000"

_LETTER = 0.09  # width of a letter of label size, on average and a little more


def confusion_matrix(
    path: files.Path,
    *,
    metrics: Mapping[str, Any],
    class_names: Sequence[str],
    title: str,
    notice: str | None = None,
) -> None:
    """Draws counts, and in per cent how the images of each true class are spread over the predictions.

    Args:
      path: where the picture goes, as PNG.
      metrics: with `confusion_matrix`, C rows of C counts, rows true.
      class_names: C names.
      title: printed on top.
      notice: printed in a coloured band above the title, such as a warning that the images are synthetic.
    """
    counts = np.asarray(metrics["confusion_matrix"])  # [C true, C predicted]
    C = len(counts)
    support = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, support, out=np.full(counts.shape, np.nan), where=support > 0)
    large = C <= 6
    cell = 1.05 if large else 0.72
    fits = int(cell / _LETTER)
    names = [_readable(name) for name in class_names]
    beside = max(18, max(map(len, names)) // 3)  # letters a line, so that a long name takes about four lines
    upright = large and all(len(word) <= fits for name in names for word in name.split())
    rows, columns = (
        [textwrap.fill(name, letters) for name in names] for letters in (beside, fits if upright else beside)
    )
    label_width = _LETTER * max(len(line) for name in rows for line in name.split("\n"))
    label_height = 0.6 if upright else label_width
    figure = figures.canvas(cell * C + label_width + 2.0, cell * C + label_height + 0.55, title=title, notice=notice)
    axes = figure.add_subplot()
    image = axes.imshow(np.nan_to_num(share), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(C), columns, fontsize=LABEL_SIZE, rotation=0 if upright else 90)
    axes.set_yticks(range(C), rows, fontsize=LABEL_SIZE)
    axes.set_xticks(np.arange(C + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(C + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class", fontsize=LABEL_SIZE)
    axes.set_ylabel("true class", fontsize=LABEL_SIZE)
    for true, predicted in np.ndindex(C, C):
        fraction = share[true, predicted]
        percent = "-" if np.isnan(fraction) else f"{100 * fraction:.1f} %"
        style: dict[str, Any] = {"ha": "center", "color": "white" if fraction > 0.7 else "black"}
        count = str(counts[true, predicted])
        axes.text(predicted, true - 0.03, count, va="bottom", fontsize=13 if large else 10, **style)
        axes.text(predicted, true + 0.07, percent, va="top", fontsize=9 if large else 7.5, **style)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, aspect=25, pad=0.03, ticks=np.linspace(0, 1, 6))
    bar.ax.set_yticklabels([f"{percent} %" for percent in range(0, 101, 20)], fontsize=SMALL_SIZE)
    bar.set_label("share of the true class", fontsize=LABEL_SIZE)
    bar.outline.set_visible(False)
    figures.save(figure, path)


def roc_curves(
    path: files.Path,
    *,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    title: str,
    notice: str | None = None,
) -> None:
    """Draws one curve for each class against all others, with the area under it.

    Args:
      path: where the picture goes, as PNG.
      labels: [N] integers.
      probabilities: [N, C] floats.
      class_names: C names. A class without images, or with all of them, has no curve and is listed as undefined.
      title: printed on top.
      notice: printed in a coloured band above the title.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    handles, undefined = [], []
    for c, class_name in enumerate(class_names):
        name = textwrap.fill(_readable(class_name), 28)
        is_positive = labels == c
        if not is_positive.any() or is_positive.all():
            reason = "no other images" if is_positive.any() else "no images"
            undefined.append(Line2D([], [], linestyle="none", label=f"{name}\nundefined, {reason}"))
            continue
        false, true = metrics.roc_curve(is_positive, probabilities[:, c])
        label = f"{name}\nAUC {np.trapezoid(true, false):.3f}, {_counted(int(is_positive.sum()))}"
        colour, style = LINE_COLOURS[c % len(LINE_COLOURS)], LINE_STYLES[c % len(LINE_STYLES)]
        handles.append(Line2D(false, true, linewidth=2, color=colour, linestyle=style, label=label))
    handles.append(Line2D([0, 1], [0, 1], color=LIGHT_GREY, linewidth=1, zorder=0, label="chance"))
    entries = [str(handle.get_label()) for handle in (*handles, *undefined)]
    # What fits beside the axes: 38 lines, with the space between two entries counted as 0.7.
    columns = math.ceil((sum(entry.count("\n") + 1.7 for entry in entries)) / 38)
    letters = max(len(line) for entry in entries for line in entry.split("\n"))
    figure = figures.canvas(6.1 + columns * (0.078 * letters + 0.7), 5.8, title=title, notice=notice)
    axes = figure.add_subplot()
    for handle in handles:
        axes.add_line(handle)
    # Room around the unit square: a perfect curve runs along its edges.
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="W")
    figures.frame(axes, xlabel="false positive rate (1 - specificity)", ylabel="true positive rate (recall)")
    figures.legend(axes, [*handles, *undefined], ncols=columns)
    figures.save(figure, path)


def calibration(
    path: files.Path,
    *,
    labels: np.ndarray,
    probabilities: np.ndarray,
    title: str,
    notice: str | None = None,
) -> None:
    """Draws how often the prediction is right at each confidence, and below how many images have that confidence.

    Args:
      path: where the picture goes, as PNG.
      labels: [N] integers.
      probabilities: [N, C] floats.
      title: printed on top, followed by the expected calibration error.
      notice: printed in a coloured band above the title.
    """
    confidence, accuracy, count = metrics.calibration_bins(labels, probabilities)
    error = metrics.expected_calibration_error(labels, probabilities)
    shown = "undefined" if math.isnan(error) else f"{error:.3f}"
    title = f"{title}\nexpected calibration error (ECE) {shown}"
    figure = figures.canvas(8.2, 7.4, title=title, notice=notice)
    reliability, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled, bins = count > 0, len(count)
    middle, width = (np.arange(bins) + 0.5) / bins, 1 / bins
    ideal = Line2D([0, 1], [0, 1], color=BLACK, linewidth=1, linestyle="--", label="perfectly calibrated", zorder=3)
    reliability.add_line(ideal)
    reliability.bar(middle[filled], accuracy[filled], width, color=SKY, edgecolor="white")
    keys: list[Any] = [ideal, Patch(facecolor=SKY, label="accuracy")]
    for name, rows, colour in (
        ("over-confident", filled & (confidence > accuracy), VERMILLION),
        ("under-confident", filled & (confidence <= accuracy), BLUE),
    ):
        bottom, height = np.minimum(accuracy, confidence), abs(accuracy - confidence)
        style: dict[str, Any] = {"fill": False, "hatch": "////", "linewidth": 1, "edgecolor": colour}
        reliability.bar(middle[rows], height[rows], width, bottom=bottom[rows], **style)
        keys.append(Patch(label=f"gap: {name}", **style))
    reliability.set(xlim=(0, 1), ylim=(0, 1))
    figures.frame(reliability, ylabel="accuracy")
    figures.legend(reliability, keys)
    histogram.bar(middle, count, width, color=GREY, edgecolor="white")
    figures.frame(histogram, xlabel="confidence (largest probability)", ylabel="images")
    histogram.set_ylim(0, 1.05 * max(1, count.max()))
    histogram.yaxis.get_major_locator().set_params(integer=True)
    figures.save(figure, path)


def training_curves(
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
    figure = figures.canvas(10, 8.2, title=title, notice=notice)
    loss, quality, rate = panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.7))
    _smoothed_curve(loss, *_series(rows, "train/loss"), colour=BLUE, label="training")
    epochs, values = _series(rows, "val/loss")
    _curve(loss, epochs, values, color=VERMILLION, linestyle="--", label="validation")
    if len(values):
        best = int(np.argmin(values))
        label = f"lowest validation loss:\n{values[best]:.4g} at epoch {epochs[best]:.4g}"
        marker: dict[str, Any] = {"marker": "*", "markersize": 15, "markeredgecolor": BLACK, "linestyle": "none"}
        loss.plot(epochs[best], values[best], color=ORANGE, label=label, zorder=4, **marker)
    _smoothed_curve(quality, *_series(rows, "train/accuracy"), colour=BLUE, label="training accuracy")
    _curve(quality, *_series(rows, "val/accuracy"), color=VERMILLION, linestyle="--", label="validation accuracy")
    _curve(quality, *_series(rows, "val/macro_f1"), color=GREEN, linestyle=":", label="validation macro F1")
    epochs, values = _series(rows, "train/learning_rate")
    _curve(rate, epochs, values, markers=False, color=BLACK, label="learning rate")
    if (values > 0).any():
        rate.set_yscale("log", nonpositive="mask")
        # A schedule that ends at almost 0 would press all the rest into a flat line.
        rate.set_ylim(0.8 * max(values[values > 0].min(), 1e-4 * values.max()), 1.5 * values.max())
    all_epochs = [float(row["epoch"]) for row in rows] or [0.0]
    last = max(all_epochs) or 1.0
    loss.set_xlim(-0.01 * last, 1.01 * last)
    figures.frame(loss, ylabel="cross-entropy (nats)")
    figures.frame(quality, ylabel="share (0 to 1)")
    figures.frame(rate, ylabel="learning rate", xlabel="epoch (passes over the training images)")
    _stages(panels, rows, last)
    figures.legend(loss)
    figures.legend(quality)
    if not rows:
        quality.text(0.5, 0.5, "nothing recorded yet", ha="center", transform=quality.transAxes, color=GREY)
    figures.save(figure, path)


def _readable(name: str) -> str:
    """`glioma_tumor` as `glioma tumor`; a dollar sign stays one and starts no formula."""
    return figures.plain(name.replace("_", " ").strip() or name)


def _counted(n: int) -> str:
    return "1 image" if n == 1 else f"{n} images"


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    epochs, values = np.array(points, np.float64).reshape(-1, 2).T
    return epochs, values


def _curve(axes: Axes, epochs: np.ndarray, values: np.ndarray, *, markers: bool = True, **style: Any) -> None:
    if not len(values):
        return
    # A single point draws no line; many markers would hide it.
    marker = "o" if len(values) == 1 or (markers and len(values) <= 60) else ""
    axes.plot(epochs, values, marker=marker, markersize=4, linewidth=1.8, **style)


def _smoothed_curve(axes: Axes, epochs: np.ndarray, values: np.ndarray, *, colour: str, label: str) -> None:
    """The values faintly, and over them their mean over the neighbouring twentieth of the rows, which does not lag."""
    window = 2 * (len(values) // 40) + 1
    if window == 1:
        _curve(axes, epochs, values, color=colour, label=label)
        return
    inside = np.convolve(np.ones(len(values)), np.ones(window), "same")  # fewer neighbours at both ends
    smooth = np.convolve(values, np.ones(window), "same") / inside
    axes.plot(epochs, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(epochs, smooth, color=colour, linewidth=1.8, label=f"{label} (smoothed)")


def _stages(panels: Sequence[Axes], rows: Sequence[Mapping[str, Any]], last: float) -> None:
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

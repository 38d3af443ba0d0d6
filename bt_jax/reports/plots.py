"""Draws the pictures of a scored split: confusion matrix, ROC curves, calibration, examples with heat maps."""

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bt_jax.common import files
from bt_jax.metrics import curves
from bt_jax.metrics.calibration import expected_calibration_error, reliability_curve
from bt_jax.reports import figure_style
from bt_jax.reports.figure_style import (
    BLACK,
    BLUE,
    GREY,
    LABEL_SIZE,
    LIGHT_GREY,
    LINE_COLOURS,
    LINE_STYLES,
    SKY,
    SMALL_SIZE,
    VERMILLION,
)
from bt_jax.reports.score_text import format_image_count

_PAIRS = 2  # examples in a row of their picture
_LETTER = 0.09  # inches: a little more than the mean width of a letter of label size


def draw_confusion_matrix(
    path: files.Path,
    *,
    metrics: Mapping[str, Any],
    class_names: Sequence[str],
    title: str,
    notice: str | None = None,
) -> None:
    """Draws the counts, and the percentage of each true class that was predicted as each class.

    Args:
      path: of the PNG file.
      metrics: with `confusion_matrix`, C rows of C counts; rows are true classes.
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
    names = [_format_class_name(name) for name in class_names]
    beside = max(18, max(map(len, names)) // 3)  # letters a line, so that a long name takes about four lines
    upright = large and all(len(word) <= fits for name in names for word in name.split())
    rows, columns = (
        [textwrap.fill(name, letters) for name in names] for letters in (beside, fits if upright else beside)
    )
    label_width = _LETTER * max(len(line) for name in rows for line in name.split("\n"))
    label_height = 0.6 if upright else label_width
    figure = figure_style.make_figure(
        cell * C + label_width + 2.0, cell * C + label_height + 0.55, title=title, notice=notice
    )
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
    bar.set_label("fraction of the true class", fontsize=LABEL_SIZE)
    bar.outline.set_visible(False)
    figure_style.save(figure, path)


def draw_roc_curves(
    path: files.Path,
    *,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    title: str,
    notice: str | None = None,
) -> None:
    """Draws the ROC curve of each class against the rest, with the area under it.

    Args:
      path: of the PNG file.
      labels: [N] integers.
      probabilities: [N, C] floats.
      class_names: C names. A class that has no images, or all of them, has no curve and is listed as undefined.
      title: printed on top.
      notice: printed in a coloured band above the title.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    handles, undefined = [], []
    for c, class_name in enumerate(class_names):
        name = textwrap.fill(_format_class_name(class_name), 28)
        is_positive = labels == c
        if not is_positive.any() or is_positive.all():
            reason = "no other images" if is_positive.any() else "no images"
            undefined.append(Line2D([], [], linestyle="none", label=f"{name}\nundefined, {reason}"))
            continue
        false, true = curves.roc_curve(is_positive, probabilities[:, c])
        label = f"{name}\nAUC {np.trapezoid(true, false):.3f}, {format_image_count(int(is_positive.sum()))}"
        colour, style = LINE_COLOURS[c % len(LINE_COLOURS)], LINE_STYLES[c % len(LINE_STYLES)]
        handles.append(Line2D(false, true, linewidth=2, color=colour, linestyle=style, label=label))
    handles.append(Line2D([0, 1], [0, 1], color=LIGHT_GREY, linewidth=1, zorder=0, label="random guess"))
    entries = [str(handle.get_label()) for handle in (*handles, *undefined)]
    # 38 lines fit beside the axes; the space between two entries counts as 0.7 lines.
    columns = math.ceil((sum(entry.count("\n") + 1.7 for entry in entries)) / 38)
    letters = max(len(line) for entry in entries for line in entry.split("\n"))
    figure = figure_style.make_figure(6.1 + columns * (0.078 * letters + 0.7), 5.8, title=title, notice=notice)
    axes = figure.add_subplot()
    for handle in handles:
        axes.add_line(handle)
    # A perfect curve runs along the edges of the unit square, so leave room around it.
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="W")
    figure_style.style_axes(axes, xlabel="false positive rate (1 - specificity)", ylabel="true positive rate (recall)")
    figure_style.add_legend(axes, [*handles, *undefined], ncols=columns)
    figure_style.save(figure, path)


def draw_calibration(
    path: files.Path,
    *,
    labels: np.ndarray,
    probabilities: np.ndarray,
    title: str,
    uncalibrated: np.ndarray | None = None,
    notice: str | None = None,
) -> None:
    """Draws a reliability diagram (accuracy by confidence), and below it a histogram of the confidence.

    Args:
      path: of the PNG file.
      labels: [N] integers.
      probabilities: [N, C] floats.
      title: printed on top.
      uncalibrated: the probabilities before calibration, drawn on the left; None: they are not calibrated.
      notice: printed in a coloured band above the title.
    """
    sides = {"": probabilities} if uncalibrated is None else {"before: ": uncalibrated, "after: ": probabilities}
    figure = figure_style.make_figure(3.4 + 4.8 * len(sides), 7.4, title=title, notice=notice)
    panels = figure.subplots(2, len(sides), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    keys: list[Any] = []
    tallest = 1
    for (side, shown), (upper, lower) in zip(sides.items(), panels.T, strict=True):
        error = expected_calibration_error(labels, shown)
        keys, count = _draw_reliability(upper, lower, labels, shown)
        tallest = max(tallest, count)
        name = f"{side}expected calibration error (ECE) {'undefined' if math.isnan(error) else f'{error:.3f}'}"
        upper.set_title(name, fontsize=LABEL_SIZE)
    panels[1, 0].set_ylim(0, 1.05 * tallest)
    figure_style.style_axes(panels[0, 0], ylabel="accuracy")
    figure_style.style_axes(panels[1, 0], xlabel="confidence (largest probability)", ylabel="images")
    for upper, lower in panels.T[1:]:
        figure_style.style_axes(upper)
        figure_style.style_axes(lower, xlabel="confidence (largest probability)")
    figure_style.add_legend(panels[0, -1], keys)
    figure_style.save(figure, path)


@dataclasses.dataclass(frozen=True)
class Example:
    """An image that a picture shows beside its heat map.

    Attributes:
      image: [H, W] uint8.
      overlay: [H, W, 3] uint8, the image under the colours of its heat map.
      label: name of the true class.
      predicted: name of the predicted class.
      probability: of the predicted class.
    """

    image: np.ndarray
    overlay: np.ndarray
    label: str
    predicted: str
    probability: float


def draw_examples(path: files.Path, examples: Sequence[Example], *, title: str, notice: str | None = None) -> None:
    """Draws each image beside its heat map, and says which class was predicted, in red where it is wrong.

    Args:
      path: of the PNG file.
      examples: the images, drawn in their order.
      title: printed on top.
      notice: printed in a coloured band above the title.
    """
    rows = -(-len(examples) // _PAIRS)
    figure = figure_style.make_figure(4.2 * _PAIRS, 2.2 * rows, title=title, notice=notice)
    panels = figure.subplots(rows, 2 * _PAIRS, squeeze=False)
    for axes in panels.flat:
        axes.set(xticks=(), yticks=())
        axes.axis("off")
    for number, example in enumerate(examples):
        row, column = number // _PAIRS, 2 * (number % _PAIRS)
        left, right = panels[row, column : column + 2]
        left.imshow(example.image, cmap="gray", vmin=0, vmax=255)
        right.imshow(example.overlay)
        left.set_title(_format_class_name(example.label), fontsize=SMALL_SIZE)
        wrong = example.predicted != example.label
        right.set_title(
            f"{_format_class_name(example.predicted)}, {example.probability:.2f}",
            fontsize=SMALL_SIZE,
            color=VERMILLION if wrong else BLACK,
            weight="bold" if wrong else "normal",
        )
    figure_style.save(figure, path)


def _draw_reliability(upper: Axes, lower: Axes, labels: np.ndarray, probabilities: np.ndarray) -> tuple[list[Any], int]:
    """Draws a diagram above its histogram; returns the legend's keys, and the number of images in the largest bin."""
    confidence, accuracy, count = reliability_curve(labels, probabilities)
    filled, bins = count > 0, len(count)
    middle, width = (np.arange(bins) + 0.5) / bins, 1 / bins
    ideal = Line2D([0, 1], [0, 1], color=BLACK, linewidth=1, linestyle="--", label="perfectly calibrated", zorder=3)
    upper.add_line(ideal)
    upper.bar(middle[filled], accuracy[filled], width, color=SKY, edgecolor="white")
    keys: list[Any] = [ideal, Patch(facecolor=SKY, label="accuracy")]
    for name, rows, colour in (
        ("over-confident", filled & (confidence > accuracy), VERMILLION),
        ("under-confident", filled & (confidence <= accuracy), BLUE),
    ):
        bottom, height = np.minimum(accuracy, confidence), abs(accuracy - confidence)
        style: dict[str, Any] = {"fill": False, "hatch": "////", "linewidth": 1, "edgecolor": colour}
        upper.bar(middle[rows], height[rows], width, bottom=bottom[rows], **style)
        keys.append(Patch(label=f"gap: {name}", **style))
    upper.set(xlim=(0, 1), ylim=(0, 1))
    lower.bar(middle, count, width, color=GREY, edgecolor="white")
    lower.locator_params(axis="y", integer=True)
    return keys, int(count.max())


def _format_class_name(name: str) -> str:
    """Returns `glioma tumor` for `glioma_tumor`, with dollar signs escaped."""
    return figure_style.escape_dollars(name.replace("_", " ").strip() or name)

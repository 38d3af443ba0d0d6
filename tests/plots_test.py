import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from bt_jax import metrics, plots
from bt_jax.labels import BRAIN_TUMOR_CLASSES

NOTICE = "SYNTHETIC PHANTOMS - not medical data"
LONG_NAMES = [
    f"{name}_of_unknown_grade_and_site"
    for name in (
        "anaplastic_astrocytoma", "diffuse_midline_glioma_h3_k27_altered", "oligodendroglioma", "meningioma", "healthy",
        "pituitary_adenoma", "craniopharyngioma", "medulloblastoma", "vestibular_schwannoma", "metastasis",
    )
]  # fmt: skip


class Drawn:
    """Keeps what was saved last: the figure as it was drawn."""

    figure: matplotlib.figure.Figure

    def texts(self) -> list[str]:
        return [text.get_text() for text in self.visible_texts()]

    def visible_texts(self) -> list[Text]:
        outside = set()  # labels of ticks beyond the limits of their axis exist and are never drawn
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
        """No text leaves the figure, no two texts overlap."""
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


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    keeper = Drawn()
    savefig = matplotlib.figure.Figure.savefig

    def keeping(figure: matplotlib.figure.Figure, *arguments: Any, **options: Any) -> None:
        keeper.figure = figure
        assert options["dpi"] == 150
        savefig(figure, *arguments, **{**options, "dpi": figure.dpi})  # the size that the texts are measured in

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keeping)
    return keeper


def made_up(
    n: int, classes: int, present: Sequence[int] | None = None, strength: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.choice(np.arange(classes) if present is None else np.array(present), n)
    logits = rng.normal(size=(n, classes)) + strength * np.eye(classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def rows_of(
    stages: int, *, evaluations: bool = True, epochs: int = 2, first: int | None = None
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    epoch = 0.0
    for stage in range(1, stages + 1):
        for _ in range(4 * (first if first and stage == 1 else epochs)):
            epoch += 0.25
            loss = 1.3 * np.exp(-0.1 * epoch)
            shared = {"step": int(4 * epoch), "epoch": epoch, "stage": stage}
            rows.append(
                {**shared, "train/loss": loss, "train/accuracy": 1 - loss / 2, "train/learning_rate": 1e-3 / stage}
            )
            if evaluations and epoch % 1 == 0:
                rows.append({**shared, "val/loss": loss + epoch / 50, "val/accuracy": 0.8, "val/macro_f1": 0.7})
    return rows


def scored(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    return metrics.score(split="testing", labels=labels, probabilities=probabilities, class_names=names)


CASES = {
    "four": (*made_up(574, 4), list(BRAIN_TUMOR_CLASSES)),
    "absent": (*made_up(120, 4, [0, 1, 3]), list(BRAIN_TUMOR_CLASSES)),
    "ten": (*made_up(574, 10), LONG_NAMES),
    "fifteen": (*made_up(900, 15), [f"class_{c}" for c in range(15)]),
    "two": (*made_up(50, 2), ["no", "yes"]),
    "only_one": (*made_up(5, 1), ["everything"]),
    "one_image": (*made_up(1, 4), list(BRAIN_TUMOR_CLASSES)),
    "empty": (*made_up(0, 4), list(BRAIN_TUMOR_CLASSES)),
    "dollars": (*made_up(30, 3), ["a_$x$", "b_$", "_"]),
}


@pytest.mark.parametrize("case", CASES)
def test_confusion_matrix_shows_every_count_and_is_readable(tmp_path: pathlib.Path, drawn: Drawn, case: str) -> None:
    labels, probabilities, names = CASES[case]
    result = scored(labels, probabilities, names)
    plots.confusion_matrix(
        tmp_path / "c.png", metrics=result, class_names=names, title="Confusion matrix", notice=NOTICE
    )
    drawn.assert_readable()
    texts = drawn.texts()
    matrix = result["confusion_matrix"]
    cells = [text.get_text() for text in drawn.figure.axes[0].texts]
    assert cells[::2] == [str(count) for row in matrix for count in row]
    shares = [f"{100 * count / sum(row):.1f} %" if sum(row) else "-" for row in matrix for count in row]
    assert cells[1::2] == shares
    assert {"true class", "predicted class"} <= set(texts)


def test_confusion_matrix_writes_names_as_words(tmp_path: pathlib.Path, drawn: Drawn) -> None:
    labels, probabilities, names = CASES["four"]
    plots.confusion_matrix(
        tmp_path / "c.png", metrics=scored(labels, probabilities, names), class_names=names, title="Confusion matrix"
    )
    words = [" ".join(text.split()) for text in drawn.texts()]
    assert words.count("glioma tumor") == 2
    assert not any("_" in text for text in words)


@pytest.mark.parametrize("case", CASES)
def test_roc_curves_are_readable_and_name_every_class(tmp_path: pathlib.Path, drawn: Drawn, case: str) -> None:
    labels, probabilities, names = CASES[case]
    plots.roc_curves(
        tmp_path / "r.png", labels=labels, probabilities=probabilities, class_names=names, title="ROC", notice=NOTICE
    )
    drawn.assert_readable()
    legend = drawn.figure.axes[0].get_legend()
    assert legend is not None
    entries = [" ".join(text.get_text().split()) for text in legend.get_texts()]
    per_class = scored(labels, probabilities, names)["per_class"]
    wanted = {"undefined" if row["auc"] is None else f"AUC {row['auc']:.3f}" for row in per_class.values()}
    assert len(entries) == len(names) + 1
    for text in wanted:
        assert any(text in entry for entry in entries)
    curves = [line for label, line in drawn.lines(0).items() if "AUC" in label]
    assert len(curves) == sum(row["auc"] is not None for row in per_class.values())
    assert len({(line.get_color(), str(line.get_linestyle()), line.is_dashed()) for line in curves}) >= min(
        len(curves), 7
    )


def test_roc_curves_say_why_a_class_has_none(tmp_path: pathlib.Path, drawn: Drawn) -> None:
    labels, probabilities = np.zeros(3, int), np.array([[0.9, 0.1]] * 3)
    plots.roc_curves(
        tmp_path / "r.png", labels=labels, probabilities=probabilities, class_names=["seen", "never"], title="ROC"
    )
    assert "seen\nundefined, no other images" in drawn.texts()
    assert "never\nundefined, no images" in drawn.texts()


@pytest.mark.parametrize("case", CASES)
def test_calibration_shows_error_accuracy_and_counts(tmp_path: pathlib.Path, drawn: Drawn, case: str) -> None:
    labels, probabilities, names = CASES[case]
    plots.calibration(
        tmp_path / "k.png", labels=labels, probabilities=probabilities, title="Calibration", notice=NOTICE
    )
    drawn.assert_readable()
    ece = scored(labels, probabilities, names)["ece"]
    shown = "undefined" if ece is None else f"{ece:.3f}"
    assert any(text.endswith(f"(ECE) {shown}") for text in drawn.texts())
    histogram = drawn.figure.axes[1]
    assert sum(bar.get_height() for bar in histogram.patches) == len(labels)  # type: ignore[attr-defined]


def test_calibration_gaps_reach_from_accuracy_to_confidence(tmp_path: pathlib.Path, drawn: Drawn) -> None:
    # One over-confident bin (0.95, half right) and one under-confident bin (0.6, all right).
    labels = np.array([0, 1, 0])
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4]])
    plots.calibration(tmp_path / "k.png", labels=labels, probabilities=probabilities, title="Calibration")
    gaps = [bar for bar in drawn.figure.axes[0].patches if bar.get_hatch()]
    spans = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in gaps]  # type: ignore[attr-defined]
    assert spans == [pytest.approx((0.5, 0.95)), pytest.approx((0.6, 1.0))]


CURVES = {
    "one stage": rows_of(1, epochs=10),
    "two stages": rows_of(2),
    "late second stage": rows_of(2, first=40, epochs=1),
    "thirty stages": rows_of(30),
    "thirty stages after a long first": rows_of(30, first=100, epochs=1),
    "no validation": rows_of(3, evaluations=False),
    "one row": rows_of(1)[:1],
    "one evaluation": [
        {"step": 1, "epoch": 1.0, "stage": 1, "val/loss": 0.5, "val/accuracy": 0.5, "val/macro_f1": 0.4}
    ],
    "nothing": [],
    "rate of zero": [{"step": 1, "epoch": 0.1, "stage": 1, "train/loss": 1.0, "train/learning_rate": 0.0}],
    "nulls": [{"step": s, "epoch": s / 4, "stage": 1, "train/loss": None, "val/loss": None} for s in range(3)],
}


@pytest.mark.parametrize("case", CURVES)
def test_training_curves_are_readable_for_every_kind_of_run(tmp_path: pathlib.Path, drawn: Drawn, case: str) -> None:
    plots.training_curves(tmp_path / "t.png", rows=CURVES[case], title="Training curves", notice=NOTICE)
    drawn.assert_readable()
    stages = {row["stage"] for row in CURVES[case]}
    assert drawn.texts().count("fine-tuning begins") == (1 if len(stages) > 1 else 0)


def test_training_curves_mark_stages_and_the_start_of_fine_tuning(tmp_path: pathlib.Path, drawn: Drawn) -> None:
    plots.training_curves(tmp_path / "t.png", rows=rows_of(30, first=10), title="Training curves")
    for axes in drawn.figure.axes:
        points = [(np.asarray(line.get_xdata(), float), line) for line in axes.get_lines()]
        starts = {x[0]: line.get_color() for x, line in points if len(x) == 2 and x[0] == x[1]}
        assert sorted(starts) == [10.0 + 2 * k for k in range(29)]
        assert [start for start, colour in starts.items() if colour == plots.FINE_TUNING] == [10.0]
    numbers = [int(text.get_text()) for text in drawn.figure.axes[0].texts if text.get_text().isdigit()]
    assert numbers[:2] == [1, 2]
    assert 10 <= len(numbers) < 30


def test_training_curves_mark_the_lowest_validation_loss(tmp_path: pathlib.Path, drawn: Drawn) -> None:
    rows = [{"step": s, "epoch": float(s), "stage": 1, "val/loss": loss} for s, loss in enumerate((0.9, 0.4, 0.6), 1)]
    plots.training_curves(tmp_path / "t.png", rows=rows, title="Training curves")
    assert "lowest validation loss:\n0.4 at epoch 2" in drawn.texts()


def test_smoothing_keeps_a_straight_line_in_place(tmp_path: pathlib.Path, drawn: Drawn) -> None:
    rows = [{"step": s, "epoch": s / 10, "stage": 1, "train/loss": 5 - s / 100} for s in range(1, 201)]
    plots.training_curves(tmp_path / "t.png", rows=rows, title="Training curves")
    smooth = drawn.lines(0)["training (smoothed)"].get_ydata()
    expected = np.array([row["train/loss"] for row in rows])
    np.testing.assert_allclose(smooth[10:-10], expected[10:-10])
    np.testing.assert_allclose(smooth, expected, atol=0.05)


def test_pictures_are_png_at_150_dpi_on_white_and_replace_the_old_one(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "t.png"
    for _ in range(2):
        plots.training_curves(path, rows=rows_of(2), title="Training curves")
    assert [file.name for file in path.parent.iterdir()] == ["t.png"]
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_notice_is_printed_only_where_there_is_one(tmp_path: pathlib.Path, drawn: Drawn) -> None:
    plots.training_curves(tmp_path / "t.png", rows=rows_of(1), title="Training curves")
    assert NOTICE not in drawn.texts()
    plots.training_curves(tmp_path / "t.png", rows=rows_of(1), title="Training curves", notice=NOTICE)
    assert NOTICE in drawn.texts()


def test_drawing_changes_no_global_state(tmp_path: pathlib.Path) -> None:
    before = dict(matplotlib.rcParams)
    plots.training_curves(tmp_path / "t.png", rows=rows_of(1), title="Training curves")
    assert dict(matplotlib.rcParams) == before

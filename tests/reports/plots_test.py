import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.metrics import classification
from bt_jax.reports import figure_style, plots
from tests import drawings
from tests.drawings import Drawn

NOTICE = "SYNTHETIC PHANTOMS - not medical data"
LONG_NAMES = [
    f"{name}_of_unknown_grade_and_site"
    for name in (
        "anaplastic_astrocytoma", "diffuse_midline_glioma_h3_k27_altered", "oligodendroglioma", "meningioma", "healthy",
        "pituitary_adenoma", "craniopharyngioma", "medulloblastoma", "vestibular_schwannoma", "metastasis",
    )
]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return drawings.keeping(monkeypatch)


def draw_scores(
    n: int, classes: int, present: Sequence[int] | None = None, strength: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.choice(np.arange(classes) if present is None else np.array(present), n)
    logits = rng.normal(size=(n, classes)) + strength * np.eye(classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def scored(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    return classification.score(split="testing", labels=labels, probabilities=probabilities, class_names=names)


CASES = {
    "four": (*draw_scores(574, 4), list(BRAIN_TUMOR_CLASSES)),
    "absent": (*draw_scores(120, 4, [0, 1, 3]), list(BRAIN_TUMOR_CLASSES)),
    "ten": (*draw_scores(574, 10), LONG_NAMES),
    "fifteen": (*draw_scores(900, 15), [f"class_{c}" for c in range(15)]),
    "two": (*draw_scores(50, 2), ["no", "yes"]),
    "only_one": (*draw_scores(5, 1), ["everything"]),
    "one_image": (*draw_scores(1, 4), list(BRAIN_TUMOR_CLASSES)),
    "empty": (*draw_scores(0, 4), list(BRAIN_TUMOR_CLASSES)),
    "dollars": (*draw_scores(30, 3), ["a_$x$", "b_$", "_"]),
}


@pytest.mark.parametrize("case", CASES)
def test_confusion_matrix_shows_every_count_and_is_readable(tmp_path: pathlib.Path, drawn: Drawn, case: str) -> None:
    labels, probabilities, names = CASES[case]
    result = scored(labels, probabilities, names)
    plots.draw_confusion_matrix(
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
    plots.draw_confusion_matrix(
        tmp_path / "c.png", metrics=scored(labels, probabilities, names), class_names=names, title="Confusion matrix"
    )
    words = [" ".join(text.split()) for text in drawn.texts()]
    assert words.count("glioma tumor") == 2
    assert not any("_" in text for text in words)


@pytest.mark.parametrize("case", CASES)
def test_roc_curves_are_readable_and_name_every_class(tmp_path: pathlib.Path, drawn: Drawn, case: str) -> None:
    labels, probabilities, names = CASES[case]
    plots.draw_roc_curves(
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
    plots.draw_roc_curves(
        tmp_path / "r.png", labels=labels, probabilities=probabilities, class_names=["seen", "never"], title="ROC"
    )
    assert "seen\nundefined, no other images" in drawn.texts()
    assert "never\nundefined, no images" in drawn.texts()


@pytest.mark.parametrize("case", CASES)
def test_calibration_shows_error_accuracy_and_counts(tmp_path: pathlib.Path, drawn: Drawn, case: str) -> None:
    labels, probabilities, names = CASES[case]
    plots.draw_calibration(
        tmp_path / "k.png", labels=labels, probabilities=probabilities, title="Calibration", notice=NOTICE
    )
    drawn.assert_readable()
    ece = scored(labels, probabilities, names)["ece"]
    shown = "undefined" if ece is None else f"{ece:.3f}"
    assert f"expected calibration error (ECE) {shown}" in drawn.texts()
    histogram = drawn.figure.axes[1]
    assert sum(bar.get_height() for bar in histogram.patches) == len(labels)  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", ["four", "one_image", "empty", "dollars"])
def test_calibration_shows_before_and_after_side_by_side(tmp_path: pathlib.Path, drawn: Drawn, case: str) -> None:
    labels, probabilities, names = CASES[case]
    before = np.eye(len(names))[probabilities.argmax(axis=1)]
    plots.draw_calibration(
        tmp_path / "k.png", labels=labels, probabilities=probabilities, uncalibrated=before, title="Calibration"
    )
    drawn.assert_readable()
    for side, shown in (("before", before), ("after", probabilities)):
        ece = scored(labels, shown, names)["ece"]
        value = "undefined" if ece is None else f"{ece:.3f}"
        assert f"{side}: expected calibration error (ECE) {value}" in drawn.texts()
    panels = drawn.figure.axes
    assert len(panels) == 4
    for histogram in panels[2:]:
        heights = [bar.get_height() for bar in histogram.patches]  # type: ignore[attr-defined]
        assert sum(heights) == len(labels)
        assert histogram.get_ylim()[1] >= max(heights)


def test_calibration_gaps_reach_from_accuracy_to_confidence(tmp_path: pathlib.Path, drawn: Drawn) -> None:
    # One over-confident bin (0.95, half right) and one under-confident bin (0.6, all right).
    labels = np.array([0, 1, 0])
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4]])
    plots.draw_calibration(tmp_path / "k.png", labels=labels, probabilities=probabilities, title="Calibration")
    gaps = [bar for bar in drawn.figure.axes[0].patches if bar.get_hatch()]
    spans = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in gaps]  # type: ignore[attr-defined]
    assert spans == [pytest.approx((0.5, 0.95)), pytest.approx((0.6, 1.0))]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_examples_stand_beside_their_heat_maps_and_mistakes_stand_out(
    tmp_path: pathlib.Path, drawn: Drawn, count: int
) -> None:
    rng = np.random.default_rng(0)
    examples = [
        plots.Example(
            image=rng.integers(0, 256, (24, 24)).astype(np.uint8),
            overlay=rng.integers(0, 256, (24, 24, 3)).astype(np.uint8),
            label=BRAIN_TUMOR_CLASSES[number % 4],
            predicted="meningioma_tumor",
            probability=0.25 + number / 100,
        )
        for number in range(count)
    ]
    plots.draw_examples(tmp_path / "e.png", examples, title="Testing images", notice=NOTICE)
    drawn.assert_readable()
    filled = [axes for axes in drawn.figure.axes if axes.get_images()]
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in filled]
    for example, left, right in zip(examples, shown[::2], shown[1::2], strict=True):
        np.testing.assert_array_equal(left, example.image)
        np.testing.assert_array_equal(right, example.overlay)
    assert [axes.get_title() for axes in filled[::2]] == [example.label.replace("_", " ") for example in examples]
    for example, axes in zip(examples, filled[1::2], strict=True):
        assert axes.get_title() == f"meningioma tumor, {example.probability:.2f}"
        assert (axes.title.get_color() == figure_style.VERMILLION) == (example.label != example.predicted)

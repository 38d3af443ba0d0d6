import pathlib
from typing import Any

import hypothesis
import matplotlib
import numpy as np
import pytest
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from bt_jax.reports import training_curves
from tests import drawings
from tests.drawings import Drawn

NOTICE = "SYNTHETIC PHANTOMS - not medical data"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return drawings.keeping(monkeypatch)


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
    training_curves.draw_training_curves(tmp_path / "t.png", rows=CURVES[case], title="Training curves", notice=NOTICE)
    drawn.assert_readable()
    stages = {row["stage"] for row in CURVES[case]}
    assert drawn.texts().count("fine-tuning begins") == (1 if len(stages) > 1 else 0)


def test_training_curves_mark_stages_and_the_start_of_fine_tuning(tmp_path: pathlib.Path, drawn: Drawn) -> None:
    training_curves.draw_training_curves(tmp_path / "t.png", rows=rows_of(30, first=10), title="Training curves")
    for axes in drawn.figure.axes:
        points = [(np.asarray(line.get_xdata(), float), line) for line in axes.get_lines()]
        starts = {x[0]: line.get_color() for x, line in points if len(x) == 2 and x[0] == x[1]}
        assert sorted(starts) == [10.0 + 2 * k for k in range(29)]
        assert [start for start, colour in starts.items() if colour == training_curves.FINE_TUNING] == [10.0]
    numbers = [int(text.get_text()) for text in drawn.figure.axes[0].texts if text.get_text().isdigit()]
    assert numbers[:2] == [1, 2]
    assert 10 <= len(numbers) < 30


def test_training_curves_mark_the_lowest_validation_loss(tmp_path: pathlib.Path, drawn: Drawn) -> None:
    rows = [{"step": s, "epoch": float(s), "stage": 1, "val/loss": loss} for s, loss in enumerate((0.9, 0.4, 0.6), 1)]
    training_curves.draw_training_curves(tmp_path / "t.png", rows=rows, title="Training curves")
    assert "lowest validation loss:\n0.4 at epoch 2" in drawn.texts()


def test_smoothing_keeps_a_straight_line_in_place(tmp_path: pathlib.Path, drawn: Drawn) -> None:
    rows = [{"step": s, "epoch": s / 10, "stage": 1, "train/loss": 5 - s / 100} for s in range(1, 201)]
    training_curves.draw_training_curves(tmp_path / "t.png", rows=rows, title="Training curves")
    smooth = drawn.lines(0)["training (smoothed)"].get_ydata()
    expected = np.array([row["train/loss"] for row in rows])
    np.testing.assert_allclose(smooth[10:-10], expected[10:-10])
    np.testing.assert_allclose(smooth, expected, atol=0.05)


def test_pictures_are_png_at_150_dpi_on_white_and_replace_the_old_one(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "t.png"
    for _ in range(2):
        training_curves.draw_training_curves(path, rows=rows_of(2), title="Training curves")
    assert [file.name for file in path.parent.iterdir()] == ["t.png"]
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_notice_is_printed_only_where_there_is_one(tmp_path: pathlib.Path, drawn: Drawn) -> None:
    training_curves.draw_training_curves(tmp_path / "t.png", rows=rows_of(1), title="Training curves")
    assert NOTICE not in drawn.texts()
    training_curves.draw_training_curves(tmp_path / "t.png", rows=rows_of(1), title="Training curves", notice=NOTICE)
    assert NOTICE in drawn.texts()


def test_drawing_changes_no_global_state(tmp_path: pathlib.Path) -> None:
    before = dict(matplotlib.rcParams)
    training_curves.draw_training_curves(tmp_path / "t.png", rows=rows_of(1), title="Training curves")
    assert dict(matplotlib.rcParams) == before


def evaluations(*losses, every=1.0):
    return [
        {"epoch": every * i, "val/loss": loss, "val/accuracy": 0.5, "val/macro_f1": 0.4, "train/loss": 1.0}
        for i, loss in enumerate(losses, start=1)
    ]


def test_series_leaves_out_what_was_not_recorded():
    epochs, values = training_curves.select_series([{"epoch": 1.0}, *evaluations(2.0, None, 1.0)], "val/loss")
    assert epochs.tolist() == [1.0, 3.0] and values.tolist() == [2.0, 1.0]


def test_mean_and_range_by_hand():
    """Joined in between; a run that ended early counts up to its end."""
    runs = [(np.array([1.0, 3.0]), np.array([2.0, 4.0])), (np.array([1.0, 2.0]), np.array([0.0, 1.0]))]
    epochs, mean, low, high = training_curves.compute_mean_and_range(runs)
    assert epochs.tolist() == [1, 2, 3]
    assert mean.tolist() == [1, 2, 4] and low.tolist() == [0, 1, 4] and high.tolist() == [2, 3, 4]


@hypothesis.given(st.lists(st.lists(st.floats(0, 10), min_size=0, max_size=6), max_size=4), st.sampled_from([0.5, 1.0]))
def test_the_mean_lies_in_the_range(runs, every):
    series = [training_curves.select_series(evaluations(*run, every=every), "val/loss") for run in runs]
    epochs, mean, low, high = training_curves.compute_mean_and_range(series)
    assert len(epochs) == max([len(run) for run in runs], default=0)
    assert (low <= mean + 1e-9).all() and (mean <= high + 1e-9).all()


def draw_comparison(tmp_path, drawn, curves) -> Figure:
    """Returns the figure that was saved."""
    training_curves.draw_run_comparison(tmp_path / "curves.png", curves=curves, title="Runs", notice=NOTICE)
    return drawn.figure


def test_twelve_rows_look_different(tmp_path, drawn):
    curves = {f"row {i}": [evaluations(2.0, 1.0), evaluations(2.2, 1.1)] for i in range(12)}
    figure = draw_comparison(tmp_path, drawn, curves)
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_linestyle(), str(line._dash_pattern)) for line in lines}) == 12
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == list(curves)
    assert [len(axes.lines) for axes in figure.axes] == [12] * 3
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width == round(figure.dpi * figure.get_figwidth())


def test_an_exploding_loss_does_not_press_the_others_flat(tmp_path, drawn):
    curves = {"calm": [evaluations(*[1.0] * 20)], "exploding": [evaluations(1.0, 1e6)]}
    loss = draw_comparison(tmp_path, drawn, curves).axes[2]
    assert loss.get_ylim()[1] < 10
    assert "cut" in loss.get_ylabel()


def test_a_run_without_evaluations_is_drawn_empty(tmp_path, drawn):
    figure = draw_comparison(tmp_path, drawn, {"$a$": [[]], "b": [evaluations(1.0)]})
    assert len(figure.axes[0].lines) == 1

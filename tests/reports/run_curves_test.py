import hypothesis
import numpy as np
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from bt_jax.reports import run_curves


def rows(*losses, every=1.0):
    return [
        {"epoch": every * i, "val/loss": loss, "val/accuracy": 0.5, "val/macro_f1": 0.4, "train/loss": 1.0}
        for i, loss in enumerate(losses, start=1)
    ]


def test_series_leaves_out_what_was_not_recorded():
    epochs, values = run_curves.select_series([{"epoch": 1.0}, *rows(2.0, None, 1.0)], "val/loss")
    assert epochs.tolist() == [1.0, 3.0] and values.tolist() == [2.0, 1.0]


def test_mean_and_range_by_hand():
    """Joined in between; a run that ended early counts up to its end."""
    runs = [(np.array([1.0, 3.0]), np.array([2.0, 4.0])), (np.array([1.0, 2.0]), np.array([0.0, 1.0]))]
    epochs, mean, low, high = run_curves.compute_mean_and_range(runs)
    assert epochs.tolist() == [1, 2, 3]
    assert mean.tolist() == [1, 2, 4] and low.tolist() == [0, 1, 4] and high.tolist() == [2, 3, 4]


@hypothesis.given(st.lists(st.lists(st.floats(0, 10), min_size=0, max_size=6), max_size=4), st.sampled_from([0.5, 1.0]))
def test_the_mean_lies_in_the_range(runs, every):
    series = [run_curves.select_series(rows(*run, every=every), "val/loss") for run in runs]
    epochs, mean, low, high = run_curves.compute_mean_and_range(series)
    assert len(epochs) == max([len(run) for run in runs], default=0)
    assert (low <= mean + 1e-9).all() and (mean <= high + 1e-9).all()


def drawn(tmp_path, monkeypatch, curves) -> Figure:
    """The figure that is saved, after it was."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: (figures.append(self), save(self, *args, **kwargs))
    )
    run_curves.draw_run_comparison(tmp_path / "curves.png", curves=curves, title="Runs", notice="NOT REAL")
    return figures[0]


def test_twelve_rows_look_different(tmp_path, monkeypatch):
    curves = {f"row {i}": [rows(2.0, 1.0), rows(2.2, 1.1)] for i in range(12)}
    figure = drawn(tmp_path, monkeypatch, curves)
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_linestyle(), str(line._dash_pattern)) for line in lines}) == 12
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == list(curves)
    assert [len(axes.lines) for axes in figure.axes] == [12] * 3
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 1000


def test_an_exploding_loss_does_not_press_the_others_flat(tmp_path, monkeypatch):
    curves = {"calm": [rows(*[1.0] * 20)], "exploding": [rows(1.0, 1e6)]}
    loss = drawn(tmp_path, monkeypatch, curves).axes[2]
    assert loss.get_ylim()[1] < 10
    assert "cut" in loss.get_ylabel()


def test_a_run_without_evaluations_is_drawn_empty(tmp_path, monkeypatch):
    figure = drawn(tmp_path, monkeypatch, {"$a$": [[]], "b": [rows(1.0)]})
    assert len(figure.axes[0].lines) == 1

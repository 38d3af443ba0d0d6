import xml.etree.ElementTree

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from bt_jax.common.errors import UsageError
from bt_jax.models.summary import Layer, Segment
from bt_jax.reports import model_diagram

CONV = Layer("conv", (4, 4, 8), 100, 3_000_000)
PARTS = (
    Segment("stem", (4, 4, 8), (CONV, Layer("norm", (4, 4, 8), 16, 0))),
    *(Segment(f"block_{i}", (4, 4, 8), (CONV,)) for i in (1, 2, 3)),
    Segment("flatten", (128,), ()),
    Segment("head", (2,), (Layer("$output", (2,), 258, 512),)),
)


@pytest.fixture
def saved(monkeypatch) -> list[Figure]:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: (figures.append(self), save(self, *args, **kwargs))
    )
    return figures


@pytest.mark.parametrize("suffix", [".svg", ".png", ".SVG"])
def test_a_chain_of_boxes_with_repeats_in_one(tmp_path, saved, suffix):
    path = tmp_path / f"model{suffix}"
    model_diagram.draw_diagram(path, PARTS, title="a model", size=32)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") if suffix == ".png" else xml.etree.ElementTree.fromstring(content).tag
    (axes,) = saved[0].axes
    assert len([patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]) == 5  # image, four groups
    texts = [text.get_text() for text in axes.texts]
    assert "block_1 to block_3 (3 times)" in texts and "block_2" not in texts
    assert {"32 x 32 x 3", "4 x 4 x 8", "128", "300", "9", r"\$output"} <= set(texts)
    assert "a model\n674 parameters, 12.0 MFLOP per image" in [text.get_text() for text in saved[0].texts]


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"model\.pdf is not a picture file"):
        model_diagram.draw_diagram(tmp_path / "model.pdf", PARTS, title="", size=32)
    assert not list(tmp_path.iterdir())

"""What is said of a model, and that nothing of a card does harm."""

import pathlib
import re

import pytest

from bt_jax.inference.predictor import Predictor
from bt_jax.serve.model_page import ModelPage
from tests import hostile_inputs, small_models, untrained

CARD = """# A run

> **Notice & more**

Plain, **bold**, `code <b>` and [a link](validation/metrics.json) and <https://example.org/>.

| name | number |
|------|-------:|
| a\\|b | 1 |

![curves](training_curves.png) ![gone](absent.png) ![out](../../secret.png) ![far](https://example.org/x.png)
![data](data:image/png;base64,AAAA) ![folder](../report) ![spaced](out%20of%20fold/roc.png)

<script>alert(1)</script> <img src=x onerror=alert(1)>
[click](javascript:alert(1)) ![x](javascript:alert(1))
<svg onload="alert(1)">
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> ModelPage:
    folder = tmp_path_factory.mktemp("model_page")
    (folder / "secret.png").write_bytes(b"secret")
    run = untrained.write(folder / "run", synthetic=True)
    (run / "report" / "out of fold").mkdir(parents=True)
    (run / "report" / "model_card.md").write_text(CARD)
    (run / "report" / "training_curves.png").write_bytes(hostile_inputs.image())
    (run / "report" / "out of fold" / "roc.png").write_bytes(b"roc")
    (run / "report" / "link.png").symlink_to(folder / "secret.png")
    small_models.write(folder / "net.safetensors", "mlp", size=32, hidden=(4,), channels=1, plain=True)
    names = [str(run), str(folder / "net.safetensors")]
    return ModelPage(Predictor.load(names), names)


def test_a_card_is_rendered(page):
    (card,) = page.cards  # an exported file has none
    assert "<h2>A run</h2>" in card and "<strong>bold</strong>" in card and "<code>code &lt;b&gt;</code>" in card
    assert '<td>a|b</td>\n<td class="number">1</td>' in card
    assert "<strong>Notice &amp; more</strong>" in card and "a link and https://example.org/" in card


def test_nothing_in_a_card_runs_or_leads_away(page):
    (card,) = page.cards
    tags = set(re.findall(r"<(/?\w+)", card))
    assert {tag.strip("/") for tag in tags} <= {"h2", "p", "blockquote", "strong", "code", "div", "table", "thead",
                                                "tbody", "tr", "th", "td", "img"}  # fmt: skip
    assert not re.search(r"<[^>]*\s(on\w+|style|href)=", card)
    assert set(re.findall(r'src="([^"]*)"', card)) == {"model/1.png", "model/2.png"}


def test_only_pictures_beside_the_card_are_served(page):
    assert page.pictures == {1: hostile_inputs.image(), 2: b"roc"}


def test_facts_in_both_languages(page):
    (run, rows), (exported, _) = page.list_facts("en")
    assert (run, exported) == ("run", "net.safetensors")
    facts = dict(rows)
    assert facts["Network"] == "mlp" and facts["Classes"] == "Glioma, Meningioma, No tumour, Pituitary tumour"
    assert facts["Trained on synthetic phantoms"] == "yes" and facts["Detects out-of-distribution images"] == "no"
    assert dict(page.list_facts("es")[0][1])["Entrenado con maniquíes sintéticos"] == "sí"


def test_a_link_out_of_the_report_is_no_picture(tmp_path):
    run = untrained.write(tmp_path / "run")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (run / "report").mkdir()
    (run / "report" / "link.png").symlink_to(tmp_path / "secret.png")
    (run / "report" / "model_card.md").write_text("![a](link.png)")
    assert ModelPage(Predictor.load([str(run)]), [str(run)]).pictures == {}


def test_a_cross_validation_shows_the_cards_of_its_folds(tmp_path):
    for number in range(2):
        fold = untrained.write(tmp_path / f"fold_{number}", seed=number)
        (fold / "report").mkdir()
        (fold / "report" / pathlib.Path("model_card.md")).write_text(f"# Fold {number}")
    (tmp_path / "cross_validation.json").write_text("{}")
    page = ModelPage(Predictor.load([str(tmp_path)]), [str(tmp_path)])
    assert [str(card).strip() for card in page.cards] == ["<h2>Fold 0</h2>", "<h2>Fold 1</h2>"]
    assert dict(page.list_facts("en")[0][1])["Number of networks"] == "2"

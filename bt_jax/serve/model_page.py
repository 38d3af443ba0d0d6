"""The page about the model: facts, and the model cards as safe HTML. The only module that imports markdown-it."""

import pathlib
from collections.abc import MutableMapping, Sequence
from typing import Any

import markdown_it
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

from bt_jax.inference import shipped_model
from bt_jax.inference.predictor import Predictor
from bt_jax.inference.trained_model import TrainedModel
from bt_jax.serve import i18n

_CARD = "model_card.md"
_LARGEST_CARD, _LARGEST_PICTURE = 2**20, 2**23  # bytes


class ModelPage:
    """Facts, cards and pictures of a predictor's models, all read by the constructor.

    Attributes:
      names: what people call the models, see `shipped_model.name`.
      cards: the model cards as HTML without links, scripts or external pictures; none for models without a workdir.
      pictures: the PNG files that the cards show, by the number in their address.

    Args:
      predictor: the predictor.
      names: paths of its models, one for each.
    """

    def __init__(self, predictor: Predictor, names: Sequence[str]):
        self._predictor = predictor
        self.names = tuple(map(shipped_model.name, names))
        self.pictures: dict[int, bytes] = {}
        self.cards = tuple(
            self._render(card)
            for model, name in zip(predictor.models, names, strict=True)
            for card in _find_cards(pathlib.Path(name), model)
        )

    def list_facts(self, language: str) -> list[tuple[str, list[tuple[str, str]]]]:
        """Lists for each model its name and rows of (fact, value) in a language."""
        return [
            (name, _list_facts(model, i18n.load_texts(language)))
            for model, name in zip(self._predictor.models, self.names, strict=True)
        ]

    def _render(self, card: pathlib.Path) -> Markup:
        source = card.read_bytes()[:_LARGEST_CARD].decode("utf-8", "replace")
        # HTML in the card is escaped; links are dropped because their targets are not served.
        parser = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table")
        for kind in ("link_open", "link_close"):
            parser.add_render_rule(kind, _render_nothing)
        parser.add_render_rule("image", self._make_image_rule(card.parent))
        parser.add_render_rule("table_open", _open_table)
        parser.add_render_rule("table_close", _close_table)
        for kind in ("th_open", "td_open"):
            parser.add_render_rule(kind, _render_cell)
        parser.add_render_rule("heading_open", _render_heading)
        parser.add_render_rule("heading_close", _render_heading)
        return Markup(parser.render(source))

    def _make_image_rule(self, folder: pathlib.Path) -> Any:
        def render_image(
            renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: MutableMapping[str, Any]
        ) -> str:
            token = tokens[index]
            number = self._add_picture(folder, str(token.attrGet("src") or ""))
            text = escape(token.content)
            return (
                str(Markup('<img src="model/{}.png" alt="{}" loading="lazy">').format(number, text)) if number else text
            )

        return render_image

    def _add_picture(self, folder: pathlib.Path, name: str) -> int:
        """Adds a picture from the card's folder and returns its number, or 0 for any other path."""
        path = (folder / name.replace("%20", " ")).resolve()
        if path.suffix != ".png" or not path.is_relative_to(folder.resolve()) or not path.is_file():
            return 0
        if path.stat().st_size > _LARGEST_PICTURE:
            return 0
        number = len(self.pictures) + 1
        self.pictures[number] = path.read_bytes()
        return number


def _find_cards(path: pathlib.Path, model: TrainedModel) -> list[pathlib.Path]:
    """Finds the card of a run or cross-validation or beside a file, or else the cards of its folds."""
    own = path.with_suffix(".md") if path.is_file() else path / "report" / _CARD
    found = [own] if own.is_file() else [folder / "report" / _CARD for folder in model.folders]
    return [card for card in found if card.is_file()]


def _list_facts(model: TrainedModel, table: dict[str, Any]) -> list[tuple[str, str]]:
    texts, description = table["page"], model.description
    size = model.preprocessing.size
    classes = ", ".join(table["classes"].get(name, name) for name in model.class_names)
    rows = [
        ("fact_network", description.name),
        ("fact_size", f"{size} x {size}"),
        ("fact_classes", classes),
        ("fact_weights", description.weights),
        ("fact_members", str(model.members)),
        ("fact_calibrated", texts["yes" if model.temperature else "no"]),
        ("fact_doubt", texts["yes" if model.ood_models else "no"]),
        ("fact_heat_maps", texts["yes" if model.methods else "no"]),
        ("fact_engine", model.engine),
        ("fact_synthetic", texts["yes" if model.notice else "no"]),
    ]
    return [(texts[key], value) for key, value in rows]


def _render_nothing(*_: Any) -> str:
    return ""


def _open_table(*_: Any) -> str:
    # Wide tables scroll by themselves, by keyboard too.
    return '<div class="wide" tabindex="0" role="group"><table>'


def _close_table(*_: Any) -> str:
    return "</table></div>"


def _render_cell(renderer: RendererHTML, tokens: Sequence[Token], index: int, *_: Any) -> str:
    """Aligns numbers to the right by a class, since the page's content security policy forbids inline styles."""
    token = tokens[index]
    return f'<{token.tag} class="number">' if "right" in str(token.attrGet("style")) else f"<{token.tag}>"


def _render_heading(renderer: RendererHTML, tokens: Sequence[Token], index: int, *_: Any) -> str:
    """Lowers headings by one level below the page's own heading."""
    token = tokens[index]
    level = min(6, int(token.tag[1]) + 1)
    return f"<{'/' if token.nesting < 0 else ''}h{level}>"

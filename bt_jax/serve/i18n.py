"""The languages of the page and the interface: a table of texts for each, by key and by what sentences say."""

import functools
import json
import pathlib
from typing import Any

from bt_jax.common.messages import Message, Value

LANGUAGES = ("en", "es")
_FOLDER = pathlib.Path(__file__).parent / "texts"


@functools.cache
def load_texts(language: str) -> dict[str, Any]:
    """The texts of a language: `page` by key, `classes` by name, and `said`, templates by code.

    English sentences stand where they are made, so that its `said` is empty.
    """
    content: dict[str, Any] = json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return content


def translate(sentence: str, language: str) -> str:
    """A sentence in a language; as it is where there is no translation, such as for plain strings."""
    template = load_texts(language)["said"].get(sentence.code) if isinstance(sentence, Message) else None
    if template is None or not isinstance(sentence, Message):
        return str(sentence)
    return str(template.format(**{name: _format_value(value, language) for name, value in sentence.values.items()}))


def get_code_and_values(sentence: str) -> dict[str, Any]:
    """Code and values of a sentence, for programs; what is no `Message` has the code `other`."""
    return sentence.to_dict() if isinstance(sentence, Message) else {"code": "other", "values": {}}


def _format_value(value: Value, language: str) -> str:
    """As Spanish writes numbers: a comma before decimals, points between thousands from five digits on."""
    if isinstance(value, str):
        return translate(value, language)
    if isinstance(value, float):
        return f"{value:.1f}".replace(".", ",")
    return f"{value:,}".replace(",", ".") if abs(value) >= 10_000 else str(value)

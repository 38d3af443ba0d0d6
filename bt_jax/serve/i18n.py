"""The languages of the page and the API: a table of texts for each, by key and by message code."""

import functools
import json
import pathlib
from typing import Any

from bt_jax.common.messages import Message, Value

LANGUAGES = ("en", "es")
_FOLDER = pathlib.Path(__file__).parent / "texts"


@functools.cache
def load_texts(language: str) -> dict[str, Any]:
    """Loads the texts of a language: `page` by key, `classes` by name, and `said`, templates by message code.

    English messages are written where they are made, so the English `said` is empty.
    """
    content: dict[str, Any] = json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return content


def translate(sentence: str, language: str) -> str:
    """Translates a message; returns it unchanged if there is no translation, as for plain strings."""
    template = load_texts(language)["said"].get(sentence.code) if isinstance(sentence, Message) else None
    if template is None or not isinstance(sentence, Message):
        return str(sentence)
    return str(template.format(**{name: _format_value(value, language) for name, value in sentence.values.items()}))


def get_code_and_values(sentence: str) -> dict[str, Any]:
    """Returns the code and values of a message, for programs; a plain string has the code `other`."""
    return sentence.to_dict() if isinstance(sentence, Message) else {"code": "other", "values": {}}


def _format_value(value: Value, language: str) -> str:
    """Formats a value in Spanish: a decimal comma, and points between thousands from five digits on."""
    if isinstance(value, str):
        return translate(value, language)
    if isinstance(value, float):
        return f"{value:.1f}".replace(".", ",")
    return f"{value:,}".replace(",", ".") if abs(value) >= 10_000 else str(value)

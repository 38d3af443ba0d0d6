"""Sentences for people that programs can tell apart: English text that can be said in any language."""

from collections.abc import Mapping
from typing import Any

Value = int | float | str  # a `Message` too


class Message(str):
    """English text, to be used as any other string, that remembers what it was made from.

    Args:
      code: a short name of what is said; each stands in the tables of texts of `serve`.
      template: the English text, with `{name}` for a value.
      **values: whole numbers, numbers with one decimal, words that are the same in every language, or sentences.
    """

    code: str
    template: str
    values: Mapping[str, Value]

    def __new__(cls, code: str, template: str, /, **values: Value) -> "Message":
        """From its parts."""
        made = super().__new__(cls, template.format(**{name: format_english(value) for name, value in values.items()}))
        made.code, made.template, made.values = code, template, values
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str, str], Mapping[str, Value]]:
        """For copies: these are made from the same parts."""
        return (self.code, self.template), self.values

    def to_dict(self) -> dict[str, Any]:
        """Code and values, for JSON."""
        values = {name: value.to_dict() if isinstance(value, Message) else value for name, value in self.values.items()}
        return {"code": self.code, "values": values}


def format_english(value: Value) -> str:
    """A value as it stands in an English text."""
    if isinstance(value, str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"

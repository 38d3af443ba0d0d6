"""Translatable messages: English text that remembers its code and values."""

from collections.abc import Mapping
from typing import Any

Value = int | float | str  # or a `Message`


class Message(str):
    """An English string with the code, template and values that it was made from.

    Args:
      code: a short name of the message; the tables of texts of `serve` have an entry for each code.
      template: the English text, with `{name}` in place of a value.
      **values: integers, floats (shown with one decimal), strings that need no translation, or messages.
    """

    code: str
    template: str
    values: Mapping[str, Value]

    def __new__(cls, code: str, template: str, /, **values: Value) -> "Message":
        """Formats the text from its parts."""
        made = super().__new__(cls, template.format(**{name: format_english(value) for name, value in values.items()}))
        made.code, made.template, made.values = code, template, values
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str, str], Mapping[str, Value]]:
        """Returns the parts, from which copies are made."""
        return (self.code, self.template), self.values

    def to_dict(self) -> dict[str, Any]:
        """Returns the code and the values, for JSON."""
        values = {name: value.to_dict() if isinstance(value, Message) else value for name, value in self.values.items()}
        return {"code": self.code, "values": values}


def format_english(value: Value) -> str:
    """Formats a value for English text."""
    if isinstance(value, str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"

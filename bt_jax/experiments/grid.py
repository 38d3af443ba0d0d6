"""Parses a grid of settings such as `model.hidden=(64,),(256,64)`, and names its points."""

import ast
import difflib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bt_jax.common.errors import UsageError

# The sweep itself sets the values of this field.
_SEED = "seed"


def parse(text: str, *, fields: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Parses `FIELD=A,B`. Values are separated by the commas outside brackets and quotes.

    Args:
      text: as on the command line.
      fields: {"a.b": value} of the configuration. A value must have the type of the field's value; a single number
        is accepted for a tuple, and an integer for a float.

    Returns:
      The field and its values without duplicates.

    Raises:
      UsageError: the field does not exist, or a value has the wrong type.
    """
    field, equals, values = text.partition("=")
    field = field.strip().removeprefix("config.")
    if not equals:
        raise UsageError(f"--grid is {text!r}: write it as FIELD=A,B")
    if field == _SEED:
        raise UsageError("--grid cannot contain seed: repeat over seeds with --seeds=N")
    if field not in fields:
        near = difflib.get_close_matches(field, fields, n=1) or [f for f in fields if f.endswith(f".{field}")][:1]
        hint = f"did you mean {near[0]}?" if near else "the configuration file lists them"
        raise UsageError(f"--grid names {field!r}, which is not a field of the configuration: {hint}")
    parsed = [_convert(part, like=fields[field], field=field) for part in split_values(values, field=field)]
    return field, list(dict.fromkeys(parsed))


def split_values(text: str, *, field: str) -> list[str]:
    """Splits at the commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
        if depth < 0:
            break
    if depth or quote:
        raise UsageError(f"--grid {field}: a bracket or quote in {text!r} is not closed")
    return [part.strip() for part in parts]


def _convert(text: str, *, like: Any, field: str) -> Any:
    kind = "text" if like is None else _KINDS.get(type(like), "text")
    try:
        if isinstance(like, str) or like is None:
            return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
        if isinstance(like, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(like, int):
            return int(text)
        if isinstance(like, float):
            value = float(text)
            if not math.isfinite(value):
                raise ValueError
            return value
        parts = ast.literal_eval(text)
        parts = tuple(parts) if isinstance(parts, list | tuple) else (parts,)
        for part in parts:
            # An empty tuple does not show the type of its elements; all such fields hold integers.
            if isinstance(part, bool) or not isinstance(part, type(like[0]) if like else int):
                raise ValueError
        return parts
    except (KeyError, ValueError, SyntaxError, TypeError):
        raise UsageError(f"--grid {field}: {text!r} is not {kind}, as in {like!r}") from None


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a tuple such as (256,)"}


def list_points(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Lists all combinations, the last field changing fastest. An empty grid has one point without fields."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def name_folder(point: Mapping[str, Any]) -> str:
    """Makes a folder name that is valid on any file system: `hidden=256-64_epochs=5`. It need not be unique."""
    last = [field.rpartition(".")[2] for field in point]
    return "_".join(
        f"{name if last.count(name) == 1 else field}={re.sub(r'[^A-Za-z0-9.+-]+', '-', format_value(value))[-40:]}"
        for (field, value), name in zip(point.items(), last, strict=True)
    )


def format_value(value: Any) -> str:
    """Formats a value for a name: `256-64` for a tuple, `none` for an empty one."""
    if isinstance(value, list | tuple):
        return "-".join(format_value(part) for part in value) or "none"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value) or "none"

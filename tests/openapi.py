"""Whether a value fits a schema of an OpenAPI 3.1 file: as much of JSON Schema as ours uses, and an error for more."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "number": (int, float), "integer": (int,),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
_SAID = {"description"}


def misfits(value: Any, schema: Mapping[str, Any], *, root: Mapping[str, Any], at: str = "$") -> list[str]:
    """What does not fit, one line each.

    Args:
      value: from JSON.
      schema: of it.
      root: the whole file, for references.
      at: where the value stands.
    """
    return list(_misfits(value, schema, root, at))


def _misfits(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    for keyword, wanted in schema.items():
        if keyword in _SAID:
            continue
        if keyword == "$ref":
            target: Any = root
            for part in wanted.removeprefix("#/").split("/"):
                target = target[part]
            yield from _misfits(value, target, root, at)
        elif keyword == "type":
            names = [wanted] if isinstance(wanted, str) else wanted
            allowed = tuple(kind for name in names for kind in _TYPES[name])
            if not isinstance(value, allowed) or (isinstance(value, bool) and "boolean" not in names):
                yield f"{at} is {value!r}, not {names}"
        elif keyword == "oneOf":
            fitting = [one for one in wanted if not list(_misfits(value, one, root, at))]
            if len(fitting) != 1:
                yield f"{at} fits {len(fitting)} of {len(wanted)}: {value!r}"
        elif keyword == "enum":
            if value not in wanted:
                yield f"{at} is {value!r}, none of {wanted}"
        elif keyword == "const":
            if value != wanted:
                yield f"{at} is {value!r}, not {wanted!r}"
        elif keyword == "required":
            yield from (f"{at} lacks {name}" for name in wanted if isinstance(value, dict) and name not in value)
        elif keyword == "properties":
            for name, one in wanted.items():
                if isinstance(value, dict) and name in value:
                    yield from _misfits(value[name], one, root, f"{at}.{name}")
        elif keyword == "additionalProperties":
            if isinstance(value, dict):
                for name in value.keys() - schema.get("properties", {}).keys():
                    if wanted is False:
                        yield f"{at} has {name}, which is not described"
                    else:
                        yield from _misfits(value[name], wanted, root, f"{at}.{name}")
        elif keyword == "items":
            if isinstance(value, list):
                for number, one in enumerate(value):
                    yield from _misfits(one, wanted, root, f"{at}[{number}]")
        elif keyword == "minItems":
            if isinstance(value, list) and len(value) < wanted:
                yield f"{at} has fewer than {wanted} items"
        elif keyword in ("minimum", "maximum"):
            if isinstance(value, int | float) and (value < wanted if keyword == "minimum" else value > wanted):
                yield f"{at} is {value}, beyond the {keyword} {wanted}"
        elif keyword == "pattern":
            if isinstance(value, str) and not re.search(wanted, value):
                yield f"{at} does not look like {wanted}"
        else:
            raise NotImplementedError(f"the checker does not know {keyword}")

"""Counts what XLA's CPU backend compiles, each about a tenth of a second of a core."""

import re

_FUSION = re.compile(r" fusion\(.*?calls=%([\w.\-]+)")
_NAME = re.compile(r"%[\w.\-]+")


def list_kernels(text: str) -> list[str]:
    """Lists the different fused computations in the HLO text of a compiled program: equal ones are compiled once."""
    computations = {}
    for body in text.split("\n}\n"):
        lines = body.lstrip("\n").split("\n")
        if found := re.match(r"%([\w.\-]+) \(", lines[0]):
            computations[found[1]] = "\n".join(lines[1:])
    return sorted({_normalise(computations[name]) for name in _FUSION.findall(text)})


def _normalise(body: str) -> str:
    """Renames the values of a computation in the order of their appearance."""
    names: dict[str, str] = {}
    body = re.sub(r", (metadata|backend_config|frontend_attributes)=\{.*\}$", "", body, flags=re.MULTILINE)
    return _NAME.sub(lambda found: names.setdefault(found[0], f"%{len(names)}"), body)

"""Analyses the HLO text of a compiled XLA program: its communication, and its traffic to the main memory."""

import math
import re
from collections.abc import Iterator

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")

_WIDTHS = {"pred": 8, "token": 0, "c64": 64, "c128": 128}  # in bits; for other types, the number in the name
_SHAPE = re.compile(r"\b(pred|token|c64|c128|[su]\d+|b?f(\d+)\w*)\[([\d,]*)\]")
# The result's shape has neither `=` nor `%`, which keeps names and metadata from matching.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = ([^=%]*?) ([a-z][\w\-]*)\(([^)]*)\)(.*)$")
_CALLED = re.compile(r"(?:body|condition|true_computation|false_computation|to_apply)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
# Instructions that move no data themselves. For a call, the called computation is counted.
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast"),
    *("while", "conditional", "call", "partition-id", "replica-id", "after-all", "optimization-barrier"),
}


def count_collectives(text: str) -> dict[str, dict[str, int]]:
    """Counts collectives by kind: their `count`, and `bytes` of the results on one device.

    A pair of start and done counts once. An instruction in a loop also counts once, however often the loop runs.
    """
    found = {kind: {"count": 0, "bytes": 0} for kind in COLLECTIVES}
    for _, instructions in _parse_computations(text):
        for _, shape, opcode, _, _ in instructions:
            kind = opcode.removesuffix("-done")  # a start's shape holds the operands too
            if kind in found:
                found[kind]["count"] += 1
                found[kind]["bytes"] += count_bytes(shape)
    return found


def count_main_memory_bytes(text: str) -> int:
    """Counts the bytes that a program reads from and writes to the main memory of a TPU.

    Counts operands and results of each instruction, with the padding of their tiles; a fusion counts as one
    instruction. Skips arrays that the compiler put into on-chip memory, which layouts mark with `S(1)` and so on. An
    operand that an instruction reads twice, or only in part, counts once and in full. The body of a loop counts once.
    """
    computations = dict(_parse_computations(text))
    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    waiting, seen, total = [entry[1]] if entry else [], set[str](), 0
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        shapes: dict[str, str] = {}
        sources: dict[str, str] = {}  # the operand of each asynchronous copy or slice
        for result, shape, opcode, operands, rest in computations[name]:
            shapes[result] = shape
            if opcode in ("while", "conditional", "call"):
                waiting += _CALLED.findall(rest)
                waiting += [branch.strip(" %") for found in _BRANCHES.findall(rest) for branch in found.split(",")]
            if opcode.endswith("-start"):
                sources[result] = shapes.get(operands[0], "") if operands else ""
            elif opcode.endswith("-done"):
                source = sources.get(operands[0], "")
                ends = (not _is_on_chip(shape)) + (bool(source) and not _is_on_chip(source))
                total += ends * count_bytes(_pad_to_tiles(shape))
            elif opcode not in _FREE:
                total += sum(
                    _count_main_memory_part(part) for part in (shape, *(shapes.get(name, "") for name in operands))
                )
    return total


def count_bytes(shape: str) -> int:
    """Counts the bytes of a shape or tuple of shapes in HLO notation, without the padding of its layout."""
    bits = 0
    for dtype, float_width, dimensions in _SHAPE.findall(shape):
        width = _WIDTHS[dtype] if dtype in _WIDTHS else int(float_width or dtype[1:])
        bits += width * math.prod(int(length) for length in dimensions.split(",") if length)
    return bits // 8


def _count_main_memory_part(shape: str) -> int:
    """Counts the bytes of the parts of a shape that are in the main memory, with the padding of their layouts."""
    parts = re.findall(r"\w+\[[\d,]*\](?:\{[^}]*\})?", shape)
    return sum(count_bytes(_pad_to_tiles(part)) for part in parts if not _is_on_chip(part))


def _pad_to_tiles(shape: str) -> str:
    """Pads a shape to full tiles: `bf16[9,100]{1,0:T(8,128)(2,1)}` becomes `bf16[16,128]`."""
    match = re.fullmatch(r"(\w+)\[([\d,]+)\]\{([\d,]+):T\(([\d,]+)\).*", shape)
    if match is None:
        return shape
    dimensions, minor_to_major, tile = ([int(length) for length in match[i].split(",")] for i in (2, 3, 4))
    for axis, length in zip(minor_to_major, reversed(tile), strict=False):
        dimensions[axis] = -(-dimensions[axis] // length) * length
    return f"{match[1]}[{','.join(map(str, dimensions))}]"


def _is_on_chip(shape: str) -> bool:
    return re.search(r"S\([1-9]\d*\)", shape) is not None


def _parse_computations(text: str) -> Iterator[tuple[str, list[tuple[str, str, str, list[str], str]]]]:
    """Yields the computations: name, and for each instruction its name, shape, opcode, operands and the line's rest."""
    name, instructions = "", list[tuple[str, str, str, list[str], str]]()
    for line in text.splitlines():
        if line.startswith("}"):
            yield name, instructions
        elif opening := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            name, instructions = opening[1], []
        elif match := _INSTRUCTION.match(re.sub(r"/\*.*?\*/", "", line)):
            result, shape, opcode, operands, rest = match.groups()
            instructions.append((result, shape, opcode, re.findall(r"%([\w.\-]+)", operands), rest))

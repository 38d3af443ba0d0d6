"""Reads the text of a compiled XLA program: what it communicates, and what it moves through the main memory."""

import math
import re
from collections.abc import Iterator

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")

_WIDTHS = {"pred": 8, "token": 0, "c64": 64, "c128": 128}  # in bits; of the others it is the number in their name
_SHAPE = re.compile(r"\b(pred|token|c64|c128|[su]\d+|b?f(\d+)\w*)\[([\d,]*)\]")
# The result's shape has neither `=` nor `%`, which keeps names and metadata from matching.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = ([^=%]*?) ([a-z][\w\-]*)\(([^)]*)\)(.*)$")
_CALLED = re.compile(r"(?:body|condition|true_computation|false_computation|to_apply)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
# What moves no data itself; a call's callee is read in its place.
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast"),
    *("while", "conditional", "call", "partition-id", "replica-id", "after-all", "optimization-barrier"),
}


def count_collectives(text: str) -> dict[str, dict[str, int]]:
    """Communication by kind: `count`, and `bytes` of the results on one device.

    A pair of start and done counts once. So does an instruction inside a loop, however often the loop runs.
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
    """Bytes that the instructions of a program read from and write to the main memory of a TPU.

    Counts operands and results of each instruction, of a fusion as a whole, with the padding of their tiles. Leaves out
    those that the compiler put into on-chip memory, which its layouts mark with `S(1)` and so on. An operand that is
    read twice by one instruction, or only in part, counts once and in full; a loop's body counts once.
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
        sources: dict[str, str] = {}  # of an asynchronous copy or slice: what it reads
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
    """Bytes of a shape, or of a tuple of shapes, in HLO's notation, without the padding of its layout."""
    bits = 0
    for dtype, float_width, dimensions in _SHAPE.findall(shape):
        width = _WIDTHS[dtype] if dtype in _WIDTHS else int(float_width or dtype[1:])
        bits += width * math.prod(int(length) for length in dimensions.split(",") if length)
    return bits // 8


def _count_main_memory_part(shape: str) -> int:
    """Bytes of those parts of a shape that are in the main memory, with the padding of their layouts."""
    parts = re.findall(r"\w+\[[\d,]*\](?:\{[^}]*\})?", shape)
    return sum(count_bytes(_pad_to_tiles(part)) for part in parts if not _is_on_chip(part))


def _pad_to_tiles(shape: str) -> str:
    """The shape that fills its tiles: of `bf16[9,100]{1,0:T(8,128)(2,1)}` it is `bf16[16,128]`."""
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
    """The computations: name, and for each instruction its name, shape, opcode, operands' names and the line's rest."""
    name, instructions = "", list[tuple[str, str, str, list[str], str]]()
    for line in text.splitlines():
        if line.startswith("}"):
            yield name, instructions
        elif opening := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            name, instructions = opening[1], []
        elif match := _INSTRUCTION.match(re.sub(r"/\*.*?\*/", "", line)):
            result, shape, opcode, operands, rest = match.groups()
            instructions.append((result, shape, opcode, re.findall(r"%([\w.\-]+)", operands), rest))

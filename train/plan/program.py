"""What a compiled program does, read from XLA's text: what its kernels move, and what goes between devices.

Each kernel reads and writes its arrays once; the bytes of all of them, divided by the bandwidth, are a time that the
program cannot fall below. What is in a loop counts as often as the loop turns.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
NO_KERNEL = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)")
COMMENT = re.compile(r"/\*.*?\*/")  # "/*index=5*/", before each fifth of many
# An operation that stands for the operations of others, and where it names them.
CALLED = {
    "while": re.compile(r"body=%?([\w.\-]+)"),
    "call": re.compile(r"to_apply=%?([\w.\-]+)"),
    "async-start": re.compile(r"calls=%?([\w.\-]+)"),
    "conditional": re.compile(r"(?:branch_computations=\{|true_computation=)%?([\w.\-]+)"),  # one of them for all
}
TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
WORKSPACE = re.compile(r"s8\[\d+\](\{[^}]*\})?")  # of a library
NEAR = "S(1)"  # the layout of an array in a TPU's own fast memory
LAYOUT = re.compile(r"\{([\d,]*):T\(([\d,]+)\)")  # a TPU's: axes, those that lie closest first; the tile of them


class Operation(NamedTuple):
    """One kernel of a program, or one exchange between devices."""

    kind: str  # the library's function, or what XLA named the kernel after
    name: str  # XLA's operation, as "fusion" or "all-reduce"
    moved: int  # bytes of the arrays that it reads and writes
    larger: int  # bytes of its arguments or of its results, whichever are more
    times: int  # how often it runs

    def sent(self, devices: int) -> float:
        """Bytes that each of `devices` sends at least; 0 for a kernel. Reductions go around a ring."""
        if self.name not in COLLECTIVES:
            return 0.0
        around = 1.0 if self.name == "collective-permute" else (devices - 1) / devices
        return self.times * self.larger * around * (2 if self.name == "all-reduce" else 1)


def operations(program: str) -> list[Operation]:
    """What a compiled and scheduled module does, in that order.

    Args:
        program: as `jax.stages.Compiled.as_text` gives it.
    """
    computations: dict[str, list[str]] = {}
    entry, lines = "", computations.setdefault("", [])
    for line in program.splitlines():
        if match := COMPUTATION.match(line):
            lines = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        else:
            lines.append(line)
    return list(_operations(computations, entry, 1))


def _operations(computations: dict[str, list[str]], name: str, times: int) -> Iterator[Operation]:
    sizes: dict[str, tuple[int, int]] = {}
    for commented in computations.get(name, ()):
        line = COMMENT.sub("", commented)
        if not (match := OPERATION.match(line)):
            continue
        result, shape, operation, operands = match.groups()
        sizes[result] = _bytes(shape)
        if operation in CALLED:
            turns = TURNS.search(line)
            if called := CALLED[operation].search(line):
                yield from _operations(computations, called[1], times * int(turns[1] if turns else 1))
            continue
        if operation in NO_KERNEL or operation.endswith(("-done", "-update")):
            continue
        named = {operand.split()[-1].lstrip("%") for operand in operands.split(",") if operand.strip()}
        read, given = (sum(sizes[name][i] for name in named if name in sizes) for i in (0, 1))
        wrote, made = sizes[result]
        if operation.endswith("-start"):  # its result holds its arguments too
            wrote, made = max(wrote - read, 0), max(made - given, 0)
        library = re.search(r'custom_call_target="([^"]*)"', line)
        kind = library[1] if library else re.sub(r"[.\d]+$", "", result)
        yield Operation(kind, operation.removesuffix("-start"), read + wrote, max(given, made), times)


def _bytes(shape: str) -> tuple[int, int]:
    """Of an array, or of all in a tuple: bytes in a device's memory, and of the array itself.

    A TPU stores whole tiles: an array of 64 channels takes as much as one of 128.
    """
    far = total = 0
    for dtype, dims, layout in ARRAY.findall(WORKSPACE.sub("", shape)):
        sides = [int(dim) for dim in filter(None, dims.split(","))]
        size = BYTES.get(dtype, 0)
        total += size * math.prod(sides)
        if NEAR in layout:
            continue
        if tiled := LAYOUT.match(layout):
            axes, tile = ([int(n) for n in part.split(",") if n] for part in tiled.groups())
            for axis, side in zip(axes, reversed(tile), strict=False):
                sides[axis] = -(-sides[axis] // side) * side
        far += size * math.prod(sides)
    return far, total

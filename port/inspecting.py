"""What a file of weights holds, in a few lines; of its arrays only names, shapes and dtypes are read."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from port.errors import LINES, WeightsError
from port.files import FLAX_METADATA, read_content
from port.layouts import read_as, recognise
from port.text import counted, cut, file_size, one_line
from port.unwrap import Taken, is_array, kind_of, refusal, take

KEYS = 30  # of a checkpoint, that are told
Indices = tuple[int, ...]


def inspect(path: Path, weights_key: str | None = None) -> tuple[list[str], Taken | None]:
    """Lines that say what a file holds, and what is taken of it; None if nothing can be, which a line says too.

    Raises:
        FileNotFoundError, WeightsFileError: as `port.read_weights`.
    """
    content, metadata = read_content(path)
    lines = [f"{path}: {file_size(path.stat().st_size)}"]
    if not isinstance(content, Mapping) or not all(map(is_array, content.values())):
        lines += _row("holds", ", ".join(_held(content)))
    try:
        taken = take(content, str(path), weights_key)
    except WeightsError as error:
        return [*lines, f"error: {one_line(error)}"], None
    if said := taken.said():
        lines += _row("weights", said)
    if metadata:
        lines += _row("metadata", ", ".join(f"{key}={value}" for key, value in sorted(metadata.items())))
    lines += _row("layout", described_layout(taken.arrays, metadata))
    return [*lines, *table(taken.arrays), _total(taken.arrays)], taken


def described_layout(arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """Whose names and layouts these are."""
    if metadata.get("format") == FLAX_METADATA["format"]:
        return "Flax paths, read as timm's names"
    layout = recognise(arrays)
    return "timm's" if layout is None else f"{layout.title} (read as timm's names)"


def in_timms_names(arrays: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """Arrays of these shapes, without numbers, by timm's names; a WeightsError if their layout has no place for one."""
    return read_as({name: np.broadcast_to(np.False_, array.shape) for name, array in arrays.items()}, None, source)[0]


def table(arrays: Mapping[str, Any]) -> list[str]:
    """A line for each run of arrays that have the same name but for its numbers, and the same shape and dtype."""
    rows = [(cut(one_line(name), 80), _by(shape), dtype) for name, shape, dtype in _runs(arrays)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    lines = ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows[:LINES]]
    return lines + ([f"  and {len(rows) - LINES} lines more"] if len(rows) > LINES else [])


def _runs(arrays: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[int], str]]:
    groups: dict[Any, list[Indices]] = defaultdict(list)
    for name, array in arrays.items():
        parts = name.split(".")
        places = [i for i, part in enumerate(parts) if len(part) < 9 and part.isdecimal() and part == str(int(part))]
        kind = tuple(None if i in places else part for i, part in enumerate(parts))
        why = refusal(array)
        dtype = f"{array.dtype}{f', cannot be read: {why}' if why else ''}"
        groups[kind, tuple(array.shape), dtype].append(tuple(int(parts[i]) for i in places))
    for (kind, shape, dtype), indices in groups.items():
        for ranges in folded(indices):
            numbers = iter(ranges)
            yield ".".join(next(numbers) if part is None else part for part in kind), shape, dtype


def folded(indices: Sequence[Indices]) -> list[tuple[str, ...]]:
    """Tuples of numbers as products of ranges: (0, 0), (0, 1), (1, 0), (1, 1) is `("0-1", "0-1")`."""
    if not indices[0]:
        return [()]
    rests: dict[int, list[Indices]] = defaultdict(list)
    for first, *rest in indices:
        rests[first].append(tuple(rest))
    firsts: dict[tuple[Indices, ...], list[int]] = defaultdict(list)
    for number, inner in rests.items():
        firsts[tuple(inner)].append(number)
    return [(_ranges(numbers), *ranges) for inner, numbers in firsts.items() for ranges in folded(inner)]


def _ranges(numbers: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def _held(content: Any) -> list[str]:
    if not isinstance(content, Mapping):
        return [f"a {one_line(kind_of(content))[:100]}"]
    items = [f"{_shown(key)} {_kind(value)}" for key, value in list(content.items())[:KEYS]]
    return items + ([f"and {len(content) - KEYS} more"] if len(content) > KEYS else [])


def _kind(value: Any) -> str:
    """What a checkpoint holds beside weights: a number or a short text itself, else what it is."""
    if value is None or isinstance(value, bool | int | float | str):
        return _shown(value)
    if isinstance(value, Mapping) and value and all(map(is_array, value.values())):
        return f"({counted(len(value), 'array')})"
    inside = f" of {len(value)}" if isinstance(value, dict | list | tuple) and value else ""
    return f"({cut(one_line(kind_of(value)), 60)}{inside})"


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 2**64:
        return "(a long number)"
    return cut(one_line(value if isinstance(value, str) else repr(value)), 40)


def _total(arrays: Mapping[str, Any]) -> str:
    numbers = sum(math.prod(array.shape) for array in arrays.values())
    known = [array for array in arrays.values() if isinstance(array.dtype, np.dtype)]
    size = sum(math.prod(array.shape) * array.dtype.itemsize for array in known)
    return _row("total", f"{counted(len(arrays), 'array')}, {numbers:,} numbers, {file_size(size)}")[0]


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _row(title: str, text: str) -> list[str]:
    return [f"{title:<10}{text}"]

"""Tables as people write them: CSV, JSON lines or parquet; and long columns of text in little memory."""

import csv
import hashlib
import itertools
import json
from array import array
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from port.errors import listed
from port.text import opened_text

PATH_COLUMNS = ("path", "file_name", "filename", "image")
Table = dict[str, Sequence[Any]]
ROWS = 65536  # of a parquet file that are taken at once


def read_table(file: Path, what: str = "", only: Collection[str] | None = None) -> Table:
    """The columns of a table, by name; those of text alone are `Strings`.

    Args:
        file: `.csv` or `.tsv` with a header and commas, semicolons or tabs between, `.jsonl` with an object a line, or
            `.parquet`, which needs pyarrow. Text is UTF-8, or UTF-16 with its mark.
        what: stands before the file's name in messages.
        only: columns that are needed; the others stay empty. None for all.

    Raises:
        ValueError: another ending, or rows that do not fit.
    """
    if file.suffix.lower() not in READERS:
        raise ValueError(f"{what}{file}: expected a file that ends in {', '.join(READERS)}.")
    return READERS[file.suffix.lower()](file, only)


def column(
    table: Table, file: Path, option: str, name: str | None, usual: tuple[str, ...]
) -> tuple[str, Sequence[Any]]:
    """A column, by its name, all rows of which must have a value."""
    names = usual if name is None else (name,)
    found = next((name for name in names if name in table), None)
    if not table:
        raise ValueError(f"{file} is empty; expected a table.")
    if found is None:
        there = f"it has {listed(map(str, table), 20)}"
        raise ValueError(f"{file} has no column {listed([' or '.join(names)])}; {there}. Name it: {option}.")
    empty = [row for row, value in enumerate(table[found], start=1) if value is None or value == ""]
    if empty:
        raise ValueError(f"{file}: {found} is empty in {len(empty)} rows: {listed(map(str, empty), 5)}.")
    if not table[found]:
        raise ValueError(f"{file} has no rows.")
    return found, table[found]


def _csv(file: Path, only: Collection[str] | None) -> Table:
    with opened_text(file, newline="") as text:
        header = text.readline()
        reader = csv.reader(itertools.chain([header], text), delimiter=max(",;\t", key=header.count))
        try:
            names = [name.strip() for name in next(reader, [])]
            if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
                raise ValueError(
                    f"{file}, line 1: more than one column is called {listed(twice)}; rename or remove them."
                )
            table = {name: Strings() for name in names}
            kept = [(place, table[name]) for place, name in enumerate(names) if only is None or name in only]
            for number, row in enumerate(reader, start=2):
                if not row:
                    continue
                if len(row) != len(names):
                    columns = f"the {len(names)} columns {listed(names)}"
                    raise ValueError(f"{file}, line {number}: {len(row)} values for {columns}.")
                for place, values in kept:
                    values.append(row[place].strip())
        except csv.Error as error:  # a field without end, where a quote is not closed
            raise ValueError(
                f"{file}, line {reader.line_num}: {error}; expected short fields, and quotes in pairs."
            ) from None
    return dict(table)


def _jsonl(file: Path, only: Collection[str] | None) -> Table:
    table: dict[str, Strings | list[Any]] = {}
    rows = 0
    with opened_text(file, newline="\n") as text:
        for number, line in enumerate(text, start=1):
            try:
                row = json.loads(line) if line.strip() else {}
                if "\\u" in line:  # half of a pair of surrogates is no text, and no file's name
                    json.dumps(row, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}, line {number}: {error}; expected a JSON object a line.") from None
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number}: found {line.strip():.40}, expected a JSON object.")
            if not row:
                continue
            for name in row:
                if name not in table:
                    table[name] = [None] * rows if rows else Strings()
            for name, values in table.items():
                if only is None or name in only:
                    table[name] = _more(values, row.get(name))
            rows += 1
    return dict(table)


def _parquet(file: Path, only: Collection[str] | None) -> Table:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"{file}: reading parquet needs pyarrow: pip install pyarrow.") from None
    try:
        with parquet.ParquetFile(file) as opened:
            # Not the bytes of images, which can be far more than there is memory.
            names = [field.name for field in opened.schema_arrow if "binary" not in str(field.type)]
            table: dict[str, Strings | list[Any]] = {name: Strings() for name in names}
            kept = [name for name in names if only is None or name in only]
            for batch in opened.iter_batches(ROWS, columns=kept) if kept else ():
                for name, values in batch.to_pydict().items():
                    for value in values:
                        table[name] = _more(table[name], value)
            return dict(table)
    except PermissionError:
        raise
    except Exception as error:  # whatever pyarrow makes of a damaged file, in several lines
        why = " ".join(str(error).split())[:200] or repr(error)
        raise ValueError(f"{file} cannot be read as parquet: {why}. Write or copy it again.") from error


def _more(values: "Strings | list[Any]", value: Any) -> "Strings | list[Any]":
    """Values with one more; a list as soon as one is no text."""
    if isinstance(values, Strings) and not isinstance(value, str):
        values = list(values)
    values.append(value)
    return values


READERS = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}


class Strings(Sequence[str]):
    """A list of many strings in one piece of memory: a million names take little room, and travel quickly."""

    def __init__(self, strings: Iterable[str] = ()):
        self._ends, self._data = array("q", [0]), bytearray()
        for text in strings:
            self.append(text)

    def append(self, text: str) -> None:
        """One more."""
        self._data += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        start, stop = self._ends[index], self._ends[index + 1]
        return self._data[start:stop].decode("utf-8", "surrogateescape")

    def joined(self, separator: bytes) -> bytearray:
        """All of them, with a separator between."""
        found = bytearray()
        for begin in range(0, len(self), ROWS):
            ends = self._ends[begin : begin + ROWS + 1]
            found += separator if begin else b""
            found += separator.join(self._data[start:stop] for start, stop in itertools.pairwise(ends))
        return found

    def digest(self) -> str:
        """A hash of all of them, in their order."""
        found = hashlib.sha256(np.asarray(self._ends).astype("<i8", copy=False).data)
        found.update(b"\n")
        found.update(self._data)
        return found.hexdigest()

"""Tables as people write them: CSV, JSON lines or parquet; and long columns of text in little memory."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from port.errors import listed
from port.text import read_text

PATH_COLUMNS = ("path", "file_name", "filename", "image")
Table = dict[str, list[Any]]


def read_table(file: Path, what: str = "") -> Table:
    """The columns of a table, by name.

    Args:
        file: `.csv` or `.tsv` with a header and commas, semicolons or tabs between, `.jsonl` with an object a line, or
            `.parquet`, which needs pyarrow. Text is UTF-8, or UTF-16 with its mark.
        what: stands before the file's name in messages.

    Raises:
        ValueError: another ending, or rows that do not fit.
    """
    if file.suffix.lower() not in READERS:
        raise ValueError(f"{what}{file}: expected a file that ends in {', '.join(READERS)}.")
    return READERS[file.suffix.lower()](file)


def column(table: Table, file: Path, option: str, name: str | None, usual: tuple[str, ...]) -> tuple[str, list[Any]]:
    """A column, by its name, all rows of which must have a value."""
    names = usual if name is None else (name,)
    found = next((name for name in names if name in table), None)
    if found is None:
        there = f"it has {listed(map(str, table), 20)}"
        raise ValueError(f"{file} has no column {listed([' or '.join(names)])}; {there}. Name it: {option}.")
    empty = [row for row, value in enumerate(table[found], start=1) if value is None or value == ""]
    if empty:
        raise ValueError(f"{file}: {found} is empty in {len(empty)} rows: {listed(map(str, empty), 5)}.")
    if not table[found]:
        raise ValueError(f"{file} has no rows.")
    return found, table[found]


def _csv(file: Path) -> Table:
    text = read_text(file)
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    try:
        names = [name.strip() for name in next(reader, [])]
        if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
            raise ValueError(f"{file}, line 1: more than one column is called {listed(twice)}; rename or remove them.")
        table: Table = {name: [] for name in names}
        for number, row in enumerate(reader, start=2):
            if not row:
                continue
            if len(row) != len(names):
                columns = f"the {len(names)} columns {listed(names)}"
                raise ValueError(f"{file}, line {number}: {len(row)} values for {columns}.")
            for name, value in zip(names, row, strict=True):
                table[name].append(value.strip())
    except csv.Error as error:  # a field without end, where a quote is not closed
        raise ValueError(
            f"{file}, line {reader.line_num}: {error}; expected short fields, and quotes in pairs."
        ) from None
    return table


def _jsonl(file: Path) -> Table:
    rows = []
    for number, line in enumerate(io.StringIO(read_text(file)), start=1):
        try:
            row = json.loads(line) if line.strip() else {}
            if "\\u" in line:  # half of a pair of surrogates is no text, and no file's name
                json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}, line {number}: {error}; expected a JSON object a line.") from None
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number}: found {line.strip():.40}, expected a JSON object.")
        rows += [row] if row else []
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _parquet(file: Path) -> Table:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"{file}: reading parquet needs pyarrow: pip install pyarrow.") from None
    try:
        with parquet.ParquetFile(file) as opened:
            # Not the bytes of images, which can be far more than there is memory.
            names = [field.name for field in opened.schema_arrow if "binary" not in str(field.type)]
            return opened.read(columns=names).to_pydict()
    except PermissionError:
        raise
    except Exception as error:  # whatever pyarrow makes of a damaged file, in several lines
        why = " ".join(str(error).split())[:200] or repr(error)
        raise ValueError(f"{file} cannot be read as parquet: {why}. Write or copy it again.") from error


READERS = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}


class Strings(Sequence[str]):
    """A list of many strings in one piece of memory: a million names take little room, and travel quickly."""

    def __init__(self, strings: Iterable[str]):
        encoded = [text.encode("utf-8", "surrogateescape") for text in strings]
        self._ends = np.cumsum([0] + [len(text) for text in encoded])
        self._data = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        start, stop = self._ends[index], self._ends[index + 1]
        return self._data[start:stop].decode("utf-8", "surrogateescape")

    def digest(self) -> str:
        """A hash of all of them, in their order."""
        return hashlib.sha256(self._ends.astype("<i8").tobytes() + b"\n" + self._data).hexdigest()

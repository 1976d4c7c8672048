"""Image files that a table lists: CSV, JSON lines or parquet."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from port.errors import listed
from port.paths import no_file
from port.text import counted, cut, one_line, read_text
from train.data.sources.base import Splits, brief, labels_of_column
from train.data.sources.folder import Files

PATH_COLUMNS = ("path", "file_name", "filename", "image")
LABEL_COLUMNS = ("label", "class", "target")
Table = dict[str, list[Any]]


def open_manifest(file: Path, input_key: str | None = None, target_key: str | None = None) -> Splits:
    """The splits of a table of image files.

    One row an image: its path, absolute or relative to the table's folder, and its label, a class name or a number from
    0. A column `split` divides the images; without it all are the split "train". Their order is that of the rows.

    Args:
        file: `.csv` or `.tsv` with a header and commas, semicolons or tabs between, `.jsonl` with an object a line, or
            `.parquet`, which needs pyarrow. Text is UTF-8, or UTF-16 with its mark.
        input_key: the column of paths; None for the first there is of `PATH_COLUMNS`.
        target_key: the column of labels; None for the first there is of `LABEL_COLUMNS`.

    Raises:
        FileNotFoundError: there is no such file, or the first image is not where it should be.
        OSError: the first image is no regular file.
        ValueError: another ending, a missing column, or a row without path or label.
    """
    if not file.is_file():
        raise FileNotFoundError(f"data.root: {no_file(file)}")
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if file.suffix.lower() not in readers:
        raise ValueError(f"data.root={file}: expected a file that ends in {', '.join(readers)}.")
    table = readers[file.suffix.lower()](file)
    paths = [str(path) for path in _column(table, file, "data.input_key", input_key, PATH_COLUMNS)[1]]
    name, values = _column(table, file, "data.target_key", target_key, LABEL_COLUMNS)
    labels, known = labels_of_column(values, lambda row: f"{file}, row {row + 1} of {name}")
    if not (first := file.parent / paths[0]).is_file():
        what = one_line(f"{file}: the first image, {first}, is")
        if first.exists():
            raise OSError(f"{what} no regular file; expected image files.")
        hint = "; write / for \\" if "\\" in paths[0] and os.sep == "/" else ""
        raise FileNotFoundError(f"{what} not there; paths are relative to the table{hint}.")
    splits = _column(table, file, "split", "split", ())[1] if "split" in table else ["train"] * len(paths)
    strange = [row for row, split in enumerate(splits, start=1) if not _is_name(split)]
    if strange:
        value = cut(one_line(repr(splits[strange[0] - 1])), 60)
        raise ValueError(
            f"{file}, row {strange[0]} of split: found {value}, expected a name such as train, in one line and without "
            f"slashes ({counted(len(strange), 'row')} of the kind)."
        )
    found = Splits({})
    for name in dict.fromkeys(splits):
        rows = [row for row, split in enumerate(splits) if split == name]
        found[str(name)] = Files(file.parent, [paths[row] for row in rows], labels[rows], known)
    return found


def _column(table: Table, file: Path, option: str, name: str | None, usual: tuple[str, ...]) -> tuple[str, list[Any]]:
    """A column, by its name, all rows of which must have a value."""
    names = usual if name is None else (name,)
    found = next((name for name in names if name in table), None)
    if found is None:
        there = f"it has {listed(map(str, table), 20)}"
        raise ValueError(f"{file} has no column {listed([' or '.join(names)])}; {there}. Name it: {option}.")
    empty = [row for row, value in enumerate(table[found], start=1) if value is None or value == ""]
    if empty:
        raise ValueError(f"{file}: {found} is empty in {len(empty)} rows: {brief([str(row) for row in empty])}.")
    if not table[found]:
        raise ValueError(f"{file} has no rows.")
    return found, table[found]


def _is_name(split: Any) -> bool:
    """Whether a value can name a split: a word or a number in one line."""
    text = str(split) if isinstance(split, str | int) else ""
    return bool(text) and text == text.strip() and text.isprintable() and not set("/\\") & set(text)


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
        return parquet.ParquetFile(file).read().to_pydict()
    except PermissionError:
        raise
    except Exception as error:  # whatever pyarrow makes of a damaged file, in several lines
        why = " ".join(str(error).split())[:200] or repr(error)
        raise ValueError(f"{file} cannot be read as parquet: {why}. Write or copy it again.") from error

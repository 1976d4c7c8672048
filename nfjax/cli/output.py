"""What commands write: tables on the screen, and rows in files."""

import contextlib
import csv
import json
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from port.atomic import replacing
from port.messages import require
from port.text import encodable, one_line


def table_of(left: Sequence[str], right: Sequence[str], **options: Any) -> Any:
    """A rich table: columns of words, then columns of numbers. Its cells can be a stranger's text."""
    from rich.table import Table

    class Printable(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*map(one_line, cells), **options)

    table = Printable(**{"box": None, "pad_edge": False, "title_justify": "left", **options})
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def print_tables(*tables: Any) -> None:
    """Print rich tables. Nothing is wrapped for a file or another program."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 1000, markup=False, emoji=False, highlight=False)
    with console.capture() as printed:  # rich would end the process where nobody reads
        for table in tables:
            console.print(table)
    print(printed.get(), end="")


Row = dict[str, Any]


@contextlib.contextmanager
def rows_to(output: Path | None, form: str, columns: Sequence[str]) -> Iterator[Callable[[Row], None]]:
    """A function that writes a row, at once; the file is there when all are written.

    Args:
        output: the file; None for standard output.
        form: "json", an array of objects, "csv" or "tsv".
    """
    with contextlib.ExitStack() as stack:
        file: TextIO = sys.stdout
        if output is not None:
            file = stack.enter_context(stack.enter_context(replacing(output)).open("w", encoding="utf-8", newline=""))
        if form == "json":
            before = "[\n"

            def write(row: Row) -> None:
                nonlocal before
                file.write(before + textwrap.indent(json.dumps(_spelt(row, encodable), indent=2), "  "))
                before = ",\n"

            yield write
            file.write("[]\n" if before == "[\n" else "\n]\n")
            return
        writer = csv.DictWriter(file, columns, delimiter="\t" if form == "tsv" else ",", lineterminator="\n")
        writer.writeheader()
        spell = one_line if output is None else _cell
        yield lambda row: writer.writerow(_spelt(row, spell))


def _cell(text: str) -> str:
    """Text for a field of a table in a file. Python before 3.13 puts no quotes around a carriage return in it."""
    return encodable(text).replace("\r", "\\r")


def _spelt(row: Row, spell: Callable[[str], str]) -> Row:
    return {name: spell(value) if isinstance(value, str) else value for name, value in row.items()}


def write_parquet(columns: dict[str, Any], path: Path, text: Collection[str] = ()) -> None:
    """Write equally long columns as a parquet file; a 2-D array becomes a column of fixed-size lists.

    Args:
        text: columns that are text, also where they are empty.
    """
    pyarrow, parquet = (require(module, "parquet files") for module in ("pyarrow", "pyarrow.parquet"))
    for name, values in columns.items():
        if name in text or (isinstance(values, list) and values and isinstance(values[0], str)):
            columns = columns | {name: pyarrow.array(map(encodable, values), pyarrow.string())}
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pyarrow.array(values.reshape(-1))
            columns = columns | {name: pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])}
    with replacing(path) as partial:
        parquet.write_table(pyarrow.table(columns), partial)

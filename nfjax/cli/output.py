"""What commands write: tables on the screen, and parquet files."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from port.atomic import replacing
from port.messages import require


def table_of(left: Sequence[str], right: Sequence[str], **options: Any) -> Any:
    """A rich table: columns of words, then columns of numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title_justify="left", **options)
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def print_tables(*tables: Any) -> None:
    """Print rich tables. Nothing is wrapped for a file or another program."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False)
    with console.capture() as printed:  # rich would end the process where nobody reads
        for table in tables:
            console.print(table)
    print(printed.get(), end="")


def write_parquet(columns: dict[str, Any], path: Path) -> None:
    """Write equally long columns as a parquet file; a 2-D array becomes a column of fixed-size lists."""
    pyarrow, parquet = (require(module, "parquet files") for module in ("pyarrow", "pyarrow.parquet"))
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pyarrow.array(values.reshape(-1))
            columns = columns | {name: pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])}
    with replacing(path) as partial:
        parquet.write_table(pyarrow.table(columns), partial)

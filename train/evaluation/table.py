"""The results of models as a CSV file with a row a model: those of timm's results files, and what else was counted."""

import csv
from pathlib import Path
from typing import Any

from port.atomic import replacing
from port.text import one_line

TIMM = ("model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct", "interpolation")
COUNTS = ("loss", "count", "top1_count", "top5_count", "real_top1", "real_top5", "real_count")
COLUMNS = (*TIMM, *COUNTS, "dtype", "fingerprint")


class Table:
    """A results file; rows are told apart by their `fingerprint`.

    Args:
        path: of the file, which need not be there.
        columns: of the table.

    Raises:
        ValueError: there is such a file with other columns, or one that is damaged.
    """

    def __init__(self, path: Path, columns: tuple[str, ...] = COLUMNS):
        self.path, self._columns = path, columns
        self.rows()

    def rows(self) -> list[dict[str, str]]:
        """All rows, in the order in which they came."""
        if not self.path.is_file():
            return []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                table = csv.DictReader(file, strict=True)
                header, rows = table.fieldnames or [], list(table)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path} is damaged ({error}). Bring it back, or choose another --output.") from None
        if tuple(header) != self._columns:
            found = one_line(", ".join(header))[:200]
            raise ValueError(
                f"{self.path} has the columns {found}; expected {', '.join(self._columns)}. Choose another --output."
            )
        return rows

    def find(self, fingerprint: str) -> dict[str, str] | None:
        """The row of an evaluation."""
        return next((row for row in self.rows() if row["fingerprint"] == fingerprint), None)

    def put(self, row: dict[str, Any]) -> None:
        """Add a row, or replace the one with its fingerprint; the file is whole at any moment."""
        rows: list[dict[str, Any]] = [*self.rows()]
        place = next((i for i, old in enumerate(rows) if old["fingerprint"] == row["fingerprint"]), len(rows))
        rows[place:] = [row, *rows[place + 1 :]]
        with replacing(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, self._columns, restval="", lineterminator="\n")
            table.writeheader()
            table.writerows(rows)

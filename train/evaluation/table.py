"""The results of models as a CSV file with a row a model: those of timm's results files, and what else was counted."""

import csv
from pathlib import Path
from typing import Any

from port.atomic import replacing

TIMM = ("model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct", "interpolation")
COUNTS = ("loss", "count", "top1_count", "top5_count", "real_top1", "real_top5", "real_count")
COLUMNS = (*TIMM, *COUNTS, "dtype", "fingerprint")


class Table:
    """A results file; rows are told apart by their `fingerprint`.

    Args:
        path: of the file, which need not be there.

    Raises:
        ValueError: there is such a file with other columns.
    """

    def __init__(self, path: Path):
        self._path = path
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                header = next(csv.reader(file), [])
            if tuple(header) != COLUMNS:
                raise ValueError(
                    f"{path} has the columns {', '.join(header)}; expected {', '.join(COLUMNS)}. Choose another --out."
                )

    def rows(self) -> list[dict[str, str]]:
        """All rows, in the order in which they came."""
        if not self._path.is_file():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def find(self, fingerprint: str) -> dict[str, str] | None:
        """The row of an evaluation."""
        return next((row for row in self.rows() if row["fingerprint"] == fingerprint), None)

    def put(self, row: dict[str, Any]) -> None:
        """Add a row, or replace the one with its fingerprint; the file is whole at any moment."""
        rows: list[dict[str, Any]] = [*self.rows()]
        place = next((i for i, old in enumerate(rows) if old["fingerprint"] == row["fingerprint"]), len(rows))
        rows[place:] = [row, *rows[place + 1 :]]
        with replacing(self._path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
            table.writeheader()
            table.writerows(rows)

"""Image files that a table lists: CSV, JSON lines or parquet."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from nfjax.support.tables import PATH_COLUMNS, Strings, Table, column, read_table
from port.paths import no_file, no_folder
from port.text import counted, cut, one_line
from train.data.sources import several
from train.data.sources.base import Source, Splits, Weighed, labels_of_column
from train.data.sources.folder import Files
from train.data.sources.packed import Packed
from train.data.sources.parquet import bytes_in, unpacked

LABEL_COLUMNS = ("label", "class", "target")


def open_manifest(
    file: Path,
    input_key: str | None = None,
    target_key: str | None = None,
    weight_key: str | None = None,
    multi_label: bool = False,
) -> Splits:
    """The splits of a table of image files.

    One row an image: its path, absolute or relative to the table's folder, and its label, a class name or a number from
    0. A parquet file may have the images themselves instead, as bytes. A column `split` divides the images; without it
    all are the split "train". Their order is that of the rows.

    Args:
        file: `.csv` or `.tsv` with a header and commas, semicolons or tabs between, `.jsonl` with an object a line, or
            `.parquet`, which needs pyarrow. Text is UTF-8, or UTF-16 with its mark.
        input_key: the column of paths; None for the first there is of `PATH_COLUMNS`. Or that of the images in a
            parquet file; None for the first of `nfjax.many.inputs.IMAGE_COLUMNS`.
        target_key: the column of labels; None for the first there is of `LABEL_COLUMNS`.
        weight_key: the column that says how often an image is to be taken, relative to others; None for all alike.
        multi_label: several labels an image, as `several.of_table` reads them.

    Raises:
        FileNotFoundError: there is no such file, or the first image is not where it should be.
        OSError: the first image is no regular file.
        ValueError: another ending, a missing column, or a row without path or label.
    """
    if not file.is_file():
        raise FileNotFoundError(f"data.root: {no_file(file)}")
    single = (*_named(input_key, PATH_COLUMNS), *_named(target_key, LABEL_COLUMNS), *_named(weight_key, ()), "split")
    table = read_table(file, "data.root=", only=None if multi_label else single)
    return _splits(table, file, input_key, target_key, weight_key, multi_label)


def open_folder_of_tables(root: Path, input_key: str | None = None, target_key: str | None = None) -> Splits:
    """The splits of a folder of images with several labels, which a table in it tells; likewise."""
    if not root.is_dir():
        raise FileNotFoundError(f"data.root: {no_folder(root)}")
    return _splits(*several.table_of_folder(root), input_key, target_key, None, multi_label=True)


def _splits(
    table: Table,
    file: Path,
    input_key: str | None,
    target_key: str | None,
    weight_key: str | None,
    multi_label: bool,
) -> Splits:
    images = bytes_in(file, input_key) if file.is_file() else None
    place, values = ("image", []) if images else column(table, file, "data.input_key", input_key, PATH_COLUMNS)
    paths = values if isinstance(values, Strings) else Strings(map(str, values))
    if multi_label:
        labels, known = several.of_table(table, file, target_key, (input_key or place, "split", weight_key or ""))
    else:
        name, values = column(table, file, "data.target_key", target_key, LABEL_COLUMNS)
        labels, known = labels_of_column(values, lambda row: f"{file}, row {row + 1} of {name}")
    if len(paths) and not (first := file.parent / paths[0]).is_file():
        what = one_line(f"{file}: the first image, {first}, is")
        if first.exists():
            raise OSError(f"{what} no regular file; expected image files.")
        hint = "; write / for \\" if "\\" in paths[0] and os.sep == "/" else ""
        raise FileNotFoundError(f"{what} not there; paths are relative to the table{hint}.")
    splits = column(table, file, "split", "split", ())[1] if "split" in table else ()
    strange = [row for row, split in enumerate(splits, start=1) if not _is_name(split)]
    if strange:
        value = cut(one_line(repr(splits[strange[0] - 1])), 60)
        raise ValueError(
            f"{file}, row {strange[0]} of split: found {value}, expected a name such as train, in one line and without "
            f"slashes ({counted(len(strange), 'row')} of the kind)."
        )
    weights = _weights(table, file, weight_key)
    found, blob = Splits({}), unpacked(file, images) if images else None
    names: dict[str, int] = {}
    which = np.array([names.setdefault(str(split), len(names)) for split in splits or ("train",)])
    rows_of = {name: np.flatnonzero(np.broadcast_to(which, len(labels)) == place) for name, place in names.items()}
    for name, rows in rows_of.items():
        own: Source
        if blob is None:
            here = paths if len(rows) == len(paths) else Strings(paths[row] for row in rows)
            own = Files(file.parent, here, labels[rows], known)
        else:
            keys = [f"{file.name}#{row}" for row in rows]
            own = Packed([blob[0]], np.zeros(len(rows)), blob[1][rows], keys, labels[rows], known)
        found[name] = own if weights is None else Weighed(own, weights[rows])
    if multi_label:
        found.notes = tuple(several.notes({name: labels[rows] for name, rows in rows_of.items()}))
    return found


def _named(name: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that may be meant."""
    return usual if name is None else (name,)


def _weights(table: Table, file: Path, name: str | None) -> np.ndarray | None:
    """The weights of all rows; a ValueError for what is none."""
    if name is None:
        return None
    values = column(table, file, "data.weight_key", name, ())[1]
    for row, value in enumerate(values, start=1):
        try:
            good = math.isfinite(float(value)) and float(value) >= 0
        except (TypeError, ValueError):
            good = False
        if not good:
            raise ValueError(f"{file}, row {row} of {name}: found {value!r:.40}, expected a weight, 0 or more.")
    return np.array(values, np.float64)


def _is_name(split: Any) -> bool:
    """Whether a value can name a split: a word or a number in one line."""
    text = str(split) if isinstance(split, str | int) else ""
    return bool(text) and text == text.strip() and text.isprintable() and not set("/\\") & set(text)

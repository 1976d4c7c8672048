"""Several labels an image, as people write them: a list, a column for each class, or rows of 0 and 1.

What comes out is int8 `(images, classes)`: 1 for a label that is there, 0 for one that is not, -1 for one that is not
known, and the names of the classes.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nfjax.support.tables import PATH_COLUMNS, Table, column, read_table
from port.text import counted, cut, one_line
from train.data.place import TABLES
from train.data.sources.base import MISSING, brief, labels_of_column
from train.data.sources.slices import usual

COLUMNS = ("labels", "label", "classes", "class", "targets", "target", "tags")
SEPARATORS = "|;,"
KNOWN = {"0": 0, "1": 1, "-1": -1, "false": 0, "true": 1}
MOST = 2**16  # classes; a row of each image has them all
TABLE_NAMES = ("labels", "metadata")  # of a table beside images, where there are several tables
Labels = tuple[np.ndarray, tuple[str, ...]]
Where = Callable[[int], str]  # a row, counted from 0, for messages


def of_table(table: Table, file: Path, target_key: str | None, others: Sequence[str]) -> Labels:
    """The labels of the images of a table.

    Args:
        table: its columns.
        file: its name, for messages.
        target_key: the column of lists, or columns, one a class, with commas between; None for the first there is of
            `COLUMNS`, or else for all but the `others`.
        others: columns that are no classes: the path, the split.

    Raises:
        ValueError: names the row and the value that is none of what is expected.
    """

    def where(name: str) -> Where:
        return lambda row: f"{file}, row {row + 1} of {one_line(name)}"

    one = next((name for name in COLUMNS if name in table), None) if target_key is None else target_key
    if one is not None and one in table:
        return of_lists(table[one], where(one))
    if target_key is not None:
        names = [name.strip() for name in target_key.split(",")]
        for name in names:
            if name not in table:
                column(table, file, "data.target_key", name, ())  # an error that says what there is
    else:
        names = [name for name in table if name not in others]
    if not names:
        raise ValueError(
            f"{file} has no column {' or '.join(COLUMNS)}, and none for each class. Name it: data.target_key."
        )
    return of_columns({name: table[name] for name in names}, where)


def of_columns(columns: Mapping[str, Sequence[Any]], where: Callable[[str], Where]) -> Labels:
    """A column for each class: 1, 0, and -1, NaN or nothing where it is not known."""
    found = np.empty((len(next(iter(columns.values()))), len(columns)), np.int8)
    for place, (name, values) in enumerate(columns.items()):
        for row, value in enumerate(values):
            found[row, place] = _known(value, lambda row=row, name=name: where(name)(row))  # type: ignore[misc]
    return found, tuple(columns)


def of_lists(values: Sequence[Any], where: Where, names: Sequence[str] | None = None) -> Labels:
    """Lists of names or numbers, also as text; or rows of 0, 1 and -1, all as long as there are classes.

    Text is JSON, or has |, ; or , between labels, the first of them that occurs. Nothing is an image without a label.

    Args:
        values: of each image.
        where: names a row, for messages.
        names: of the classes, where numbers stand for them; None for what the lists hold.

    Raises:
        ValueError: names the row and the value.
    """
    lists = _lists(values, where)
    if _are_rows(lists):
        width = len(lists[0])
        if names is not None and len(names) != width:
            raise ValueError(f"{where(0)}: found {width} numbers, expected one for each of {len(names)} classes.")
        known = tuple(names) if names is not None else tuple(map(str, range(width)))
        return np.array([[_known(v, lambda: where(0)) for v in row] for row in lists], np.int8), known
    flat = [(row, value) for row, own in enumerate(lists) for value in own]
    if not flat:
        raise ValueError(f"{where(0)}: found no label, and none in all {len(lists)} rows; expected some.")
    labels, known = labels_of_column([value for _, value in flat], lambda place: where(flat[place][0]))
    if names is not None:
        if labels.max() >= len(names):
            row = flat[int(labels.argmax())][0]
            raise ValueError(f"{where(row)}: found the label {labels.max()}, expected 0 to {len(names) - 1}.")
        known = tuple(names)
    if len(known) > MOST:
        row = flat[int(labels.argmax())][0]
        raise ValueError(f"{where(row)}: found {len(known)} classes, expected at most {MOST}.")
    found = np.zeros((len(lists), len(known)), np.int8)
    found[[row for row, _ in flat], labels] = 1
    return found, known


def notes(splits: Mapping[str, np.ndarray]) -> list[str]:
    """What a user should know of the labels of each split, a line each."""
    told = []
    for name, labels in splits.items():
        if bare := int((labels == 0).all(axis=1).sum()):
            told.append(f"{bare} of {counted(len(labels), 'image')} of {name} have no label: all classes are absent")
        if unknown := int((labels < 0).sum()):
            told.append(f"{unknown} of {labels.size} labels of {name} are unknown, and left out")
    return told


def table_of_folder(root: Path) -> tuple[Table, Path]:
    """The table of a folder of images, and its name.

    It lies in the folder; or there are several, named as splits are; or each folder of a split has one of its own.

    Raises:
        ValueError: there is none, or it cannot be told which is meant.
    """
    own = sorted(file for file in root.iterdir() if file.suffix.lower() in TABLES and not file.name.startswith("."))
    named = [file for file in own if file.stem.lower() in TABLE_NAMES]
    if len(own) == 1 or len(named) == 1:
        file = (named or own)[0]
        return read_table(file, "data.root="), file
    parts = {file.stem: (file, "") for file in own if usual(file.stem)}
    if not own:
        for folder in sorted(root.iterdir()):
            inner = [f for f in folder.iterdir() if f.suffix.lower() in TABLES] if folder.is_dir() else []
            if usual(folder.name) and len(inner) == 1:
                parts[folder.name] = (inner[0], f"{folder.name}/")
    if not parts or len(own) > len(parts):
        found = brief([file.name for file in own]) if own else "none"
        raise ValueError(
            f"{root}: data.multi_label needs a table of the images and their labels, labels.csv for example; found "
            f"{found}. Name it: data.name=manifest and data.root=FILE."
        )
    joined: dict[str, list[Any]] = {}
    for split, (file, before) in parts.items():
        table, rows = read_table(file, "data.root="), len(next(iter(joined.values()), []))
        path, paths = column(table, file, "data.input_key", None, PATH_COLUMNS)
        table = table | {path: [f"{before}{value}" for value in paths], "split": [split] * len(paths)}
        if joined and set(joined) != set(table):
            raise ValueError(
                f"{file} has the columns {brief(list(table))}; expected {brief(list(joined))}, as the others."
            )
        for name, values in table.items():
            joined.setdefault(name, [None] * rows).extend(values)
    return dict(joined), root / "its tables"


def _lists(values: Sequence[Any], where: Where) -> list[list[Any]]:
    text = [value for value in values if isinstance(value, str) and value.strip()]
    as_json = bool(text) and all(value.lstrip().startswith("[") for value in text)
    separator = next((mark for mark in SEPARATORS if any(mark in value for value in text)), None)
    if text and not as_json and separator is None:
        raise ValueError(
            f"{where(0)}: no row of it has several labels. Between them stands one of {' '.join(SEPARATORS)}; where "
            "each image has one label, leave data.multi_label out."
        )
    found = []
    for row, value in enumerate(values):
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, str):
            value = _parsed(value, as_json, separator, lambda row=row: where(row))  # type: ignore[misc]
        if not isinstance(value, list | tuple):
            told = "nothing" if value in MISSING or value != value else f"{value!r:.60}"
            raise ValueError(
                f"{where(row)}: found {told}, expected a list of labels; an empty one where there is none, and a "
                "column for each class where some are unknown."
            )
        found.append(list(value))
    return found


def _parsed(text: str, as_json: bool, separator: str | None, where: Callable[[], str]) -> list[Any]:
    if not as_json:
        parts = [part.strip() for part in text.split(separator)] if text.strip() else []
        if "" in parts:
            raise ValueError(
                f"{where()}: found {cut(one_line(text), 60)!r}, where a label between {separator} is empty."
            )
        return parts
    try:
        found = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise ValueError(f"{where()}: found {cut(one_line(text), 60)!r}, expected a list in JSON.")
    return found


def _are_rows(lists: Sequence[Sequence[Any]]) -> bool:
    """Rows of 0 and 1? All of one length, at least 2, and nothing else in them."""
    width = len(lists[0])
    allowed = (0, 1, -1)
    return width > 1 and all(
        len(row) == width
        and all(
            not isinstance(v, str) and (v is None or v in allowed or (isinstance(v, float) and math.isnan(v)))
            for v in row
        )
        for row in lists
    )


def _known(value: Any, where: Callable[[], str]) -> int:
    """1, 0, or -1 for what is not known."""
    if isinstance(value, np.generic):
        value = value.item()
    if value in MISSING or value != value:
        return -1
    text = str(value).lower().removesuffix(".0")
    if text not in KNOWN:
        raise ValueError(
            f"{where()}: found {value!r:.60}, expected 1, 0, or -1 or nothing for unknown. If it is no class, name "
            "those that are: data.target_key=cat,dog."
        )
    return KNOWN[text]

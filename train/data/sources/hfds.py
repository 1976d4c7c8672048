"""Data sets of the Hugging Face `datasets` library."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from port.paths import open_regular
from train.data.sources import several
from train.data.sources.base import Example, Selection, Source, Splits, digest, label_at, labels_of_column

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")


class HubSplit(Source):
    """A split of a data set of the `datasets` library; `input_key` is the column with the image."""

    def __init__(self, split: Any, name: str, input_key: str, labels: np.ndarray, class_names: tuple[str, ...]):
        import datasets

        self._rows = split.select_columns([input_key]).cast_column(input_key, datasets.Image(decode=False))
        self._name, self._input_key, self._labels, self.class_names = name, input_key, labels, class_names
        self.several = labels.ndim == 2
        self._fingerprint = digest([name, *class_names, labels, str(split.info.version), str(split.info.dataset_name)])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        image = self._rows[index][self._input_key]
        data = image["bytes"]
        if not data:
            with open_regular(image["path"]) as file:
                data = file.read()
        return {"image": data, "label": label_at(self._labels, index), "index": index, "key": self.key(index)}

    def key(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def labels(self) -> np.ndarray:
        return self._labels

    def fingerprint(self) -> str:
        return self._fingerprint


def open_hfds(
    name: str,
    root: Path | None = None,
    input_key: str | None = None,
    target_key: str | None = None,
    multi_label: bool = False,
) -> Splits:
    """The splits of a data set.

    Args:
        name: on the Hugging Face hub, "ORG/NAME" or "ORG/NAME:CONFIG"; empty for the folder `root` that
            `DatasetDict.save_to_disk` has written.
        root: where downloads are kept; None for the library's own place.
        input_key: the column with the image; None for the first there is of `IMAGE_COLUMNS`.
        target_key: the column with the label; None for the first there is of `LABEL_COLUMNS`.
        multi_label: several labels an image, as `several.of_table` reads them; their columns may be sequences.

    Raises:
        ValueError: the library is not installed, or there are no such columns.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(f"data.name=hfds/{name} needs the datasets library: pip install datasets.") from None
    if name:
        place, _, config = name.partition(":")
        found = datasets.load_dataset(place, config or None, cache_dir=None if root is None else str(root))
    else:
        found = datasets.load_from_disk(str(root))
    if not isinstance(found, datasets.DatasetDict):
        found = {"train": found}
    features = next(iter(found.values())).features
    image = _column(features, "data.input_key", input_key, IMAGE_COLUMNS)
    if multi_label:
        return _several(found, name, image, target_key)
    label = _column(features, "data.target_key", target_key, LABEL_COLUMNS)
    named = isinstance(features[label], datasets.ClassLabel)  # for which -1 says that a label was kept secret
    values = {split: list(rows.with_format(None)[label][:]) for split, rows in found.items()}
    kept = {
        split: [row for row, value in enumerate(own) if not (named and value == -1)] for split, own in values.items()
    }
    places = [(split, row) for split, rows in kept.items() for row in rows]
    if not places:
        raise ValueError(f"hfds: no image of {', '.join(found)} has a label: all are -1.")
    labels, known = labels_of_column(
        [values[split][row] for split, row in places], lambda i: f"hfds, {label} of {places[i][0]}[{places[i][1]}]"
    )
    if named:
        known = tuple(features[label].names)
    splits, notes = dict[str, Source](), []
    ends = np.cumsum([len(rows) for rows in kept.values()])
    for (split, rows), own in zip(kept.items(), np.split(labels, ends[:-1]), strict=True):
        column = np.full(len(values[split]), -1, np.int32)
        column[rows] = own
        if secret := len(column) - len(rows):
            notes.append(f"{secret} of {len(column)} images of {split} are left out: their label is -1, unknown")
        if rows:
            whole = HubSplit(found[split], split, image, column, known)
            splits[split] = Selection([(whole, np.array(rows))]) if secret else whole
    return Splits(splits, notes)


def _several(found: Any, name: str, image: str, target_key: str | None) -> Splits:
    """The splits of a data set whose images have several labels."""
    parts, sizes = list(found), [len(rows) for rows in found.values()]
    features = next(iter(found.values())).features
    one = next((column for column in several.COLUMNS if column in features), None) if target_key is None else target_key
    wanted = [one] if one is not None and one in features else [column for column in features if column != image]
    if target_key is not None and target_key not in features:
        wanted = [column for column in features if column in {part.strip() for part in target_key.split(",")}]
    plain = {split: rows.with_format(None) for split, rows in found.items()}
    table: dict[str, Any] = {
        column: [value for rows in plain.values() for value in rows[column][:]] for column in wanted
    }
    inner: Any = getattr(features.get(one), "feature", None)
    if one is not None and hasattr(inner, "names"):
        labels, known = several.of_lists(table[one], lambda row: f"hfds, row {row + 1} of {one}", inner.names)
    else:
        labels, known = several.of_table(table, Path(f"hfds/{name}"), target_key, ())
    own = dict(zip(parts, np.split(labels, np.cumsum(sizes)[:-1]), strict=True))
    splits = {split: HubSplit(found[split], split, image, own[split], known) for split in parts if len(own[split])}
    return Splits(splits, several.notes(own))


def _column(columns: Iterable[str], option: str, name: str | None, usual: tuple[str, ...]) -> str:
    names = usual if name is None else (name,)
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise ValueError(f"hfds: no column {' or '.join(names)}; there is {', '.join(columns)}. Name it: {option}.")
    return found

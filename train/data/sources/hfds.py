"""Data sets of the Hugging Face `datasets` library."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from train.data.sources.base import Example, Source, digest, labels_of_column

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")


class HubSplit(Source):
    """A split of a data set of the `datasets` library; `input_key` is the column with the image."""

    def __init__(self, split: Any, name: str, input_key: str, labels: np.ndarray, class_names: tuple[str, ...]):
        import datasets

        self._rows = split.select_columns([input_key]).cast_column(input_key, datasets.Image(decode=False))
        self._name, self._input_key, self._labels, self.class_names = name, input_key, labels, class_names
        self._fingerprint = digest([name, *class_names, labels, str(split.info.version), str(split.info.dataset_name)])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        image = self._rows[index][self._input_key]
        data = image["bytes"] or Path(image["path"]).read_bytes()
        return {"image": data, "label": int(self._labels[index]), "index": index, "key": self.key(index)}

    def key(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def labels(self) -> np.ndarray:
        return self._labels

    def fingerprint(self) -> str:
        return self._fingerprint


def open_hfds(
    name: str, root: Path | None = None, input_key: str | None = None, target_key: str | None = None
) -> dict[str, Source]:
    """The splits of a data set.

    Args:
        name: on the Hugging Face hub, "ORG/NAME" or "ORG/NAME:CONFIG"; empty for the folder `root` that
            `DatasetDict.save_to_disk` has written.
        root: where downloads are kept; None for the library's own place.
        input_key: the column with the image; None for the first there is of `IMAGE_COLUMNS`.
        target_key: the column with the label; None for the first there is of `LABEL_COLUMNS`.

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
    label = _column(features, "data.target_key", target_key, LABEL_COLUMNS)
    values = {split: np.asarray(rows.with_format("numpy")[label][:]) for split, rows in found.items()}
    values = {split: column for split, column in values.items() if -1 not in column}  # labels that were kept secret
    labels, known = labels_of_column(np.concatenate(list(values.values())).tolist())
    if isinstance(features[label], datasets.ClassLabel):
        known = tuple(features[label].names)
    ends = np.cumsum([len(column) for column in values.values()])
    of_split = dict(zip(values, np.split(labels, ends[:-1]), strict=True))
    return {split: HubSplit(found[split], split, image, own, known) for split, own in of_split.items()}


def _column(columns: Iterable[str], option: str, name: str | None, usual: tuple[str, ...]) -> str:
    names = usual if name is None else (name,)
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise ValueError(f"hfds: no column {' or '.join(names)}; there is {', '.join(columns)}. Name it: {option}.")
    return found

"""Data sets that TensorFlow Datasets has prepared, as array_record or as tfrecord; tensorflow is not needed."""

import functools
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from port.paths import user_path
from train.data.sources.base import Example, Source, digest

_HEADER = struct.Struct("<QI")  # of a tfrecord: the length of the data, and a checksum of the length
_FOOTER = 4  # a checksum of the data


class Records(Source):
    """A split of a data set that TensorFlow Datasets has prepared: `folder` is the one with `features.json`."""

    def __init__(self, folder: Path, split: str, input_key: str, target_key: str):
        self._folder, self._split, self._input_key, self._target_key = folder, split, input_key, target_key
        info = self._info
        self._count = info.splits[split].num_examples
        self.class_names = tuple(info.features[target_key].names)
        lengths, size = np.array(info.splits[split].shard_lengths, np.int64), str(info.splits[split].num_bytes)
        self._fingerprint = digest([info.full_name, split, lengths, size, input_key, target_key, *self.class_names])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_info", "_decoders", "_records")}

    @functools.cached_property
    def _info(self) -> Any:
        return _builder(self._folder).info

    @functools.cached_property
    def _decoders(self) -> Any:
        import tensorflow_datasets as tfds

        return {self._input_key: tfds.decode.SkipDecoding()}

    @functools.cached_property
    def _records(self) -> Any:
        """Features by index."""
        return _builder(self._folder).as_data_source(split=self._split, decoders=self._decoders)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._count:
            raise IndexError(index)
        features = self._features(index)
        name = features.get("file_name")
        key = name.decode() if isinstance(name, bytes) else f"{self._split}[{index}]"
        label = int(features[self._target_key])
        return {"image": features[self._input_key], "label": label, "index": index, "key": key}

    def _features(self, index: int) -> dict[str, Any]:
        return self._records[index]

    def fingerprint(self) -> str:
        return self._fingerprint


class TFRecords(Records):
    """A split in tfrecord files, which have no index; one is made by walking from record to record."""

    def __getstate__(self) -> dict[str, Any]:
        self.require()  # not in every worker
        return super().__getstate__()

    def require(self) -> None:
        _ = self._index

    @functools.cached_property
    def _index(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Files, offset and length of each record, and number of the first record of each file.

        Made when it is needed: a split that nobody reads need not be there.
        """
        info = self._info.splits[self._split]
        files = [str(path) for path in info.filepaths]
        with ThreadPoolExecutor(min(32, len(files))) as pool:
            found = list(pool.map(_walk, files))
        for path, records, count in zip(files, found, info.shard_lengths, strict=True):
            if len(records) != count:
                raise OSError(f"{path} has {len(records)} records; dataset_info.json says {count}; prepare it again.")
        return files, np.concatenate(found), np.cumsum([0] + [len(records) for records in found])

    def _features(self, index: int) -> dict[str, Any]:
        files, places, starts = self._index
        shard = int(np.searchsorted(starts, index, side="right")) - 1
        offset, length = places[index]
        file = os.open(files[shard], os.O_RDONLY)
        try:
            record = os.pread(file, length, offset)
        finally:
            os.close(file)
        return self._info.features.deserialize_example_np(record, decoders=self._decoders)


def open_tfds(name: str, root: Path | None, input_key: str | None, target_key: str | None) -> dict[str, Source]:
    """The splits of a prepared data set.

    Args:
        name: of the data set, with or without config and version: "imagenet2012", "imagenet2012/5.1.0". Of several
            versions the newest is taken. Empty if `root` is the folder of a version itself.
        root: folder of prepared data sets; None for that of TensorFlow Datasets, `~/tensorflow_datasets` or
            `$TFDS_DATA_DIR`.
        input_key: the feature with the image; None for "image".
        target_key: the feature with the label; None for "label".

    Raises:
        FileNotFoundError: nothing of that name is prepared there.
        ValueError: no such features, or a file format other than array_record and tfrecord.
    """
    folder = _find(name, data_dir() if root is None else root)
    builder = _builder(folder)
    keys = {"input_key": input_key or "image", "target_key": target_key or "label"}
    for option, key in keys.items():
        if key not in builder.info.features:
            there = ", ".join(sorted(builder.info.features))
            raise ValueError(f"{folder} has no feature {key!r}; name one of {there} as data.{option}.")
    if not hasattr(builder.info.features[keys["target_key"]], "names"):
        raise ValueError(f"{folder}: feature {keys['target_key']!r} is not a class label; name one as data.target_key.")
    kinds = {"array_record": Records, "tfrecord": TFRecords}
    stored = builder.info.file_format.value
    if stored not in kinds:
        remedy = "Prepare it again with file_format='array_record'."
        raise ValueError(f"{folder} is stored as {stored}; expected {' or '.join(kinds)}. {remedy}")
    return {split: kinds[stored](folder, split, **keys) for split in builder.info.splits}


def data_dir() -> Path:
    """Where TensorFlow Datasets keeps what it has prepared."""
    return user_path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))


def _find(name: str, root: Path) -> Path:
    """The folder of a data set's newest version."""
    folder = root / name
    found = [path.parent for path in folder.rglob("features.json") if path.parent.name[0].isdecimal() or not name]
    if not found:
        there = ", ".join(sorted(path.name for path in root.iterdir())) if root.is_dir() else "no such folder"
        raise FileNotFoundError(
            f"{folder} holds no data set prepared by TensorFlow Datasets (no VERSION/features.json). {root}: {there}. "
            "Set data.root to the folder that tfds.load was given as data_dir."
        )
    if len({path.parent for path in found}) > 1:
        configs = ", ".join(sorted(str(path.relative_to(root)) for path in found))
        raise ValueError(f"{folder} has several configs; choose one as data.name: tfds/... of {configs}.")
    return max(found, key=lambda path: [int(part) for part in path.name.split(".") if part.isdecimal()])


def _builder(folder: Path) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ValueError(f"{folder}: reading it needs tensorflow-datasets: pip install tensorflow-datasets.") from None
    return tfds.builder_from_directory(folder)


def _walk(path: str) -> np.ndarray:
    """Offset and length of each record of a tfrecord file: `(records, 2)`, int64."""
    places, position = [], 0
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            header = os.pread(file.fileno(), _HEADER.size, position)
            length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else size
            places.append((position + _HEADER.size, length))
            position += _HEADER.size + length + _FOOTER
    if position != size:
        raise OSError(f"{path} is cut short or no tfrecord file; copy or prepare it again.")
    return np.array(places, np.int64).reshape(-1, 2)

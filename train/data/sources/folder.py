"""Image files in a folder per class."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from nfjax.images import IMAGE_SUFFIXES, is_image_file
from train.data.sources.base import Example, Source, Strings, brief, digest, labels_of

SPLITS = {"train", "training", "val", "valid", "validation", "eval", "evaluation", "test", "testing"}


class Files(Source):
    """Image files with labels; paths are relative to `root`, or absolute, and serve as keys.

    The sizes of the files, in bytes and where they are known, become part of the fingerprint.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: np.ndarray,
        class_names: tuple[str, ...],
        sizes: np.ndarray | None = None,
    ):
        self.root, self.class_names = root, class_names
        self._paths, self._labels = Strings(paths), labels
        sizes = np.zeros(0, np.int64) if sizes is None else sizes
        self._fingerprint = digest([*class_names, "\0".join(paths), labels, sizes])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        key = self._paths[index]
        with open(os.path.join(self.root, key), "rb") as file:
            return {"image": file.read(), "label": int(self._labels[index]), "index": index, "key": key}

    def key(self, index: int) -> str:
        return self._paths[index]

    def labels(self) -> np.ndarray:
        return self._labels

    def fingerprint(self) -> str:
        return self._fingerprint


def open_folder(root: Path) -> dict[str, Source]:
    """The splits of a folder: `root/SPLIT/CLASS/...`, or the one split "train" of `root/CLASS/...`.

    The files of a class may lie in further folders. They are ordered by a hash of their paths, so that a slice such as
    `train[:10%]` has some of every class. Names that begin with a dot are passed over. Classes are those of the split
    "train", or of all splits where there is none, in natural order, as in timm.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no images in folders, or a split has classes that "train" lacks.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data.root: there is no folder {root} (working directory: {Path.cwd()}).")
    splits = _splits(root)
    found = {entry.name: _scan(entry) for entry in splits} if splits else {"train": _scan(root)}
    found = {name: files for name, files in found.items() if files}
    if not found:
        there = brief(sorted(entry.name for entry in root.iterdir())) or "nothing"
        raise ValueError(
            f"{root} has no images in a folder per class; expected {root}/CLASS/NAME.jpg, or "
            f"{root}/train/CLASS/NAME.jpg and {root}/val/CLASS/NAME.jpg. It contains {there}. Known "
            f"endings: {' '.join(IMAGE_SUFFIXES)}."
        )
    named = [found["train"]] if "train" in found else found.values()
    class_names = labels_of(_class(path) for files in named for path in files)[1]
    return {name: _files(root / name if splits else root, files, class_names) for name, files in found.items()}


def _splits(root: Path) -> list[Path]:
    """The folders in a folder that are splits; none if they are classes."""
    folders = _folders(root)
    named = [entry for entry in folders if entry.name.lower() in SPLITS]
    if any(_has_images(entry, deep=False) for entry in folders if entry not in named):
        return []  # there is a class "train", of vehicles or of courses, beside others
    return [entry for entry in named if any(map(_has_images, _folders(entry)))]


def _files(root: Path, files: Mapping[str, int], class_names: Sequence[str]) -> Files:
    paths = sorted(files, key=lambda path: hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest())
    try:
        labels, known = labels_of(map(_class, paths), class_names)
    except ValueError as error:
        raise ValueError(f"{root}: {error}") from None
    return Files(root, paths, labels, known, np.array([files[path] for path in paths], np.int64))


def _class(path: str) -> str:
    return path.partition("/")[0]


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        return sorted(Path(entry) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _has_images(root: Path, deep: bool = True) -> bool:
    """Whether there is an image in a folder, or in the folders within it."""
    with os.scandir(root) as entries:
        if any(is_image_file(entry) for entry in entries):
            return True
    return deep and any(_has_images(inner) for inner in _folders(root))


def _scan(root: Path) -> dict[str, int]:
    """Paths, relative to a folder, of the images in the folders within it, and their sizes in bytes."""
    return {path: size for inner in _folders(root) for path, size in _walk(inner, inner.name)}


def _walk(root: Path, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(root) as entries:
        for entry in entries:
            if is_image_file(entry):
                yield f"{prefix}/{entry.name}", entry.stat().st_size
            elif entry.is_dir() and not entry.name.startswith("."):
                yield from _walk(Path(entry), f"{prefix}/{entry.name}")

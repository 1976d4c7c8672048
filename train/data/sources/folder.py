"""Image files in a folder per class."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nfjax.images import identify, image_suffixes, passed_over, walk
from nfjax.support.early import ARCHIVES
from nfjax.support.tables import Strings
from port.paths import no_folder, open_regular
from train.data.sources.base import Example, Source, Splits, brief, digest, label_at, labels_of, nfc
from train.data.sources.packed import Members, Packed, images_in
from train.data.sources.slices import shared_start, usual

Paths = Mapping[str, int]  # of image files, relative to a folder, with "/": sizes in bytes


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
        self.root, self.class_names, self.several = root, class_names, labels.ndim == 2
        self._paths, self._labels = paths if isinstance(paths, Strings) else Strings(paths), labels
        sizes = np.zeros(0, np.int64) if sizes is None else sizes
        self._fingerprint = digest([*class_names, self._paths.joined(b"\0"), labels, sizes])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        key = self._paths[index]
        with open_regular(os.path.join(self.root, key)) as file:
            return {"image": file.read(), "label": label_at(self._labels, index), "index": index, "key": key}

    def look(self, index: int) -> None:
        identify(os.path.join(self.root, self._paths[index]))

    def key(self, index: int) -> str:
        return self._paths[index]

    def labels(self) -> np.ndarray:
        return self._labels

    def fingerprint(self) -> str:
        return self._fingerprint


def open_folder(root: Path) -> Splits:
    """The splits of a folder: `root/SPLIT/CLASS/...`, or the one split "train" of `root/CLASS/...`.

    A tar or zip file with such a folder in it stands for it: the images are the same, in the same order.

    Splits are known by their usual names (`slices.USUAL`), which may all begin alike, as seg_train and seg_test. A
    folder around all others, as archives have, is passed through. The images of a class lie in its folder, and may lie
    in folders within it too. They are ordered by a hash of their paths, so that a slice such as `train[:10%]` has some
    of every class. What `nfjax.images.walk` passes over is not there. Classes are those of the split for training, or
    of all splits where there is none, in natural order, as in timm.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no images in folders; its folders are splits without classes; a split has classes that the
            one for training lacks; or it cannot be told which of its folders are the classes.
    """
    passed: Counter[str] = Counter()
    inside: Members | None = None
    if root.suffix.lower() in ARCHIVES and root.is_file():
        inside = images_in(root, passed)
        every = {name: place.size for name, place in inside.items()}
    elif not root.is_dir():
        raise FileNotFoundError(f"data.root: {no_folder(root)}")
    else:
        every = dict(walk(root, passed))
    file, (around, files) = root, _unwrapped(every)
    root = root / around
    folders = _by_folder(files)
    start = shared_start(folders)
    folders = {_without(start, name): own for name, own in folders.items()}
    names = _splits(folders)
    splits = {name: _unwrapped(folders[name]) for name in names} if names else {"train": ("", files)}
    inner = {name: (f"{start}{name}/" if names else "") + within for name, (within, _) in splits.items()}
    roots = {name: root / within for name, within in inner.items()}
    found = {name: {path: own[path] for path in own if "/" in path} for name, (_, own) in splits.items()}
    if not any(found.values()):
        there = brief(sorted({*files, *_by_folder(files)} - {""} if inside else os.listdir(root))) or "no images"
        raise ValueError(
            f"{root} has no images in a folder per class; expected {root}/CLASS/NAME.jpg, or "
            f"{root}/train/CLASS/NAME.jpg and {root}/val/CLASS/NAME.jpg. It contains {there}. Known "
            f"endings: {' '.join(image_suffixes())}." + _shards_hint(file, passed)
        )
    for name, own in found.items():
        _check_level(roots[name], own)
    trained = [own for name, own in found.items() if usual(name) == "train"]
    class_names = labels_of(_class(path) for own in trained or found.values() for path in own)[1]
    kinds = {usual(name.rstrip("0123456789")) for name in class_names}
    if not names and None not in kinds and "train" in kinds and len(kinds) > 1:
        raise ValueError(
            f"{root}: its folders, {brief(class_names)}, are splits by their names, with images but no folder per "
            "class in them; move the images of each into such folders, or list them in a table, for data.name=manifest."
        )
    beside = [name for name in folders if names and name and name not in names]
    if stray := len(every) - sum(map(len, [*found.values(), *(folders[name] for name in beside)])):
        passed["images beside the class folders"] = stray
    on_disk = [] if inside else list(roots.values())
    empty = [f"{at.name}/{name}" for at in on_disk for name in _folders(at) if nfc(name) not in class_names]
    notes = [f"passed over: {passed_over(passed)}"] if passed else []
    notes += [f"class folders without images: {brief(empty)}"] if empty else []
    notes += [f"folders that are no splits with a folder per class: {brief(beside)}"] if beside else []
    sources: dict[str, Source] = {}
    for name, own in found.items():
        paths, labels, known = _labelled(roots[name], own, class_names)
        if inside is None:
            sources[name] = Files(roots[name], paths, labels, known, np.array([own[path] for path in paths], np.int64))
        else:
            places = np.array([inside[around + inner[name] + path] for path in paths])
            sources[name] = Packed([file], np.zeros(len(paths)), places, paths, labels, known)
    return Splits(sources, notes)


def _shards_hint(file: Path, passed: Counter[str]) -> str:
    """What to give instead, where these are shards of WebDataset's form."""
    return f" Shards are data.name=wds/{file}." if {".tar", ".cls", ".json"} & passed.keys() else ""


def _without(start: str, name: str) -> str:
    """The name of a split without what all of them begin with; other names as they are."""
    return rest if usual(rest := name.removeprefix(start)) else name


def _by_folder(files: Paths) -> dict[str, dict[str, int]]:
    """The files of each folder, relative to it; those in none have the name ""."""
    found: dict[str, dict[str, int]] = {}
    for path, size in files.items():
        folder, _, rest = path.partition("/") if "/" in path else ("", "", path)
        found.setdefault(folder, {})[rest] = size
    return found


def _unwrapped(files: Paths, around: str = "") -> tuple[str, Paths]:
    """Files without a folder that is around all others, or several: its name, and what is in it."""
    folders = _by_folder(files)
    names = [name for name in folders if name]
    if len(names) != 1 or usual(names[0]) or any("/" not in path for path in folders[names[0]]):
        return around, files
    return _unwrapped(folders[names[0]], f"{around}{names[0]}/")


def _splits(folders: Mapping[str, Paths]) -> list[str]:
    """Those of the folders that are splits; none if they are classes."""
    named = [name for name in folders if usual(name) and _has_classes(folders[name])]
    kinds = {usual(name) for name in named}
    classes = any("/" not in path for name in folders if name and not usual(name) for path in folders[name])
    # Beside classes a "train" alone is one of them: a class of vehicles.
    return [] if classes and ("train" not in kinds or len(kinds) == 1) else named


def _has_classes(files: Paths) -> bool:
    """Has a folder classes in it? A class itself may have images and a folder of more."""
    folders = _by_folder(files)
    direct = "" in folders
    return len(folders) - direct > direct


def _check_level(root: Path, files: Paths) -> None:
    """Refuse folders in folders of which either could be the classes."""
    folders = {name: set(_by_folder(own)) for name, own in _by_folder(files).items()}
    if any("" in inner for inner in folders.values()) or all(len(inner) == 1 for inner in folders.values()):
        return
    outer, inner = sorted(folders), sorted(set().union(*folders.values()))
    raise ValueError(
        f"{root}: its folders, {brief(outer)}, have no images but folders of them, {brief(inner)}: which are the "
        f"classes? Did you mean data.root={root}/{outer[0]}? Else move the images into a folder per class, or list "
        "them in a table, for data.name=manifest."
    )


def _labelled(root: Path, files: Paths, class_names: Sequence[str]) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """The paths in their order, their labels, and the names by label."""
    paths = sorted(files, key=lambda path: hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest())
    try:
        labels, known = labels_of(map(_class, paths), class_names)
    except ValueError as error:
        raise ValueError(f"{root}: {error}") from None
    return paths, labels, known


def _class(path: str) -> str:
    return path.partition("/")[0]


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if os.path.isdir(entry) and not entry.name.startswith("."))

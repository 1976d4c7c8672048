"""What every source of images is, and parts of one or more sources as another."""

import abc
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from port.text import cut, one_line
from train.data.sources import slices

MISSING = (None, "", "nan", "NaN", "<NA>")  # as tables have them
MOST_CLASSES = 2**20  # more by far than any data set has


class Example(TypedDict):
    """One image of a source."""

    # the bytes of an image file, or an array `(height, width)` or `(height, width, channels)` of uint8
    image: bytes | np.ndarray
    label: int  # which of the source's `class_names`
    index: int  # place in the source
    key: str  # a name for people, such as "cat/0001.jpg"


class Source(abc.ABC):
    """Images with labels, in a fixed order, any of which can be had at any time.

    Sources travel to worker processes by pickle and open their files there, when they are first asked for an image.
    """

    class_names: tuple[str, ...]  # by label

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Example:
        """One image, not decoded; an OSError if it cannot be read."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Changes when images come, go, move or change their labels; no pixels are read for it."""

    def require(self) -> None:  # noqa: B027 # most kinds have looked when they were made
        """Raise an OSError if the files are not there, or not whole; called before a split is used."""

    def look(self, index: int) -> None:  # noqa: B027 # records were looked at when they were prepared
        """Raise an OSError or ValueError if an image is not there or is none; it is not decoded."""

    def key(self, index: int) -> str:
        """The name of an image."""
        return self[index]["key"]

    def labels(self) -> np.ndarray | None:
        """All labels `(images,)`, or None if all images would have to be read for it."""
        return None

    def weights(self) -> np.ndarray | None:
        """How often each image is to be taken, relative to others, `(images,)`; None for all alike."""
        return None


class Splits(dict[str, Source]):
    """The splits of a data set by name, and what a user should know that is not in them."""

    def __init__(self, splits: Mapping[str, Source], notes: Sequence[str] = ()):
        super().__init__(splits)
        self.notes = tuple(notes)  # one line each, without a full stop


class Selection(Source):
    """Some images of one or more sources, given as indices, as a source of its own."""

    def __init__(self, parts: Sequence[tuple[Source, np.ndarray]]):
        self._parts = tuple(parts)
        self._starts = np.cumsum([0] + [len(rows) for _, rows in parts])
        self.class_names = parts[0][0].class_names

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _find(self, index: int) -> tuple[Source, int]:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        source, rows = self._parts[part]
        return source, int(rows[index - self._starts[part]])

    def __getitem__(self, index: int) -> Example:
        source, row = self._find(index)
        return {**source[row], "index": index}

    def require(self) -> None:
        for source, _ in self._parts:
            source.require()

    def key(self, index: int) -> str:
        source, row = self._find(index)
        return source.key(row)

    def look(self, index: int) -> None:
        source, row = self._find(index)
        source.look(row)

    def labels(self) -> np.ndarray | None:
        found = []
        for source, rows in self._parts:
            if (labels := source.labels()) is None:
                return None
            found.append(labels[rows])
        return np.concatenate(found)

    def weights(self) -> np.ndarray | None:
        found = [source.weights() for source, _ in self._parts]
        if all(own is None for own in found):
            return None
        pairs = zip(found, self._parts, strict=True)
        return np.concatenate([np.ones(len(rows)) if own is None else own[rows] for own, (_, rows) in pairs])

    def fingerprint(self) -> str:
        return digest(part for source, rows in self._parts for part in (source.fingerprint(), rows))


class Arrays(Source):
    """Images in memory: uint8 `(images, height, width, channels)`, of 1 or 3 channels."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]):
        self._images, self._labels, self.class_names = images, labels.astype(np.int32), class_names
        self._fingerprint = digest([*class_names, self._images, self._labels])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self._images[index], "label": int(self._labels[index]), "index": index, "key": self.key(index)}

    def key(self, index: int) -> str:
        return f"[{index}]"

    def labels(self) -> np.ndarray:
        return self._labels

    def fingerprint(self) -> str:
        return self._fingerprint


def select(splits: Mapping[str, Source], spec: str) -> Source:
    """The images that a specification such as "train[:99%]" means (see `slices.parse`)."""
    parts = slices.parse(spec, {name: len(source) for name, source in splits.items()})
    if len(parts) == 1 and len(parts[0][1]) == len(splits[parts[0][0]]):
        return splits[parts[0][0]]
    return Selection([(splits[name], np.arange(rows.start, rows.stop)) for name, rows in parts])


def stratify(source: Source, share: float) -> tuple[Source, Source]:
    """All but a share of the images of each class, and that share; at least one image of a class stays.

    Which ones follows from their names, not from their order, so that it is the same everywhere.

    Raises:
        ValueError: the labels cannot be had without reading all images, or no class has enough images.
    """
    labels = source.labels()
    if labels is None:
        example = "data.train_split=train[:90%] and data.val_split=train[90%:]"
        raise ValueError(f"there is no split to test on. Name one: for example {example}.")
    second = held_out(labels, [source.key(index) for index in range(len(source))], share)
    if not second.any():
        raise ValueError(
            f"data.val_share={share} of {len(source)} images in {len(source.class_names)} classes is not one image; "
            "give more images or a larger share."
        )
    return Selection([(source, np.flatnonzero(~second))]), Selection([(source, np.flatnonzero(second))])


def held_out(labels: np.ndarray, keys: Sequence[str], share: float) -> np.ndarray:
    """Which images a share of each class is, `(images,)` bool; it follows from their names. One of a class stays."""
    return by_chance(labels, keys, lambda size: min(round(share * size), size - 1))


def by_chance(labels: np.ndarray, keys: Sequence[str], count: Callable[[int], int]) -> np.ndarray:
    """Some images of each class, `count(its size)` of them, `(images,)` bool; which ones follows from their names."""
    chances = np.array([_chance(key) for key in keys])
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(chances[rows], kind="stable")]
        chosen[rows[: count(len(rows))]] = True
    return chosen


def labels_of(classes: Iterable[str], class_names: Sequence[str] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """The int32 label of each image, from the names of their classes, and the names by label.

    Without `class_names` the names that occur are put in natural order: "9" comes before "10", as in timm. The same
    letters in another of Unicode's forms (macOS writes names in one of its own) are the same name.

    Raises:
        ValueError: a class is not among `class_names`.
    """
    classes = list(map(nfc, classes))
    class_names = list(map(nfc, class_names)) if class_names is not None else sorted(sorted(set(classes)), key=natural)
    place = {name: label for label, name in enumerate(class_names)}
    if unknown := sorted(set(classes) - set(place), key=natural):
        known = f"the {len(class_names)} known ones, {brief(class_names)}"
        raise ValueError(f"{len(unknown)} classes are not among {known}: {brief(unknown)}.")
    return np.array([place[name] for name in classes], np.int32), tuple(class_names)


def labels_of_column(values: Iterable[Any], where: Callable[[int], str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """`labels_of` a column of a table; if all values are numbers from 0, then those are the labels.

    Args:
        values: names, or whole numbers, also as floats or as text.
        where: of a row, counted from 0, for messages.

    Raises:
        ValueError: names the first row whose value is no class, and what it is.
    """
    found = [_class_of(value, row, where) for row, value in enumerate(values)]
    numbers = [float(str(value)) if re.fullmatch(r"[+-]?\d+(\.\d+)?", str(value)) else None for value in found]
    named = any(number is None for number in numbers)
    for row, number in enumerate(numbers):
        if number is None or (number >= 0 and (named or (number < MOST_CLASSES and number.is_integer()))):
            continue
        expected = "the name of a class" if named else f"a name, or a whole number from 0 to {MOST_CLASSES - 1}"
        # A class more for each number up to the largest: an identifier would be a model of a billion outputs.
        remedy = " Numbers that only tell classes apart are names: write them with a letter before, as in c300000000."
        remedy = remedy if number >= MOST_CLASSES else ""
        raise ValueError(f"{where(row)}: found the label {found[row]!s:.40}, expected {expected}.{remedy}")
    if named:
        return labels_of(map(str, found))
    labels = np.array(numbers, np.int32)
    return labels, tuple(map(str, range(labels.max() + 1)))


def _class_of(value: Any, row: int, where: Callable[[int], str]) -> str | int:
    """A value of a column as the name or the number of a class."""
    if isinstance(value, np.generic):
        value = value.item()
    if value in MISSING or value != value:  # NaN is not equal to itself
        raise ValueError(f"{where(row)}: found no label ({value!r}); give it one, or leave the row out.")
    if isinstance(value, str | bool):  # true and false are names
        return str(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else str(value)
    several = " Several labels an image are not supported yet." if isinstance(value, list | tuple) else ""
    raise ValueError(f"{where(row)}: found {value!r:.60}, expected the name or the number of one class.{several}")


def nfc(name: str) -> str:
    """A name in the form of Unicode in which the same letters are the same characters."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A sorting key by which the numbers in names count as numbers; those of more than a thousand digits as text."""
    parts = re.split(r"(\d+)", name.lower())
    numbers = [int(part) if part.isdecimal() and len(part) <= 1000 else None for part in parts]
    return [(number is None, number or 0, part) for number, part in zip(numbers, parts, strict=True)]


def brief(names: Sequence[str], count: int = 5) -> str:
    """The first few of many names, for a message of one line and of bearable length."""
    shown = ", ".join(cut(one_line(name), 300) for name in names[:count])
    return shown + (f" and {len(names) - count} more" if len(names) > count else "")


def _chance(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:7])


def digest(parts: Iterable[str | bytes | np.ndarray]) -> str:
    """A short hash of text and arrays."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else bytes(part)
        found.update(len(data).to_bytes(8) + data)
    return found.hexdigest()[:16]

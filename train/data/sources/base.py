"""What every source of images is, and parts of one or more sources as another."""

import abc
import hashlib
import re
import unicodedata
from array import array
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
    # which of the source's `class_names`; of several labels, int8 `(classes,)`: 1, 0, or -1 where it is not known
    label: int | np.ndarray
    index: int  # place in the source
    key: str  # a name for people, such as "cat/0001.jpg"


class Source(abc.ABC):
    """Images with labels, in a fixed order, any of which can be had at any time.

    Sources travel to worker processes by pickle and open their files there, when they are first asked for an image.
    """

    class_names: tuple[str, ...]  # by label
    several = False  # may an image have several labels?

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
        """All labels, `(images,)` or of several `(images, classes)`; None if all images would have to be read."""
        return None

    def weights(self) -> np.ndarray | None:
        """How often each image is to be taken, relative to others, `(images,)`; None for all alike."""
        return None


class Splits(dict[str, Source]):
    """The splits of a data set by name, what a user should know that is not in them, and what it knows of its images.

    Args:
        splits: by name.
        notes: one line each, without a full stop.
        own: fields of a data config that the data set knows better than the model, as `mean` and `std`.
    """

    def __init__(self, splits: Mapping[str, Source], notes: Sequence[str] = (), own: Mapping[str, Any] | None = None):
        super().__init__(splits)
        self.notes, self.own = tuple(notes), dict(own or {})


class Selection(Source):
    """Some images of one or more sources, given as indices, as a source of its own."""

    def __init__(self, parts: Sequence[tuple[Source, np.ndarray]]):
        self._parts = tuple(parts)
        self._starts = np.cumsum([0] + [len(rows) for _, rows in parts])
        self.class_names, self.several = parts[0][0].class_names, parts[0][0].several

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


class ArraySource(Source):
    """Images in memory: uint8 `(images, height, width, channels)`, of 1 or 3 channels; labels as `Source.labels`."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]):
        self.several = labels.ndim == 2
        labels = labels.astype(np.int8 if self.several else np.int32)
        self._images, self._labels, self.class_names = images, labels, class_names
        self._fingerprint = digest([*class_names, self._images, self._labels])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        label = label_at(self._labels, index)
        return {"image": self._images[index], "label": label, "index": index, "key": self.key(index)}

    def key(self, index: int) -> str:
        return f"[{index}]"

    def labels(self) -> np.ndarray:
        return self._labels

    def fingerprint(self) -> str:
        return self._fingerprint


class Around(Source):
    """A source of which something is changed."""

    def __init__(self, source: Source):
        self._source, self.class_names, self.several = source, source.class_names, source.several

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        return self._source[index]

    def require(self) -> None:
        self._source.require()

    def look(self, index: int) -> None:
        self._source.look(index)

    def key(self, index: int) -> str:
        return self._source.key(index)

    def labels(self) -> np.ndarray | None:
        return self._source.labels()

    def weights(self) -> np.ndarray | None:
        return self._source.weights()

    def fingerprint(self) -> str:
        return self._source.fingerprint()


class Weighed(Around):
    """A source whose images are to be taken as often as their weights say, `(images,)`."""

    def __init__(self, source: Source, weights: np.ndarray):
        super().__init__(source)
        self._weights = weights

    def weights(self) -> np.ndarray:
        return self._weights

    def fingerprint(self) -> str:
        return digest([self._source.fingerprint(), self._weights])


class Relabelled(Around):
    """A source with its classes in the order of `class_names`, among others that it has no images of.

    A source whose classes are numbers means places in `class_names`. A class that is not known is a ValueError.
    """

    def __init__(self, source: Source, class_names: Sequence[str]):
        own = source.class_names
        if own == tuple(map(str, range(len(own)))) and not set(own) & set(class_names):
            own = tuple(class_names[: len(own)]) + own[len(class_names) :]
        super().__init__(source)
        self._new, self.class_names = labels_of(own, class_names)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        return {**example, "label": self._of(example["label"])}

    def _of(self, labels: Any) -> Any:
        """Labels of the source as labels of this one; a class that it does not know is on no image."""
        if not self.several:
            return self._new[labels] if isinstance(labels, np.ndarray) else int(self._new[labels])
        found = np.zeros((*labels.shape[:-1], len(self.class_names)), np.int8)
        found[..., self._new] = labels
        return found

    def labels(self) -> np.ndarray | None:
        labels = self._source.labels()
        return None if labels is None else self._of(labels)

    def fingerprint(self) -> str:
        return digest([self._source.fingerprint(), *self.class_names, self._new])


def select(splits: Mapping[str, Source], spec: str) -> Source:
    """The images that a specification such as "train[:99%]" means (see `slices.parse`)."""
    parts = slices.parse(spec, {name: len(source) for name, source in splits.items()})
    if len(parts) == 1 and len(parts[0][1]) == len(splits[parts[0][0]]):
        return splits[parts[0][0]]
    return Selection([(splits[name], np.arange(rows.start, rows.stop)) for name, rows in parts])


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
    places: dict[tuple[type, Any], int] = {}  # of what differs: 1, 1.0 and True are equal, and three classes
    which = array("q")
    for row, value in enumerate(values):
        value = _class_of(value, row, where) if isinstance(value, list | dict | np.ndarray) else value
        which.append(places.setdefault((type(value), value), len(places)))

    def first(place: int) -> str:
        return where(which.index(place))

    found = [_class_of(value, place, first) for place, (_, value) in enumerate(places)]
    numbers = [float(str(value)) if re.fullmatch(r"[+-]?\d+(\.\d+)?", str(value)) else None for value in found]
    named = any(number is None for number in numbers)
    for place, number in enumerate(numbers):
        if number is None or (number >= 0 and (named or (number < MOST_CLASSES and number.is_integer()))):
            continue
        expected = "the name of a class" if named else f"a name, or a whole number from 0 to {MOST_CLASSES - 1}"
        # A class more for each number up to the largest: an identifier would be a model of a billion outputs.
        remedy = " Numbers that only tell classes apart are names: write them with a letter before, as in c300000000."
        remedy = remedy if number >= MOST_CLASSES else ""
        raise ValueError(f"{first(place)}: found the label {found[place]!s:.40}, expected {expected}.{remedy}")
    labels, names = labels_of(map(str, found)) if named else (np.array(numbers, np.int32), ())
    return labels[which], names or tuple(map(str, range(labels.max() + 1)))


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
    several = " For several labels an image set data.multi_label=true." if isinstance(value, list | tuple) else ""
    raise ValueError(f"{where(row)}: found {value!r:.60}, expected the name or the number of one class.{several}")


def label_at(labels: np.ndarray, index: int) -> int | np.ndarray:
    """The label of one image, or its row of several."""
    return labels[index] if labels.ndim == 2 else int(labels[index])


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


def digest(parts: Iterable[str | bytes | bytearray | np.ndarray]) -> str:
    """A short hash of text and arrays."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        data = bytes(data) if isinstance(data, np.ndarray) else data
        found.update(len(data).to_bytes(8))
        found.update(data)
    return found.hexdigest()[:16]

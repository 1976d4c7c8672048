"""Images in tar and zip files, and others that are parts of larger files, any of which can be had at any time."""

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nfjax.images import identify
from nfjax.support.archives import Place, members, read, require_sound
from nfjax.support.tables import Strings
from port.paths import open_regular
from train.data.sources.base import Example, Source, digest, label_at

BEGINNING = 2**18  # bytes in which an image file tells what it is, most often
Members = dict[str, Place]  # by name


class Packed(Source):
    """Images that are parts of files; a file is opened for each, so that nothing is held open.

    Args:
        files: that hold them.
        which: the file of each image, `(images,)`.
        places: where in it, `(images, 5)`: the numbers of `nfjax.support.archives.Place`.
        keys: names of the images.
        labels: as `Source.labels`.
        class_names: by label.
    """

    def __init__(
        self,
        files: Sequence[Path],
        which: np.ndarray,
        places: np.ndarray,
        keys: Sequence[str],
        labels: np.ndarray,
        class_names: tuple[str, ...],
    ):
        self._files, self._which, self._places = list(files), which.astype(np.int32), places.astype(np.int64)
        self._keys, self._labels, self.class_names = Strings(keys), labels, class_names
        self.several = labels.ndim == 2
        self._fingerprint = digest([*class_names, self._keys.digest(), labels, self._places[:, 2]])

    def __len__(self) -> int:
        return len(self._labels)

    def _read(self, index: int, most: int | None = None) -> bytes:
        file = self._files[self._which[index]]
        try:
            with open_regular(file) as stream:
                return read(stream, Place(*self._places[index].tolist()), most)
        except OSError as error:
            if error.errno is not None:
                raise
            raise OSError(f"{self.key(index)} in {file}: {error}.") from None

    def __getitem__(self, index: int) -> Example:
        return {
            "image": self._read(index),
            "label": label_at(self._labels, index),
            "index": index,
            "key": self.key(index),
        }

    def look(self, index: int) -> None:
        data = self._read(index, BEGINNING)
        try:
            identify(io.BytesIO(data))
        except ValueError:
            if len(data) == int(self._places[index, 2]):
                raise
            identify(io.BytesIO(self._read(index)))

    def key(self, index: int) -> str:
        key: str = self._keys[index]
        return key

    def labels(self) -> np.ndarray:
        return self._labels

    def fingerprint(self) -> str:
        return self._fingerprint


def images_in(file: Path, passed: Counter[str]) -> Members:
    """The image files in a tar or zip file, by name; what `nfjax.images.walk` would pass over is counted.

    Raises:
        ValueError: it cannot be read, or has links, encrypted members, names that lead out of it or occur twice.
    """
    found: Members = {}
    for member in members(file):
        name = member.name.removeprefix("./")
        if member.hidden:
            passed["hidden"] += 1
            continue
        require_sound(file, member)
        if not member.is_image:
            passed[os.path.splitext(name)[1].lower() or "without an ending"] += 1
            continue
        if name in found:
            raise ValueError(f"{file}: {name} is there twice; pack it again, each image once.")
        found[name] = member.place
    return found

"""What a model says of each image, kept in a file as it goes on, so that a killed evaluation can be continued."""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from port.atomic import replacing
from port.text import one_line

TOP = 5


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Of some images, in the order of their source."""

    label: np.ndarray  # `(images,)` int32, the output that is right
    loss: np.ndarray  # `(images,)` float32, cross-entropy
    classes: np.ndarray  # `(images, k)` int32, the most probable outputs, the first one first
    probabilities: np.ndarray  # `(images, k)` float32, theirs

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def none(cls, k: int) -> "Predictions":
        """Of no image."""
        return cls(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros((0, k), np.int32), np.zeros((0, k), "f4"))

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Those of several pieces of a source, in their order."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in dataclasses.fields(cls)))

    def hits(self, k: int) -> np.ndarray:
        """Whether the right output is among the k most probable ones, `(images,)` bool."""
        return (self.classes[:, :k] == self.label[:, None]).any(axis=1)

    def scores(self) -> dict[str, Any]:
        """Counts, and shares in percent rounded as timm's validation does; the loss is the mean in float64."""
        count, top1, top5 = len(self), int(self.hits(1).sum()), int(self.hits(TOP).sum())
        scores: dict[str, Any] = {}
        for name, hits in (("top1", top1), ("top5", top5)):
            percent = round(100 * hits / count, 4)
            scores |= {name: percent, f"{name}_err": round(100 - percent, 4), f"{name}_count": hits}
        return scores | {"loss": round(float(self.loss.mean(dtype=np.float64)), 6), "count": count}


class PredictionsFile:
    """A CSV file with a row an image, which only grows; `key` names an image by its place in the source.

    A row is a line: what could end one in a name is spelt out. A file beside it, predictions.seal, grows with it: a
    line for each time, the bytes of the table up to there and their SHA-256. What it does not seal is not read.

    Rows are whole or, after a kill in the middle of one, ignored; numbers are read back to the bit.
    """

    def __init__(self, path: Path, key: Callable[[int], str], k: int):
        self._path, self._key, self._k = path, key, k
        self._seal, self._hash, self._size = path.with_suffix(".seal"), hashlib.sha256(), 0
        numbered = [f"{name}_{place}" for place in range(1, k + 1) for name in ("class", "probability")]
        self._header = ["key", "label", "loss", *numbered]

    def restore(self, total: int, batch_size: int) -> Predictions:
        """What was written before, and the file without what cannot be used of it.

        The number of images is the total or a multiple of the batch size: then the batches that follow are those of an
        evaluation that was not interrupted.

        Raises:
            ValueError: the file is not what was written.
        """
        try:
            rows = self._rows()[:total]
            if len(rows) < total:
                rows = rows[: len(rows) // batch_size * batch_size]
            with np.errstate(over="raise"):  # what float32 cannot hold was not written here
                found = self._parsed(rows)
        except (ValueError, ArithmeticError, csv.Error) as error:  # of another hash, or no table of numbers
            raise ValueError(
                f"{self._path} is not what was written, by {self._seal.name} beside it. Bring both back, or remove "
                f"{self._path.parent}: then these images are evaluated anew."
            ) from error
        content, before = _csv([self._header, *rows]), self._seals() if rows else []
        with replacing(self._path) as partial:
            partial.write_bytes(content)
        self._hash, self._size = hashlib.sha256(content), len(content)
        kept = [seal for seal in before if seal[0] < self._size] + [(self._size, self._hash.hexdigest())]
        with replacing(self._seal) as partial:
            partial.write_text("".join(f"{size} {digest}\n" for size, digest in kept))
        return found

    def append(self, predictions: Predictions, start: int) -> None:
        """Write the predictions of the images from place `start` on, all of them before this returns."""
        rows = []
        for row in range(len(predictions)):
            pairs = zip(predictions.classes[row], predictions.probabilities[row], strict=True)
            best = [str(value) for pair in pairs for value in pair]
            rows.append(
                [one_line(self._key(start + row)), str(predictions.label[row]), str(predictions.loss[row]), *best]
            )
        content = _csv(rows)
        with self._path.open("ab") as table:
            table.write(content)
        self._hash.update(content)
        self._size += len(content)
        with self._seal.open("a") as file:  # after the rows: a kill in between leaves rows that are not sealed
            file.write(f"{self._size} {self._hash.hexdigest()}\n")

    def _parsed(self, rows: list[list[str]]) -> Predictions:
        if not rows:
            return Predictions.none(self._k)
        numbers = np.array([row[1:] for row in rows])
        label, classes = numbers[:, 0].astype(np.int32), numbers[:, 2::2].astype(np.int32)
        return Predictions(label, numbers[:, 1].astype(np.float32), classes, numbers[:, 3::2].astype(np.float32))

    def _rows(self) -> list[list[str]]:
        """The rows of the file, as far as they are whole and those of the source."""
        if not self._path.is_file():
            return []
        header, *rows = [*csv.reader(io.StringIO(self._sealed().decode(), newline=""))] or [[]]
        if header != self._header:
            return []
        for place, row in enumerate(rows):
            if len(row) != len(header) or row[0] != one_line(self._key(place)):
                return rows[:place]
        return rows

    def _sealed(self) -> bytes:
        """The beginning of the file, as far as it was sealed, and is there.

        Raises:
            ValueError: it is not what was written.
        """
        content, found, end = self._path.read_bytes(), hashlib.sha256(), 0
        seals = self._seals()
        altered = not seals and content.count(b"\n") > 1
        for size, digest in seals:
            if size > len(content):
                break
            found.update(content[end:size])
            altered |= found.hexdigest() != digest
            end = size
        if altered:
            raise ValueError("it has another SHA-256")
        return content[:end]

    def _seals(self) -> list[tuple[int, str]]:
        """Of the file up to so many bytes the hash, ascending; a line that a kill has cut short is left out."""
        if not self._seal.is_file():
            return []
        lines = self._seal.read_text("utf-8", "replace").split("\n")[:-1]
        pairs = [line.split(" ") for line in lines]
        return sorted((int(pair[0]), pair[1]) for pair in pairs if len(pair) == 2 and pair[0].isdecimal())


def _csv(rows: list[list[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()

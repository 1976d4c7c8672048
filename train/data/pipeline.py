"""From a source to batches: order, rows of this process, decoding and transforms, on the host.

A batch is a dict of numpy arrays: `image` `(rows, height, width, channels)` uint8; `label` `(rows,)` int32, or of
several labels an image `(rows, classes)` int8, -1 where unknown; and `index` `(rows,)` int64, the images' places in the
split. Of several processes each gets its own rows of every batch.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np

from nfjax.images import ImageError, Mode
from train.config import Data
from train.data.broken import BrokenImages
from train.data.decode import decode
from train.data.prefetch import Batch, Batches
from train.data.sampling import Weighted, chances
from train.data.sources.base import Source, brief

Element = dict[str, Any]  # a row of a batch
Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
DEVICE_KEYS = ("image", "label")  # of a training batch; the rest stays on the host
NEIGHBOURS = 100  # broken images in a row that are put up with


class Decoded(dict[int, tuple[np.ndarray, Any]]):
    """Images and labels of a source by index, as far as they were read; worker processes start without any."""

    def __reduce__(self) -> Any:
        return Decoded, ()


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and what is done to them."""

    source: Source
    # From pixels, as `train.data.decode` gives them, to uint8 of `shape`; pickled, and depends on its arguments alone.
    transform: Transform
    shape: tuple[int, int, int]  # height, width and channels
    decoded: Decoded | None = None  # keeps what was read, so that each image is read once

    def __len__(self) -> int:
        return len(self.source)

    @property
    def mode(self) -> Mode:
        """Pillow's mode of the images."""
        return "L" if self.shape[-1] == 1 else "RGB"

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """One image, ready for a batch; an ImageError or OSError if it cannot be read."""
        image, label = self._image(index)
        if not self.source.several and not 0 <= label < len(self.source.class_names):
            raise ValueError(
                f"{self.source.key(index)} has the label {label}, expected 0 to {len(self.source.class_names) - 1}; "
                "leave images without a label out, for example with data.train_split."
            )
        try:
            pixels = self.transform(image, rng)
        except Exception as error:
            error.add_note(f"The image was {self.source.key(index)}.")
            raise
        label = label if self.source.several else np.int32(label)
        return {"image": pixels, "label": label, "index": np.int64(index)}

    def _image(self, index: int) -> tuple[np.ndarray, Any]:
        """The pixels of an image before it is transformed, and its label."""
        if self.decoded is not None and index in self.decoded:
            return self.decoded[index]
        example = self.source[index]
        found = decode(example["image"], example["key"], self.mode), example["label"]
        if self.decoded is not None:
            self.decoded[index] = found
        return found


class Repeats(grain.MapDataset):
    """Each element several times in a row, and as much less of each pass (timm `RepeatAugSampler`).

    A pass has as many elements as before, so that it sees one of `count` images; another one with each pass.
    """

    def __init__(self, parent: grain.MapDataset, count: int):
        super().__init__(parent)
        self._count = count

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, place = divmod(index, len(self))
        return self._parent[epoch * len(self) + place // self._count]


class Rows(grain.MapDataset):
    """Of every `batch_size` elements the `rows` that one process works on, with the number of their batch as `step`."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, rows: slice):
        super().__init__(parent)
        self._batch_size, self._start, self._count = batch_size, rows.start, rows.stop - rows.start

    def __len__(self) -> int:
        return min(len(self._parent) // self._batch_size * self._count, sys.maxsize // 2)  # grain adds to it

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, row = divmod(index, self._count)
        return self._parent[batch * self._batch_size + self._start + row] | {"step": np.int64(batch)}


def own_rows(batch_size: int) -> slice:
    """The rows of a batch of all processes that belong to this one."""
    import jax  # here, because worker processes need this file but not its devices

    count = batch_size // jax.process_count()
    return slice(jax.process_index() * count, (jax.process_index() + 1) * count)


@dataclasses.dataclass(frozen=True)
class _Train:
    """From an index to a training image; a broken one is replaced by the next that is not."""

    split: Split

    def __call__(self, index: int, rng: np.random.Generator) -> Element:
        count = len(self.split)
        for place in range(index, index + min(count, NEIGHBOURS)):
            try:
                return self.split.read(place % count, rng) | {"wanted": np.int64(index)}
            except (ImageError, OSError) as error:
                last = error
        raise ImageError(f"{min(count, NEIGHBOURS)} images in a row cannot be read; the last one: {last}")


def train_batches(split: Split, data: Data, seed: int, start_step: int = 0, report: Path | None = None) -> Batches:
    """Endless shuffled batches from `start_step` on.

    The n-th batch of all processes depends on the split, the seed, `data.batch_size`, `data.balance` and
    `data.aug_repeats` alone; the random choices for an image on the seed, the pass and the image's place in it.

    Args:
        split: to train on.
        data: `batch_size`, `balance`, `aug_repeats`, `workers`, `stall_seconds` and `max_broken` matter here.
        seed: of the order and the transforms.
        start_step: number of the first batch.
        report: file for the names of images that cannot be read.

    Raises:
        nfjax.images.ImageError: while iterating: more images than `data.max_broken` cannot be read.
        TimeoutError, ChildProcessError: while iterating, see `train.data.prefetch.Batches`.
    """
    rows, broken = own_rows(data.batch_size), BrokenImages(split.source, split.mode, data.max_broken, report)

    def check(batch: Batch) -> Batch:
        wanted = batch.pop("wanted")
        for index in wanted[wanted != batch["index"]]:
            broken.add(int(index))
        return batch

    shares = chances(split.source, data)
    even = grain.MapDataset.range(len(split)).seed(seed)
    order = even.shuffle() if shares is None else Weighted(shares, seed).seed(seed)
    if data.aug_repeats > 1:
        order = Repeats(order, data.aug_repeats)
    elements = order.repeat().random_map(_Train(split))
    batches = Rows(elements, data.batch_size, rows).batch(rows.stop - rows.start)[start_step:]
    steps = range(start_step, sys.maxsize)
    return Batches(batches, steps, workers=data.workers, stall_seconds=data.stall_seconds, check=check)


@dataclasses.dataclass(frozen=True)
class _Test:
    """From an index to a test image; beyond the last one, padding."""

    split: Split

    def __call__(self, index: int) -> Element:
        valid, broken = index < len(self.split), False
        blank, source = np.zeros(self.split.shape, np.uint8), self.split.source
        label = np.zeros(len(source.class_names), np.int8) if source.several else np.int32(0)
        element = {"image": blank, "label": label, "index": np.int64(index if valid else -1)}
        if valid:
            try:
                element = self.split.read(index, np.random.default_rng(0))
            except (ImageError, OSError):
                broken = True
        return element | {"valid": np.bool_(valid), "broken": np.bool_(broken)}


def test_batches(split: Split, data: Data, batch_size: int) -> Iterator[Batch]:
    """Every image once, in order. The last batch is padded; `valid` is False for the padding.

    Args:
        split: to test on.
        data: `workers` and `stall_seconds` matter here.
        batch_size: of all processes.

    Raises:
        nfjax.images.ImageError: while iterating, at the end: images cannot be read; names all that this process met.
            From the first of them on no batches come.
        TimeoutError, ChildProcessError: while iterating, see `train.data.prefetch.Batches`.
    """
    rows, count = own_rows(batch_size), math.ceil(len(split) / batch_size)
    elements = grain.MapDataset.range(count * batch_size).map(_Test(split))
    batches = Rows(elements, batch_size, rows).batch(rows.stop - rows.start)
    keys: list[str] = []
    for batch in Batches(batches, range(count), workers=data.workers, stall_seconds=data.stall_seconds):
        keys += map(split.source.key, batch["index"][batch.pop("broken")].tolist())
        if not keys:
            yield batch
    if keys:
        raise ImageError(f"{len(keys)} of {len(split)} test images cannot be read: {brief(keys, 20)}.")

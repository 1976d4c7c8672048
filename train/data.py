"""Images as uint8 on the host; the step normalises them on the device.

A batch is a dict of numpy arrays: `image` `(rows, height, width, channels)` uint8, `label` `(rows,)` int32, and `index`
`(rows,)` int64, the images' places in the data set. Of several processes each gets its own rows of every batch.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np
from PIL import Image

from train.config import Data

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Split:
    """Images `(count, height, width, channels)`, uint8, and labels `(count,)`, int32."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        return {"image": self.images[index], "label": self.labels[index], "index": np.int64(index)}

    def fingerprint(self) -> str:
        """A hash of the content: a run is not continued on other images."""
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a test split, and what a model must know of them."""

    train: Split
    test: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def digits(image_size: int) -> Dataset:
    """The 1,797 handwritten digits that scikit-learn bundles (UCI Optical Recognition of Handwritten Digits).

    8x8 pixels, resized to `image_size`; one channel. 1,437 images are for training and 360 for testing, in a fixed
    random split, so that the same writers are in both.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    size = (image_size, image_size)
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    resized = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in pixels]
    images, labels = np.stack(resized)[..., None], bunch.target.astype(np.int32)
    train, test = np.split(np.random.default_rng(0).permutation(len(labels)), [1437])
    return Dataset(
        Split(images[train], labels[train]),
        Split(images[test], labels[test]),
        num_classes=10,
        mean=(0.5,),
        std=(0.5,),
    )


DATASETS: dict[str, Callable[[int], Dataset]] = {"digits": digits}


def load(data: Data) -> Dataset:
    """The data set that a config names."""
    if data.name not in DATASETS:
        raise ValueError(f"data.name={data.name!r} is not known; choose one of {', '.join(DATASETS)}.")
    return DATASETS[data.name](data.image_size)


class Rows(grain.MapDataset):
    """Of every `batch_size` elements the `rows` that one process works on."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, rows: slice):
        super().__init__(parent)
        self._batch_size, self._start, self._count = batch_size, rows.start, rows.stop - rows.start

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * self._count

    def __getitem__(self, index: int | slice) -> Batch:
        if isinstance(index, slice):
            return self.slice(index)
        batch, row = divmod(index, self._count)
        return self._parent[batch * self._batch_size + self._start + row]


def own_rows(batch_size: int) -> slice:
    """The rows of a batch of all processes that belong to this one."""
    count = batch_size // jax.process_count()
    return slice(jax.process_index() * count, (jax.process_index() + 1) * count)


def train_batches(split: Split, data: Data, seed: int, start_step: int) -> Iterator[Batch]:
    """Endless shuffled batches from `start_step` on; the n-th batch depends on the seed and n alone."""

    def shift(element: Batch, rng: np.random.Generator) -> Batch:
        return element | {"image": random_shift(element["image"], data.shift, rng)}

    rows = own_rows(data.batch_size)
    elements = grain.MapDataset.source(split).seed(seed).shuffle().repeat().random_map(shift)
    batches = Rows(elements, data.batch_size, rows).batch(rows.stop - rows.start)
    threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(batches[start_step:].to_iter_dataset(threads))


def random_shift(image: np.ndarray, reach: int, rng: np.random.Generator) -> np.ndarray:
    """The image moved by up to `reach` pixels in either direction; the edge fills what comes in."""
    if not reach:
        return image
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    top, left = rng.integers(0, 2 * reach + 1, 2)
    return padded[top : top + image.shape[0], left : left + image.shape[1]]


def test_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """Every image once, in order. The last batch is padded; `valid` is False for the padding."""
    rows = own_rows(batch_size)
    for start in range(0, len(split), batch_size):
        index = np.arange(start + rows.start, start + rows.stop)
        valid = index < len(split)
        index = np.minimum(index, len(split) - 1)
        yield {"image": split.images[index], "label": split.labels[index], "valid": valid}

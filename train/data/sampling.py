"""Which images a pass takes, and how often: the same number of them for each class, or by weights of their own."""

import threading
from typing import Any

import grain
import numpy as np

from train.config import Data
from train.data.sources.base import Selection, Source
from train.data.sources.chance import by_chance

PASSES = 2  # that are remembered: batches are made ahead into the next one


def chances(source: Source, data: Data) -> np.ndarray | None:
    """How often each image comes, as shares of all, `(images,)` float64; None where each comes once in a pass.

    An image's share is its weight times W^-balance, where W is the sum of the weights of its class.

    Raises:
        ValueError: the source has no such weights, or does not tell its labels.
    """
    weights = source.weights()
    if weights is None and data.weight_key is not None:
        raise ValueError(f"data.weight_key={data.weight_key} is a column of a table: for data.name=manifest.")
    if weights is None and not data.balance:
        return None
    found = np.ones(len(source)) if weights is None else weights.astype(np.float64)
    if data.balance:
        labels = require_labels(source, "data.balance")
        found = found * np.power(np.maximum(np.bincount(labels, found), 1e-300), -data.balance)[labels]
    return found / found.sum()


def require_labels(source: Source, field: str) -> np.ndarray:
    """All labels of a source; a ValueError if it tells them with the images alone."""
    labels = source.labels()
    if labels is None:
        raise ValueError(f"{field} needs all labels at once, which these images tell only as they are read.")
    if labels.ndim == 2:
        raise ValueError(f"{field} is for images with one label each, and these may have several.")
    return labels


def at_most(source: Source, count: int) -> Source:
    """At most `count` images of each class, in their order; which ones follows from their names alone."""
    labels = require_labels(source, "data.max_per_class")
    kept = by_chance(labels, [source.key(index) for index in range(len(source))], lambda size: min(count, size))
    return source if kept.all() else Selection([(source, np.flatnonzero(kept))])


class Weighted(grain.MapDataset):
    """Indices of images by their shares, in random order: pass n follows from the seed and n.

    A pass has as many places as there are images. An image whose share is worth k of them gets k, rounded up or down
    by chance, so that equal shares are each image once.
    """

    def __init__(self, shares: np.ndarray, seed: int):
        super().__init__()
        self._shares, self._seed = shares, seed
        self._passes: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Weighted, (self._shares, self._seed)

    def __len__(self) -> int:
        return len(self._shares)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        number, place = divmod(index, len(self))
        with self._lock:
            if number not in self._passes:
                kept = sorted(self._passes)[1 - PASSES :]
                self._passes = {n: self._passes[n] for n in kept} | {number: self._draw(number)}
            return int(self._passes[number][place])

    def _draw(self, number: int) -> np.ndarray:
        """The images of a pass: evenly spaced marks on a line of all shares, whose order is drawn anew each time."""
        rng, count = np.random.default_rng([self._seed, number]), len(self)
        order = rng.permutation(count)
        ends = np.cumsum(self._shares[order])
        marks = (np.arange(count) + rng.random()) * (ends[-1] / count)
        return rng.permutation(order[np.minimum(np.searchsorted(ends, marks, side="right"), count - 1)])

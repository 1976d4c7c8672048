"""Some images of a source, which follow from their names: to test on, or fewer of each class."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from train.data.sources.base import Selection, Source


def stratify(source: Source, share: float) -> tuple[Source, Source]:
    """All but a share of the images of each class, and that share; at least one image of a class stays.

    Of images with several labels it is a share of all.

    Which ones follows from their names, not from their order, so that it is the same everywhere.

    Raises:
        ValueError: the labels cannot be had without reading all images, or no class has enough images.
    """
    labels = source.labels()
    if labels is None:
        example = "data.train_split=train[:90%] and data.val_split=train[90%:]"
        raise ValueError(f"there is no split to test on. Name one: for example {example}.")
    groups = np.zeros(len(labels), np.int32) if source.several else labels
    second = held_out(groups, [source.key(index) for index in range(len(source))], share)
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


def _chance(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:7])

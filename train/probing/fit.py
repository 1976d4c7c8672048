"""Classifiers on embeddings: nearest neighbours, and a linear one, each chosen on held-out training images."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nfjax.tasks.embeddings import lengths_one
from port.text import counted

NEIGHBOURS = (1, 3, 5, 10, 20)
TEMPERATURE = 0.07  # of the votes of neighbours: exp(cosine / TEMPERATURE)
STRENGTHS = tuple(10.0**power for power in range(-4, 2))  # scikit-learn's C: the smaller, the more regularised
STEPS = 300  # of its optimiser
NEVER = -100.0  # the bias of a class that there are no training images of
ROWS = 1024  # images that are compared at once


class Images(NamedTuple):
    """Embeddings `(images, features)` float32, and labels `(images,)`."""

    vectors: np.ndarray
    labels: np.ndarray

    def of(self, rows: np.ndarray) -> "Images":
        return Images(self.vectors[rows], self.labels[rows])


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The k nearest training images vote, by their cosine."""

    train: Images
    classes: int
    k: int

    def nearest(self, vectors: np.ndarray, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the nearest training images, the nearest first, and their cosines: each `(images, k)`."""
        k = min(self.k if k is None else k, len(self.train.labels))
        known, rows, cosines = lengths_one(self.train.vectors), [], []
        for start in range(0, len(vectors), ROWS):
            found = lengths_one(vectors[start : start + ROWS]) @ known.T
            order = np.argsort(-found, axis=1, kind="stable")[:, :k]
            rows.append(order)
            cosines.append(np.take_along_axis(found, order, axis=1))
        return np.concatenate(rows), np.concatenate(cosines)

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Logarithms of the votes, `(images, classes)`."""
        rows, cosines = self.nearest(vectors)
        votes = np.full((len(vectors), self.classes), 1e-12)
        # Relative to the nearest one: nothing overflows, and shares are the same.
        weights = np.exp((cosines - cosines[:, :1]) / TEMPERATURE)
        np.add.at(votes, (np.arange(len(vectors))[:, None], self.train.labels[rows]), weights)
        return np.log(votes)


@dataclasses.dataclass(frozen=True)
class Linear:
    """`vectors @ kernel + bias`, float32: `(features, classes)` and `(classes,)`."""

    kernel: np.ndarray
    bias: np.ndarray

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        return vectors @ self.kernel + self.bias


def require_classes(labels: np.ndarray) -> np.ndarray:
    """The classes that there are training images of.

    Raises:
        ValueError: fewer than two.
    """
    there: np.ndarray = np.unique(labels)
    if len(there) < 2:
        raise ValueError(f"the training images are of {counted(len(there), 'class')}; a classifier needs two.")
    return there


def fit_linear(train: Images, classes: int, strength: float) -> Linear:
    """Multinomial logistic regression on features of mean 0 and deviation 1, which the result has in its kernel.

    Raises:
        ValueError: the training images are all of one class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    there = require_classes(train.labels)
    vectors = train.vectors.astype(np.float64)
    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0)
    deviation = np.where(deviation > 1e-6 * max(deviation.max(), 1e-30), deviation, np.inf)  # constant ones say nothing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a little more would change nothing that is counted
        model = LogisticRegression(C=strength, max_iter=STEPS).fit((vectors - mean) / deviation, train.labels)
    weights, bias = model.coef_, model.intercept_
    if len(there) == 2:  # of two classes scikit-learn has one logit, their difference
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    kernel = np.zeros((vectors.shape[1], classes))
    kernel[:, there] = (weights / deviation).T
    offset = np.full(classes, NEVER)
    offset[there] = bias - (weights / deviation) @ mean
    return Linear(kernel.astype(np.float32), offset.astype(np.float32))


def choose(train: Images, held: np.ndarray, classes: int) -> tuple[Neighbours, Linear, float]:
    """Both classifiers, fitted to all training images, and the strength of the linear one.

    What there is to choose is chosen by accuracy on the images that `held` says, then by cross-entropy; without such
    images it is in the middle.
    """
    k, strength = NEIGHBOURS[len(NEIGHBOURS) // 2], STRENGTHS[len(STRENGTHS) // 2]
    seen, unseen = train.of(~held), train.of(held)
    if held.any() and len(np.unique(seen.labels)) > 1:
        ks = [number for number in NEIGHBOURS if number <= len(seen.labels)]
        k = ks[_best([Neighbours(seen, classes, number).logits(unseen.vectors) for number in ks], unseen.labels)]
        found = [fit_linear(seen, classes, value).logits(unseen.vectors) for value in STRENGTHS]
        strength = STRENGTHS[_best(found, unseen.labels)]
    return Neighbours(train, classes, k), fit_linear(train, classes, strength), strength


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Of logits `(images, classes)`, in float64."""
    logits = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    found: np.ndarray = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return found


def _best(found: Sequence[np.ndarray], labels: np.ndarray) -> int:
    """Which logits are right most often, and then surest of it; the first of equals."""

    def score(logits: np.ndarray) -> tuple[int, float]:
        right = log_probabilities(logits)[np.arange(len(labels)), labels]
        return int((logits.argmax(axis=1) == labels).sum()), float(right.mean())

    scores = [score(logits) for logits in found]
    return scores.index(max(scores))

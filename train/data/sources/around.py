"""Sources of which something is changed: their classes, or how often their images are taken."""

from collections.abc import Sequence

import numpy as np

from train.data.sources.base import Example, Source, digest, labels_of


class Around(Source):
    """A source of which something is changed."""

    def __init__(self, source: Source):
        self._source, self.class_names = source, source.class_names

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
        return {**example, "label": int(self._new[example["label"]])}

    def labels(self) -> np.ndarray | None:
        labels = self._source.labels()
        return None if labels is None else self._new[labels]

    def fingerprint(self) -> str:
        return digest([self._source.fingerprint(), *self.class_names, self._new])

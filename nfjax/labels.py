"""Names of ImageNet's classes, and the most probable classes of an image with their names.

Class counts and lists are those of timm's `ImageNetInfo`; see `nfjax/data/NOTICE` for their licences.
"""

import dataclasses
import functools
import gzip
from importlib import resources
from typing import Any, Protocol, runtime_checkable

import numpy as np

from nfjax.models.data_config import MULTI_LABEL, DataConfig

# Number of classes -> letter of the subset in nfjax/data/synsets.tsv.gz.
_SUBSETS = {1000: "1", 11221: "m", 11821: "t", 21841: "w", 21843: "g"}
_FOCALNET = 21842  # the classes of ImageNet-1k come first, then the others of ImageNet-22k

CLASS_COUNTS = (*_SUBSETS, _FOCALNET)


@runtime_checkable
class Classifier(Protocol):
    """A model, or an ONNX file of one."""

    data_config: DataConfig

    @property
    def num_classes(self) -> int: ...


def synsets(num_classes: int) -> tuple[str, ...]:
    """WordNet ids of the classes of an ImageNet subset, e.g. "n01440764", in the order of a model's logits.

    Subsets are known by their size: 1000 (ImageNet-1k), 11221 (21k by MIIL), 11821 (12k by timm), 21841 (22k, fall
    2011), 21842 (22k by Microsoft's FocalNet) and 21843 (21k by Google); of another one it is a ValueError.
    """
    if num_classes == _FOCALNET:
        first = synsets(1000)
        return (*first, *(synset for synset in synsets(21841) if synset not in set(first)))
    if num_classes not in _SUBSETS:
        known = ", ".join(map(str, sorted(CLASS_COUNTS)))
        raise ValueError(f"no subset of ImageNet with {num_classes} classes is known; expected one of {known}.")
    return tuple(synset for synset, (subsets, _) in _table().items() if _SUBSETS[num_classes] in subsets)


def class_names(num_classes: int) -> tuple[str, ...]:
    """Names of the classes of an ImageNet subset, as `synsets` knows them: WordNet's lemmas.

    In the order of a model's logits: `nfjax.class_names(1000)[0]` is "tench, Tinca tinca".
    """
    table = _table()
    return tuple(table[synset][1] for synset in synsets(num_classes))


def label_names(model_or_data_config: Classifier | DataConfig) -> tuple[str, ...] | None:
    """Names of the classes: the data config's own `label_names`, or ImageNet's by their number, or None.

    The number is a guess, as it is in timm: 1000 classes of something else need their own `label_names`.
    """
    config = model_or_data_config
    if not isinstance(config, DataConfig):
        model, config = config, config.data_config
        if model.num_classes != config.num_classes:  # the classifier was replaced, and the labels are not its own
            config = dataclasses.replace(config, num_classes=model.num_classes, label_names=None)
    if config.label_names is not None:
        return config.label_names
    return class_names(config.num_classes) if config.num_classes in CLASS_COUNTS else None


def top_k(
    logits: Any, k: int = 5, model_or_data_config: Classifier | DataConfig | None = None
) -> list[list[tuple[str, float, int]]]:
    """The most probable classes of each image, the most probable first.

    Probabilities add up to 1; those of a model of several labels an image, by its `problem_type`, are each class's own.

    Args:
        logits: floating array of shape `(batch, classes)`, of any library.
        k: how many; where there are fewer classes, all of them.
        model_or_data_config: whose `label_names` to use; None for ImageNet's by the number of classes.

    Returns:
        For each image a list of `(name, probability, index)`. Classes without a name are called by their index.

    Raises:
        ValueError: logits of another shape, or not a number, or not as many as there are label names.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2:
        hint = " Add a batch axis: logits[None]." if logits.ndim == 1 else ""
        raise ValueError(f"logits of shape {logits.shape}; expected (batch, classes).{hint}")
    if np.isnan(logits).any():
        raise ValueError("some logits are not a number; check the images, and the weights of the model.")
    if not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k={k!r}; expected a whole number, at least 1.")
    config = DataConfig(num_classes=logits.shape[1]) if model_or_data_config is None else model_or_data_config
    names = label_names(config)
    names = tuple(map(str, range(logits.shape[1]))) if names is None else names
    if len(names) != logits.shape[1]:
        raise ValueError(
            f"logits for {logits.shape[1]} classes, but {len(names)} label names; pass those of the model."
        )
    probs = probabilities(logits, config)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return [[(names[i], float(p[i]), int(i)) for i in best] for p, best in zip(probs, order, strict=True)]


def probabilities(logits: np.ndarray, model_or_data_config: Classifier | DataConfig) -> np.ndarray:
    """Of each class, from logits `(batch, classes)`: softmax, or the sigmoid where an image may have several labels."""
    if problem_type(model_or_data_config) == MULTI_LABEL:
        return np.exp(-np.logaddexp(0, -logits))
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def problem_type(model_or_data_config: Classifier | DataConfig) -> str | None:
    """What the outputs are, by the data config; None where the classifier was replaced."""
    if isinstance(model_or_data_config, DataConfig):
        return model_or_data_config.problem_type
    model, config = model_or_data_config, model_or_data_config.data_config
    return config.problem_type if model.num_classes == config.num_classes else None


@functools.cache
def _table() -> dict[str, tuple[str, str]]:
    """Subsets and lemmas by synset, sorted by synset, which is the order of all subsets but one."""
    packed = (resources.files("nfjax") / "data" / "synsets.tsv.gz").read_bytes()
    rows = [line.split("\t") for line in gzip.decompress(packed).decode().splitlines() if not line.startswith("#")]
    return {synset: (subsets, lemmas) for synset, subsets, lemmas in rows}

"""Which output of a model stands for which class of a data set."""

from collections.abc import Sequence

import numpy as np

from nfjax.labels import CLASS_COUNTS, class_names, label_names, synsets
from nfjax.models.base import ImageModel
from nfjax.onnx.reading import OnnxModel
from train.data.sources.base import brief


def outputs(classes: Sequence[str], model: ImageModel | OnnxModel, *, in_order: bool = False) -> np.ndarray:
    """The model's output for each class of a data set.

    Classes are found by name, in whatever order and however many of the model's they are. A model's names are those of
    its data config, or ImageNet's, WordNet ids or words, by their number. Other classes that are numbers from 0 are
    outputs; and if a model has no names, its outputs are the classes in their order, provided that there are as many.

    Args:
        classes: of the data set, by label.
        model: with a classifier.
        in_order: the classes are the model's outputs already.

    Raises:
        ValueError: a class is not found; says which, and what to do.
    """
    count, there = len(classes), model.num_classes
    remedy = (
        "Give the names of the model's classes, one a line in the order of its outputs, as --data.class_map=FILE; the "
        "data set's must be among them."
    )
    lists = [] if in_order else [_places(names) for names in _names(model)]
    for places in lists:
        if all(name in places for name in classes):
            return np.array([places[name] for name in classes], np.int32)
    if in_order or tuple(classes) == tuple(map(str, range(count))):
        if count > there:
            raise ValueError(f"the data set has {count} classes, and {model.name} only {there} outputs.")
        return np.arange(count, dtype=np.int32)
    if not lists:
        if count == there:
            return np.arange(count, dtype=np.int32)
        raise ValueError(f"the data set has {count} classes, and {model.name} {there} outputs without names. {remedy}")
    places = min(lists, key=lambda places: sum(name not in places for name in classes))
    unknown = [name for name in classes if name not in places]
    raise ValueError(
        f"{len(unknown)} of the data set's {count} classes are not among those of {model.name}, {brief(list(places))}: "
        f"{brief(unknown)}. {remedy}"
    )


def display_names(classes: Sequence[str], model: ImageModel | OnnxModel, places: np.ndarray) -> list[str]:
    """A name for each output, for people: the model's own, or where it has none the data set's, or its number."""
    names = list(label_names(model) or map(str, range(model.num_classes)))
    if label_names(model) is None:
        for name, place in zip(classes, places, strict=True):
            names[place] = name
    return names


def _names(model: ImageModel | OnnxModel) -> list[tuple[str, ...]]:
    """What the outputs may be called, in order."""
    own, count = model.data_config.label_names, model.num_classes
    imagenet = [synsets(count), class_names(count)] if count in CLASS_COUNTS else []
    if own is None or len(own) != count:
        return imagenet
    return imagenet if own in imagenet else [own]  # a thousand classes need not be ImageNet's


def _places(names: Sequence[str]) -> dict[str, int]:
    """Place by name; a name that two classes share ("crane" in ImageNet) is no name."""
    places = {name: place for place, name in enumerate(names)}
    twice = {name for place, name in enumerate(names) if places[name] != place}
    return {name: place for name, place in places.items() if name not in twice}

"""`nfjax.classify`: the classes of images, in one line."""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from nfjax.infer import compile
from nfjax.labels import top_k
from nfjax.models.base import ImageModel
from nfjax.programs import kept
from nfjax.tasks.given import Given, read_image
from nfjax.transforms import create_transform
from nfjax.weights.loading import load
from nfjax.weights.names import Name, folder_of, model_folder

Best: TypeAlias = list[tuple[str, float, int]]
AT_ONCE = 16  # images
KEPT = 2  # models by name


def classify(image: Any, model: ImageModel | Name = "eca_nfnet_l0", *, topk: int = 5) -> Any:
    """The most probable classes of an image, the most probable first.

    The model and what was compiled for it are kept for the next call: of a model by name as long as it is among the
    last two, of a model that you hold as long as you hold it. Parameters that were changed are noticed.

    >>> nfjax.classify("cat.jpg")[0]
    ('tabby, tabby cat', 0.61, 281)

    Args:
        image: a path, also as `pathlib.Path`; an http:// or https:// address; an open file; a PIL image; or a uint8
            array `(height, width, 3)`. Or a list of such.
        model: a name that `nfjax.load` takes, or a model.
        topk: how many classes; where there are fewer, all of them.

    Returns:
        A list of `(name, probability, index)`; for a list of images a list of such lists.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: the address cannot be reached within half a minute.
        nfjax.images.ImageError: no image, a damaged one, or one of more than 64 MiB from the web.
        ValueError: the model has no classifier; and what `nfjax.load` raises.
    """
    if topk < 1:
        raise ValueError(f"topk={topk}; expected at least 1.")
    several = isinstance(image, list | tuple)
    images = list(image) if several else [image]
    found = classifier(model)
    best = top_k(run(found, images), topk, found) if images else []
    return best if several else best[0]


def classifier(model: ImageModel | Name) -> ImageModel:
    """A model that gives logits, by name or itself; of a name the last ones are kept.

    Raises:
        ValueError: it gives something else.
    """
    if not isinstance(model, ImageModel | str | os.PathLike):
        raise ValueError(f"model={model!r:.80}; expected a model, the name of one, or the path of a folder.")
    if not isinstance(model, ImageModel):
        model = _named(str(model), _stamps(model))
    if not model.num_classes or model.out_indices is not None:
        raise ValueError(f"{model.name} has no classifier, and so no classes; choose a model with one.")
    return model


def prepared(model: ImageModel, images: Sequence[Given]) -> np.ndarray:
    """Images as the model takes them: float32 `(images, height, width, channels)`."""
    transform = create_transform(model)
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(lambda image: transform(read_image(image, transform.mode)), images)))


def run(model: ImageModel, images: Sequence[Given]) -> np.ndarray:
    """The float32 outputs of a model for images, some at once."""
    outputs = []
    for start in range(0, len(images), AT_ONCE):
        x = prepared(model, images[start : start + AT_ONCE])
        batch = 1 << (len(x) - 1).bit_length()  # of few sizes, so that little is compiled
        padded = np.zeros((batch, *x.shape[1:]), np.float32)
        padded[: len(x)] = x
        outputs.append(np.asarray(program(model, padded)(padded), np.float32)[: len(x)])
    return np.concatenate(outputs)


def program(model: ImageModel, x: np.ndarray) -> Callable[[Any], Any]:
    """The model as `nfjax.compile` compiles it for a batch like `x`; kept until parameters of the model change."""
    return kept(model, ("outputs", x.shape), lambda: compile(model, jax.ShapeDtypeStruct(x.shape, x.dtype)))


def _stamps(name: Name) -> tuple[tuple[str, int], ...]:
    """When the files of a folder were written, so that another model there is another model."""
    folder = folder_of(name)
    return () if folder is None else tuple(sorted(_times(model_folder(folder))))


def _times(folder: Path) -> list[tuple[str, int]]:
    return [(file.name, file.stat().st_mtime_ns) for file in folder.iterdir() if file.is_file()]


@functools.lru_cache(maxsize=KEPT)
def _named(name: str, stamps: tuple[tuple[str, int], ...]) -> ImageModel:
    return load(name)

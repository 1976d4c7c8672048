"""`nfjax.explain`: where in an image a model looked."""

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfjax import cache
from nfjax.infer import prepare
from nfjax.models.base import ImageModel
from nfjax.models.vit import VisionTransformer
from nfjax.params import merge
from nfjax.programs import kept
from nfjax.tasks.classifying import prepared
from port.messages import require_name


def explain(
    model: ImageModel, images: Any, *, target: int | Sequence[int] | None = None, method: str | None = None
) -> np.ndarray:
    """Where a model looked: for each image a map of its input's pixels.

    * "gradcam", for convolutional models: Grad-CAM (arXiv 1610.02391) of the last map. Channels count as much as they
      raise the logit of a class, on average over the map; what lowers it is 0.
    * "rollout", for transformers: attention rollout (arXiv 2005.00928). What the class token, or where the model pools
      the patches the average patch, has received from each patch through all blocks; heads are averaged, and the
      skip connection counts as half.
    * "attention", for transformers: the same of the last block alone.

    Args:
        model: any model with its head; for the last two also without a classifier.
        images: as the model takes them, a floating array `(images, height, width, channels)`; or an image as
            `nfjax.classify` takes it, or a list of such.
        target: index of the class that "gradcam" explains, for all images or for each; None for the most probable.
        method: None for "gradcam" or "rollout", whichever the model has.

    Returns:
        float32 `(images, height, width)`, in [0, 1]: the largest value of each map is 1. "gradcam" keeps its 0; of the
        others the smallest value is 0.

    Raises:
        ValueError: a method that the model does not have, a target that is no class of it or that the method does not
            depend on; and what `nfjax.classify` raises of images.
    """
    methods = methods_of(model)
    if method is not None and method not in methods:
        require_name("method", method, METHODS)
        raise ValueError(f"{model.name} has no {method!r}; choose {' or '.join(map(repr, methods))}.")
    chosen = METHODS[method or methods[0]]
    if target is not None and not chosen.of_class:
        raise ValueError(f"target={target!r}: {method or methods[0]!r} is the same for all classes; leave target out.")
    x = images if _is_batch(images) else prepared(model, images if isinstance(images, list | tuple) else [images])
    if not len(x):
        return np.zeros(x.shape[:3], np.float32)
    _, maps = look(model, x, [method or methods[0]], target)
    return np.asarray(maps[0], np.float32)


def look(
    model: ImageModel, x: Any, methods: Sequence[str], target: int | Sequence[int] | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """What a model says of a batch, and for each method the maps; one program, kept between calls."""
    cache.enable()

    def make() -> Callable[..., Any]:
        graphdef, params = prepare(model)
        chosen = [METHODS[name] for name in methods]

        def run(params: Any, x: Any, classes: Any) -> Any:
            copy = merge(graphdef, params)
            outputs, found = _together(copy, x, classes, chosen)
            maps = [_sized(m, x.shape[1:3], keep_zero=method.of_class) for method, m in zip(chosen, found, strict=True)]
            return outputs, maps

        compiled = jax.jit(run)
        return lambda x, classes: compiled(params, x, classes)

    key = ("look", tuple(methods), tuple(x.shape), str(x.dtype), target is None)
    outputs, maps = jax.device_get(kept(model, key, make)(jnp.asarray(x), _classes(model, target, len(x))))
    return outputs, maps


def methods_of(model: ImageModel) -> list[str]:
    """The methods that a model has, its default first.

    Raises:
        ValueError: it has lost what they need.
    """
    if model.out_indices is not None:
        raise ValueError("a features_only model has lost its head; explain the model that it came from.")
    found = [name for name, method in METHODS.items() if method.of_class != isinstance(model, VisionTransformer)]
    if METHODS[found[0]].of_class and (not model.num_classes or not model.global_pool):
        raise ValueError(f"{model.name} has no classifier, and Grad-CAM explains a class; load it with its own.")
    return found


def grad_cam(model: ImageModel, features: Any, classes: Any) -> Any:
    """Grad-CAM of `forward_features` for a class each: `(images, height, width)`, not scaled."""

    def logit(features: Any) -> Any:
        return jnp.take_along_axis(model.forward_head(features), classes[:, None], axis=1).sum()

    weights = jax.grad(logit)(features).mean((1, 2), keepdims=True)
    return jax.nn.relu((weights * features).sum(-1))


def rollout(attention: Sequence[Any], rows: Any) -> Any:
    """What tokens, or means of tokens, have of each token through all blocks: `(images, rows, tokens)`, of sum 1.

    From the last block to the first, so that the factors are as few rows as are asked for.

    Args:
        attention: the maps of all blocks in their order, `(images, heads, tokens, tokens)`.
        rows: the part of each token in what is asked for, `(rows, tokens)`, of sum 1.
    """
    dtype = jnp.promote_types(attention[0].dtype, jnp.float32)
    seen = jnp.broadcast_to(jnp.asarray(rows, dtype), (len(attention[0]), *rows.shape))
    for weights in reversed(attention):
        seen = (seen @ weights.astype(dtype).mean(1) + seen) / 2
    return seen


def _rolled_out(model: Any, x: Any, maps: Sequence[Any]) -> Any:
    """`rollout` for the class token, if the model pools it, or else the average patch: `(images, rows, columns)`."""
    places, prefix = jnp.arange(maps[0].shape[-1]), model.num_prefix_tokens
    pooled = places < 1 if model.global_pool == "token" else places >= prefix
    return rollout(maps, (pooled / pooled.sum())[None])[:, 0, prefix:].reshape(-1, *_grid(model, x))


def patches_seen(weights: Any, model: VisionTransformer, grid: tuple[int, int]) -> Any:
    """What the class token, if the model pools it, or else the average patch takes from each patch.

    Args:
        weights: `(..., tokens, tokens)`.
        grid: rows and columns of patches.

    Returns:
        `(..., rows, columns)`.
    """
    prefix = model.num_prefix_tokens
    rows = weights[..., :1, :] if model.global_pool == "token" else weights[..., prefix:, :]
    return rows[..., prefix:].mean(-2).reshape(*weights.shape[:-2], *grid)


@dataclasses.dataclass(frozen=True)
class Method:
    """How maps are made, and what they are called.

    Attributes:
        title: for people.
        of_class: is a map of one class? Those of convolutional models are.
        make: `(model, images, features and classes, attention maps)` to `(images, rows, columns)`.
    """

    title: str
    of_class: bool
    make: Callable[[Any, Any, Any, Any], Any]


def _grid(model: Any, x: Any) -> tuple[int, int]:
    grid: tuple[int, int] = model.config.grid(x.shape[1:3])
    return grid


METHODS: Mapping[str, Method] = {
    "gradcam": Method("Grad-CAM", True, lambda model, x, seen, maps: grad_cam(model, *seen)),
    "rollout": Method("attention rollout", False, lambda model, x, seen, maps: _rolled_out(model, x, maps)),
    "attention": Method(
        "attention of the last block",
        False,
        lambda model, x, seen, maps: patches_seen(maps[-1].mean(1), model, _grid(model, x)),
    ),
}


def _together(model: Any, x: Any, classes: Any, methods: Sequence[Method]) -> tuple[Any, list[Any]]:
    """The outputs of a model, and its maps; blocks that both need are computed once."""
    features = model.forward_features(x)
    outputs = model.forward_head(features)
    maps = model.attention_maps(x) if isinstance(model, VisionTransformer) else None
    classes = outputs.argmax(-1) if classes is None else classes
    return outputs, [method.make(model, x, (features, classes), maps) for method in methods]


def _sized(maps: Any, size: tuple[int, int], *, keep_zero: bool) -> Any:
    """Maps `(images, rows, columns)` at the size of the images, scaled to [0, 1]."""
    maps = jax.image.resize(maps.astype(jnp.promote_types(maps.dtype, jnp.float32)), (len(maps), *size), "bilinear")
    low = 0.0 if keep_zero else maps.min((1, 2), keepdims=True)
    span = maps.max((1, 2), keepdims=True) - low
    return jnp.where(span > 0, (maps - low) / jnp.where(span > 0, span, 1), 0)


def _classes(model: ImageModel, target: int | Sequence[int] | None, count: int) -> Any:
    """The class of each image; None for the most probable ones."""
    if target is None:
        return None
    each: Any = target if np.ndim(target) else [target] * count
    classes = [operator.index(index) for index in each]
    if len(classes) != count or not all(0 <= index < model.num_classes for index in classes):
        raise ValueError(
            f"target={target!r}; expected an index from 0 to {model.num_classes - 1}, or one for each of {count} "
            "images."
        )
    return jnp.array(classes)


def _is_batch(images: Any) -> bool:
    """Is it what a model takes: an array of floating point, or what its own check of inputs would refuse?"""
    return hasattr(images, "dtype") and getattr(images, "ndim", 0) == 4

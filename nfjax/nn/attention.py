"""Self-attention: the one function that computes it, and the layers that use it.

[1] Vaswani et al.: Attention Is All You Need. arXiv 1706.03762
[2] Ye et al.: Differential Transformer. arXiv 2410.05258
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nfjax import fast
from nfjax.nn.layers import LayerNorm, Linear, RmsNorm, dropout, split_key
from nfjax.nn.pos_embed import RotaryTable, rotate
from nfjax.params import Normal, param

Tokens = Float[Array, "batch tokens dim"]
Queries = Float[Array, "batch queries heads head_dim"]
Keys = Float[Array, "batch keys heads head_dim"]
Weights = Float[Array, "batch heads queries keys"]
Mask = Bool[Array, "batch 1 _ keys"]  # where queries, or all of them alike, see keys
Head = Float[Array, "batch tokens _ head_dim"]  # of queries, or of keys and values, which may be fewer
Heads = tuple[Head, ...]  # of queries, keys and values
PairedHeads = Float[Array, "batch tokens twice_heads half_dim"]  # two for each head of the values
Values = Float[Array, "batch tokens heads head_dim"]
Norm = LayerNorm | RmsNorm | None
QkNorms = tuple[Norm, Norm]  # of each head's queries and keys, before they turn with their positions


def attention_weights(q: Queries, k: Keys, mask: Mask | None = None) -> Weights:
    """`softmax(q k^T / sqrt(head_dim))` ([1] section 3.2.1), in float32 at least; each row sums to 1.

    With a mask, 0 where that is not True; a row without any True is the same everywhere.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=dtype) * q.shape[-1] ** -0.5
    return jax.nn.softmax(logits if mask is None else jnp.where(mask, logits, jnp.finfo(dtype).min), axis=-1)


def attend(
    q: Queries,
    k: Keys,
    v: Keys,
    *,
    mask: Mask | None = None,
    drop_rate: float = 0.0,
    key: PRNGKeyArray | None = None,
) -> Queries:
    """`softmax(q k^T / sqrt(head_dim)) v`, in the dtype of `v`; with a key, the attention weights have dropout."""
    if key is None or drop_rate == 0:
        return fast.attend(q, k, v, mask)
    return apply_weights(dropout(attention_weights(q, k, mask), drop_rate, key), v)


def apply_weights(weights: Weights, v: Keys) -> Queries:
    """Attention weights times the values."""
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)


def split_heads(x: Tokens, head_dim: int) -> Float[Array, "batch tokens heads {head_dim}"]:
    """Each token's channels as heads of `head_dim` channels."""
    return x.reshape(*x.shape[:2], x.shape[2] // head_dim, head_dim)


def merge_heads(x: Float[Array, "batch tokens heads head_dim"]) -> Tokens:
    """The inverse of `split_heads`."""
    return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3])


def normalised(norm: Norm, x: Head) -> Head:
    """Queries or keys as they are compared: normalised, if there is a norm."""
    return x if norm is None else norm(x)


class Attention(nnx.Module):
    """Multi-head self-attention ([1]; timm `Attention`).

    Args:
        dim: channels of the tokens, which the heads share.
        num_heads: how many.
        qkv_bias: whether queries, keys and values have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
        proj_std: standard deviation of the output projection's initial weights.
        qk_norms: norms of queries and keys (2302.05442).
    """

    rotate_half = False  # how rotary positions turn channels, see `rotate`

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        proj_std: float = 0.02,
        qk_norms: QkNorms = (None, None),
    ):
        self.head_dim, self.attn_drop, self.proj_drop = dim // num_heads, attn_drop, proj_drop
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm, self.k_norm = qk_norms
        self.proj = Linear(dim, dim, std=proj_std)

    def project(self, x: Tokens) -> list[Tokens]:
        """Queries, keys and values."""
        return self.qkv.split(x, 3)

    def heads(self, x: Tokens, rope: RotaryTable | None) -> Heads:
        q, k, v = (split_heads(part, self.head_dim) for part in self.project(x))
        q, k = normalised(self.q_norm, q), normalised(self.k_norm, k)
        return (q, k, v) if rope is None else (*(rotate(a, rope, half=self.rotate_half) for a in (q, k)), v)

    def weights(self, x: Tokens, rope: RotaryTable | None = None) -> Float[Array, "batch heads tokens tokens"]:
        """The attention map of every head."""
        q, k, _ = self.heads(x, rope)
        return attention_weights(q, k)

    def __call__(self, x: Tokens, rope: RotaryTable | None = None, key: PRNGKeyArray | None = None) -> Tokens:
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
        qk_norms: norms of queries and keys.
    """

    def __init__(self, head_dim: int, *, depth: int, attn_drop: float = 0.0, qk_norms: QkNorms = (None, None)):
        self.head_dim, self.attn_drop = head_dim, attn_drop
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * depth)
        self.lambda_q1 = param((head_dim // 2,), Normal(0.1))
        self.lambda_k1 = param((head_dim // 2,), Normal(0.1))
        self.lambda_q2 = param((head_dim // 2,), Normal(0.1))
        self.lambda_k2 = param((head_dim // 2,), Normal(0.1))
        self.q_norm, self.k_norm = qk_norms
        self.sub_norm = RmsNorm(head_dim, eps=1e-5)

    def pairs(self, q: Tokens, k: Tokens, v: Tokens) -> tuple[PairedHeads, PairedHeads, Values]:
        """Queries, keys and values as heads: those of a pair lie next to each other."""
        half = self.head_dim // 2
        q, k = normalised(self.q_norm, split_heads(q, half)), normalised(self.k_norm, split_heads(k, half))
        return q, k, split_heads(v, self.head_dim)

    def difference(
        self, q: PairedHeads, k: PairedHeads, key: PRNGKeyArray | None = None
    ) -> Float[Array, "batch heads tokens tokens"]:
        """`A_2h - lambda * A_2h+1`; rows sum to `1 - lambda`."""
        weights = dropout(attention_weights(q, k), self.attn_drop, key)
        batch, heads, queries, keys = weights.shape
        weights = weights.reshape(batch, heads // 2, 2, queries, keys)
        wide = jnp.promote_types(self.lambda_q1[...].dtype, jnp.float32)
        q1, k1, q2, k2 = (a[...].astype(wide) for a in (self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2))
        first, second = jnp.exp(jnp.sum(q1 * k1)), jnp.exp(jnp.sum(q2 * k2))
        scale = first - second + self.lambda_init
        return weights[:, :, 0] - scale.astype(weights.dtype) * weights[:, :, 1]

    def attend(self, q: PairedHeads, k: PairedHeads, v: Values, key: PRNGKeyArray | None = None) -> Tokens:
        """The tokens that leave the attention."""
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
        qk_norms: QkNorms = (None, None),
    ):
        super().__init__(dim // num_heads, depth=depth, attn_drop=attn_drop, qk_norms=qk_norms)
        self.proj_drop = proj_drop
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def weights(self, x: Tokens, rope: None = None) -> Float[Array, "batch heads tokens tokens"]:
        """The difference of each pair's attention maps."""
        q, k, _ = self.pairs(*self.qkv.split(x, 3))
        return self.difference(q, k)

    def __call__(self, x: Tokens, rope: None = None, key: PRNGKeyArray | None = None) -> Tokens:
        attn_key, proj_key = split_key(key, 2)
        y = self.attend(*self.pairs(*self.qkv.split(x, 3)), key=attn_key)
        return dropout(self.proj(y), self.proj_drop, proj_key)

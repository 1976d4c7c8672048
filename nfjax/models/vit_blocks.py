"""The configuration of a vision transformer, and its three kinds of block.

    [1] Dosovitskiy et al.: An Image is Worth 16x16 Words. arXiv 2010.11929
    [2] Dehghani et al.: Scaling Vision Transformers to 22 Billion Parameters. arXiv 2302.05442

A block takes tokens, a table of rotary positions or None, and a PRNG key or None, and returns tokens. Names are timm's,
so that parameter paths mirror timm's state dict.
"""

import dataclasses
from typing import Annotated, Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from nfjax.fast import gelu
from nfjax.nn import attention
from nfjax.nn.attention import (
    Attention,
    DiffAttention,
    Differential,
    PairedHeads,
    QkNorms,
    Values,
    merge_heads,
    normalised,
    split_heads,
)
from nfjax.nn.layers import LayerNorm, Linear, RmsNorm, drop_path, dropout, split_key
from nfjax.nn.pos_embed import INTERPOLATIONS
from nfjax.nn.vit_layers import MLPS, NORMS, POOLS, LayerScale
from port.ranges import Choice, Range, ShareBelow1, Width

Tokens = Float[Array, "batch tokens dim"]
Hidden = Float[Array, "batch tokens hidden"]
PatchSize = Annotated[int, Range(1, 1024)]
AttentionMap = Float[Array, "batch heads tokens tokens"]


@dataclasses.dataclass(frozen=True)
class ViTCfg:
    """Architecture of a vision transformer; fields are the arguments of timm's `VisionTransformer`."""

    embed_dim: Width = 768  # channels of a token
    depth: Annotated[int, Range(1, 1000)] = 12  # number of blocks
    num_heads: Annotated[int, Range(1, 1024)] = 12  # attention heads
    patch_size: PatchSize = 16  # side of a patch in pixels
    mlp_ratio: Annotated[float, Range(0, 64, open="low")] = 4.0  # channels inside the MLP, relative to `embed_dim`
    qkv_bias: bool = True  # whether queries, keys and values have a bias
    qk_norm: bool = False  # normalise each head's queries and keys
    init_values: Annotated[float, Range(-1000, 1000)] | None = None  # initial LayerScale; None or 0 for no LayerScale
    class_token: bool = True  # whether there is a class token
    reg_tokens: Annotated[int, Range(0, 1024)] = 0  # number of registers
    no_embed_class: bool = False  # no entries of the position embedding for class token and registers
    # "avg", "max" or "avgmax" of the patches, "token", "map" (attention) or "" for none
    global_pool: Annotated[str, Choice(POOLS)] = "token"
    pool_include_prefix: bool = False  # whether pooling sees class token and registers too
    fc_norm: bool | None = None  # normalise after pooling, not before; None: where that is "avg", "max" or "avgmax"
    pre_norm: bool = False  # normalise before the first block; the embedding of patches has no bias then
    final_norm: bool = True  # normalise after the last block or after pooling
    norm_layer: Annotated[str, Choice(tuple(NORMS))] = "layernorm"
    norm_eps: Annotated[float, Range(0, 1)] = 1e-6  # added to the variance; in timm a part of `norm_layer`
    mlp_layer: Annotated[str, Choice(tuple(MLPS))] = "mlp"
    attn_layer: Annotated[str, Choice(("attn", "diff"))] = "attn"  # of the sequential block
    block_fn: Annotated[str, Choice(("sequential", "parallel", "diff_parallel"))] = "sequential"
    dynamic_img_size: bool = False  # take any multiple of the patch; resample the position embedding in every call
    dynamic_img_pad: bool = False  # and any other size, with zeros below and to the right
    pos_embed_interp: Annotated[str, Choice(tuple(INTERPOLATIONS))] = "bicubic"  # of weights for another size
    pos_drop_rate: ShareBelow1 = 0.0  # dropout of the tokens that enter the blocks
    patch_drop_rate: ShareBelow1 = 0.0  # share of the patches that training leaves out, after `pos_drop_rate`
    proj_drop_rate: ShareBelow1 = 0.0  # dropout inside the MLPs and after each attention
    attn_drop_rate: ShareBelow1 = 0.0  # dropout of the attention weights

    @property
    def num_prefix_tokens(self) -> int:
        return self.class_token + self.reg_tokens

    @property
    def num_pos_prefix(self) -> int:
        """Entries of the position embedding that belong to class token and registers."""
        return 0 if self.no_embed_class else self.num_prefix_tokens

    def positions(self, size: tuple[int, int]) -> int:
        """Entries of the position embedding, for images of this height and width."""
        rows, columns = self.grid(size)
        return self.num_pos_prefix + rows * columns

    @property
    def mlp_hidden(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of whole patches in an image of this height and width."""
        return size[0] // self.patch_size, size[1] // self.patch_size

    def norm(self) -> LayerNorm | RmsNorm:
        return NORMS[self.norm_layer](self.embed_dim, self.norm_eps)

    def qk_norms(self, width: int) -> QkNorms:
        """Of heads of this width: for queries, for keys."""
        kind = NORMS[self.norm_layer]
        return (kind(width, self.norm_eps), kind(width, self.norm_eps)) if self.qk_norm else (None, None)

    def layer_scale(self) -> LayerScale | None:
        return LayerScale(self.embed_dim, self.init_values) if self.init_values else None


class Block(nnx.Module):
    """Attention, then MLP, each normalised before and added to its input ([1] figure 1; timm `Block`)."""

    def __init__(self, cfg: ViTCfg, index: int, drop_path_rate: float):
        self.drop_path_rate = drop_path_rate
        self.norm1, self.norm2 = cfg.norm(), cfg.norm()
        self.attn = self._attention(cfg, index)
        self.mlp = MLPS[cfg.mlp_layer](cfg.embed_dim, cfg.mlp_hidden, drop=cfg.proj_drop_rate)
        self.ls1, self.ls2 = cfg.layer_scale(), cfg.layer_scale()

    @staticmethod
    def _attention(cfg: ViTCfg, index: int) -> Attention | DiffAttention:
        options: dict[str, Any] = {"qkv_bias": cfg.qkv_bias, "attn_drop": cfg.attn_drop_rate}
        options["proj_drop"], head_dim = cfg.proj_drop_rate, cfg.embed_dim // cfg.num_heads
        if cfg.attn_layer == "diff":
            norms = cfg.qk_norms(head_dim // 2)
            return DiffAttention(cfg.embed_dim, cfg.num_heads, depth=index, qk_norms=norms, **options)
        return Attention(cfg.embed_dim, cfg.num_heads, qk_norms=cfg.qk_norms(head_dim), **options)

    def attention_map(self, x: Tokens, rope: Any = None) -> AttentionMap:
        """Who attends to whom in this block, for tokens that enter it."""
        return self.attn.weights(self.norm1(x), rope)

    def scaled(self, branch: int, y: Tokens) -> Tokens:
        """What attention (1) or MLP (2) adds, times its LayerScale, if there is one."""
        return _scaled(self.ls1 if branch == 1 else self.ls2, y)

    def __call__(self, x: Tokens, rope: Any = None, key: PRNGKeyArray | None = None) -> Tokens:
        keys = split_key(key, 4)
        y = self.scaled(1, self.attn(self.norm1(x), rope, keys[0]))
        x = x + drop_path(y, self.drop_path_rate, keys[1])
        y = self.scaled(2, self.mlp(self.norm2(x), keys[2]))
        return x + drop_path(y, self.drop_path_rate, keys[3])


class ParallelScalingBlock(nnx.Module):
    """Attention and MLP side by side, fed by one projection ([2] equation 1; timm `ParallelScalingBlock`)."""

    def __init__(self, cfg: ViTCfg, index: int, drop_path_rate: float):
        dim, hidden = cfg.embed_dim, cfg.mlp_hidden
        self.cfg, self.drop_path_rate = cfg, drop_path_rate
        self.in_norm = cfg.norm()
        self.in_proj = Linear(dim, hidden + 3 * dim, bias=cfg.qkv_bias)
        self.q_norm, self.k_norm = cfg.qk_norms(dim // cfg.num_heads)
        self.attn_out_proj = Linear(dim, dim)
        self.mlp_out_proj = Linear(hidden, dim)
        self.ls = cfg.layer_scale()

    def _project(self, x: Tokens) -> tuple[Hidden, list[Float[Array, "batch tokens heads head_dim"]]]:
        """The MLP's hidden layer; queries, keys and values by head."""
        hidden, *qkv = _split(self.in_proj(self.in_norm(x)), self.cfg)
        q, k, v = (split_heads(part, self.cfg.embed_dim // self.cfg.num_heads) for part in qkv)
        return hidden, [normalised(self.q_norm, q), normalised(self.k_norm, k), v]

    def attention_map(self, x: Tokens, rope: None = None) -> AttentionMap:
        """Who attends to whom in this block, for tokens that enter it."""
        q, k, _ = self._project(x)[1]
        return attention.attention_weights(q, k)

    def __call__(self, x: Tokens, rope: None = None, key: PRNGKeyArray | None = None) -> Tokens:
        keys = split_key(key, 3)
        hidden, qkv = self._project(x)
        attended = merge_heads(attention.attend(*qkv, drop_rate=self.cfg.attn_drop_rate, key=keys[0]))
        hidden = dropout(gelu(hidden), self.cfg.proj_drop_rate, keys[1])
        y = self.attn_out_proj(attended) + self.mlp_out_proj(hidden)
        return x + drop_path(_scaled(self.ls, y), self.drop_path_rate, keys[2])


class DiffParallelScalingBlock(Differential):
    """`ParallelScalingBlock` with differential attention and one output projection (timm, same name)."""

    def __init__(self, cfg: ViTCfg, index: int, drop_path_rate: float):
        dim, hidden = cfg.embed_dim, cfg.mlp_hidden
        head_dim = dim // cfg.num_heads
        super().__init__(head_dim, depth=index, attn_drop=cfg.attn_drop_rate, qk_norms=cfg.qk_norms(head_dim // 2))
        self.cfg, self.drop_path_rate = cfg, drop_path_rate
        self.in_norm = cfg.norm()
        self.in_proj = Linear(dim, hidden + 3 * dim, bias=cfg.qkv_bias)
        self.out_proj = Linear(dim + hidden, dim)
        self.ls = cfg.layer_scale()

    def _project(self, x: Tokens) -> tuple[Hidden, tuple[PairedHeads, PairedHeads, Values]]:
        hidden, *qkv = _split(self.in_proj(self.in_norm(x)), self.cfg)
        return hidden, self.pairs(*qkv)

    def attention_map(self, x: Tokens, rope: None = None) -> AttentionMap:
        """The difference of each pair's attention maps."""
        q, k, _ = self._project(x)[1]
        return self.difference(q, k)

    def __call__(self, x: Tokens, rope: None = None, key: PRNGKeyArray | None = None) -> Tokens:
        keys = split_key(key, 3)
        hidden, qkv = self._project(x)
        attended = self.attend(*qkv, key=keys[0])
        hidden = dropout(gelu(hidden), self.cfg.proj_drop_rate, keys[1])
        y = self.out_proj(jnp.concatenate([attended, hidden], axis=-1))
        return x + drop_path(_scaled(self.ls, y), self.drop_path_rate, keys[2])


BLOCKS = {"sequential": Block, "parallel": ParallelScalingBlock, "diff_parallel": DiffParallelScalingBlock}


def _split(projected: Float[Array, "batch tokens width"], cfg: ViTCfg) -> list[Float[Array, "batch tokens _"]]:
    """The parts of `in_proj`'s output: the MLP's hidden layer, queries, keys, values."""
    starts = [cfg.mlp_hidden + i * cfg.embed_dim for i in range(3)]
    return jnp.split(projected, starts, axis=-1)


def _scaled(layer_scale: LayerScale | None, y: Tokens) -> Tokens:
    return y if layer_scale is None else layer_scale(y)

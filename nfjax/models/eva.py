"""Vision transformers with rotary position embedding, as timm's eva.py defines them.

    [1] Fang et al.: EVA-02: A Visual Representation for Neon Genesis. arXiv 2303.11331
    [2] Su et al.: RoFormer. arXiv 2104.09864
    [3] Siméoni et al.: DINOv3. arXiv 2508.10104

They differ from `nfjax.models.vit` in three places: queries and keys of patch tokens turn with their position [2] in
every block, so that there is no learned position embedding; keys have no bias; LayerScale is a parameter of the block.
"""

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from nfjax.fast import add_bias, scale
from nfjax.models.vit import Tokens, Vectors, VisionTransformer
from nfjax.models.vit_blocks import Block, ViTCfg
from nfjax.nn.attention import Attention, Heads
from nfjax.nn.layers import Linear
from nfjax.nn.pos_embed import (
    Grid,
    RotaryTable,
    centred_positions,
    move_positions,
    rotary_table,
    scaled_positions,
)
from nfjax.nn.vit_layers import POOLS, Mlp, SwiGLU, SwiGLUPacked
from nfjax.params import Constant, param, zeros
from port.ranges import Choice, Range, Width

HeadCount = Annotated[int, Range(1, 1024)]


@dataclasses.dataclass(frozen=True)
class EvaCfg(ViTCfg):
    """Architecture of a transformer with rotary positions; beyond `ViTCfg`, arguments of timm's `Eva`."""

    class_token: bool = False
    global_pool: Annotated[str, Choice(POOLS)] = "avg"
    init_values: Annotated[float, Range(-1000, 1000)] | None = 1e-5
    ref_feat_shape: tuple[Width, Width] | None = (16, 16)  # of pre-training: positions of other grids are scaled to it
    # Positions: "cat" counts patches, as many as `ref_feat_shape` has; "dinov3" goes from -1 to 1 over the image.
    rope_type: Annotated[str, Choice(("cat", "dinov3"))] = "cat"
    # Ratio of the highest to the lowest frequency, roughly.
    rope_temperature: Annotated[float, Range(1e-3, 1e9)] = 10_000.0
    rope_rotate_half: bool = False  # whether the halves of a head turn together, not neighbouring channels
    # Of "dinov3", in training: positions are moved by up to so much, and rows, columns and both together are stretched
    # by up to these factors.
    rope_shift_coords: Annotated[float, Range(0, 100)] | None = None
    rope_jitter_coords: Annotated[float, Range(1, 100)] | None = None
    rope_rescale_coords: Annotated[float, Range(1, 100)] | None = None
    attn_type: Annotated[str, Choice(("eva", "rope"))] = "eva"  # "rope": a projection and a bias for each of q, k, v
    num_kv_heads: tuple[HeadCount, ...] | None = None  # of keys and values, by block; None: as of queries; of "rope"
    attn_only_layer_scale: bool = False  # no LayerScale of the MLP
    swiglu_mlp: bool = False  # a gated MLP
    swiglu_align_to: Annotated[int, Range(0, 4096)] = 0  # its width is a multiple of this; 0: its first layers are one


def out_std(index: int) -> float:
    """Standard deviation of the initial weights of a block's last layers."""
    return float(0.02 / (2 * (index + 1)) ** 0.5)


class EvaAttention(Attention):
    """Self-attention with rotary positions and no bias on the keys (timm `EvaAttention`)."""

    def __init__(self, cfg: EvaCfg, proj_std: float):
        dim = cfg.embed_dim
        drops: dict[str, Any] = {"attn_drop": cfg.attn_drop_rate, "proj_drop": cfg.proj_drop_rate}
        norms = cfg.qk_norms(dim // cfg.num_heads)
        super().__init__(dim, cfg.num_heads, qkv_bias=False, proj_std=proj_std, qk_norms=norms, **drops)
        self.q_bias = param((dim,), zeros) if cfg.qkv_bias else None
        self.v_bias = param((dim,), zeros) if cfg.qkv_bias else None
        self.rotate_half = cfg.rope_rotate_half

    def project(self, x: Tokens) -> list[Tokens]:
        q, k, v = self.qkv.split(x, 3)
        if self.q_bias is None or self.v_bias is None:
            return [q, k, v]
        return [add_bias(q, self.q_bias[...]), k, add_bias(v, self.v_bias[...])]


class RopeAttention(Attention):
    """Self-attention with rotary positions, whose queries may share keys and values (2305.13245; timm `AttentionRope`).

    There are `num_heads / kv_heads` heads of queries for each of keys and values.
    """

    def __init__(self, cfg: EvaCfg, kv_heads: int, proj_std: float):
        dim, head_dim = cfg.embed_dim, cfg.embed_dim // cfg.num_heads
        self.head_dim, self.attn_drop, self.proj_drop = head_dim, cfg.attn_drop_rate, cfg.proj_drop_rate
        self.group, self.rotate_half = cfg.num_heads // kv_heads, cfg.rope_rotate_half
        self.q_proj = Linear(dim, dim, bias=cfg.qkv_bias)
        self.k_proj = Linear(dim, kv_heads * head_dim, bias=cfg.qkv_bias)
        self.v_proj = Linear(dim, kv_heads * head_dim, bias=cfg.qkv_bias)
        self.q_norm, self.k_norm = cfg.qk_norms(head_dim)
        self.proj = Linear(dim, dim, std=proj_std)

    def project(self, x: Tokens) -> list[Any]:  # of different widths
        return [self.q_proj(x), self.k_proj(x), self.v_proj(x)]

    def heads(self, x: Tokens, rope: RotaryTable | None) -> Heads:
        q, k, v = super().heads(x, rope)
        return q, jnp.repeat(k, self.group, axis=2), jnp.repeat(v, self.group, axis=2)


def _attention(cfg: EvaCfg, index: int) -> Attention:
    std = out_std(index)
    if cfg.attn_type == "eva":
        return EvaAttention(cfg, std)
    return RopeAttention(cfg, cfg.num_heads if cfg.num_kv_heads is None else cfg.num_kv_heads[index], std)


def _mlp(cfg: EvaCfg, std: float) -> Mlp | SwiGLU | SwiGLUPacked:
    dim, hidden, align = cfg.embed_dim, cfg.mlp_hidden, cfg.swiglu_align_to
    if cfg.swiglu_mlp and not align:
        return SwiGLUPacked(dim, 2 * hidden, drop=cfg.proj_drop_rate)
    kind, width = (SwiGLU, hidden + -hidden % align) if cfg.swiglu_mlp else (Mlp, hidden)
    return kind(dim, width, drop=cfg.proj_drop_rate, out_std=std)


class EvaBlock(Block):
    """`Block` with rotary positions, whose LayerScale are parameters of its own (timm `EvaBlock`)."""

    def __init__(self, cfg: EvaCfg, index: int, drop_path_rate: float):
        self.drop_path_rate = drop_path_rate
        self.norm1, self.norm2 = cfg.norm(), cfg.norm()
        self.attn = _attention(cfg, index)
        self.mlp: Any = _mlp(cfg, out_std(index))
        init = None if cfg.init_values is None else Constant(cfg.init_values)
        self.gamma_1 = None if init is None else param((cfg.embed_dim,), init)
        self.gamma_2 = None if init is None or cfg.attn_only_layer_scale else param((cfg.embed_dim,), init)

    def scaled(self, branch: int, y: Tokens) -> Tokens:
        gamma = self.gamma_1 if branch == 1 else self.gamma_2
        return y if gamma is None else scale(y, gamma[...])


class Eva(VisionTransformer):
    """Vision transformer with rotary position embedding ([1]; timm `Eva`); arguments as `VisionTransformer`'s."""

    config: EvaCfg
    timm_names: ClassVar = {
        "reg_tokens": "num_reg_tokens",
        "fc_norm": "use_fc_norm",
        "pre_norm": "use_pre_transformer_norm",
    }
    token_std = 0.02
    pools_before_norm = ("avg",)

    def _make_pos_embed(self) -> None:
        return None

    def _make_block(self, index: int, drop_path_rate: float) -> EvaBlock:
        return EvaBlock(self.config, index, drop_path_rate)

    def _make_head(self, num_classes: int) -> Linear | None:
        return Linear(self.num_features, num_classes, std=0.02 * 0.001) if num_classes else None

    def _checked_pool(self, global_pool: str) -> str:
        if global_pool == "prr":
            raise ValueError(f"global_pool='prr' is not of models with rotary positions, as {self.name}; choose 'avg'.")
        return super()._checked_pool(global_pool)

    def pool(self, x: Tokens) -> Vectors:
        return super().pool(x) if self.attn_pool is None else self.attn_pool(x)  # of all tokens

    def rope_table(self, grid: Grid, key: PRNGKeyArray | None = None) -> Any:
        """Sines and cosines of the positions of a grid of patches, `(2, patches, head_dim)`.

        float64 of numpy; with a key, where the config says that positions are moved in training, an array of jax.
        """
        cfg = self.config
        dinov3 = cfg.rope_type == "dinov3"
        coords: Any = centred_positions(grid) if dinov3 else scaled_positions(grid, cfg.ref_feat_shape)
        ranges = cfg.rope_shift_coords, cfg.rope_jitter_coords, cfg.rope_rescale_coords
        if key is not None and any(value is not None for value in ranges):
            coords = move_positions(jnp.asarray(coords, self._wide), *self._movement(key))
        turns = 2 * np.pi if dinov3 else 1.0
        head_dim, half = cfg.embed_dim // cfg.num_heads, cfg.rope_rotate_half
        return rotary_table(coords, head_dim, temperature=cfg.rope_temperature, turns=turns, half=half)

    def _movement(self, key: PRNGKeyArray) -> tuple[Any, Any, Any]:
        """What `move_positions` needs, drawn as the config says."""
        cfg = self.config
        spans = cfg.rope_shift_coords or 0.0, np.log(cfg.rope_jitter_coords or 1), np.log(cfg.rope_rescale_coords or 1)
        keys, shapes = jax.random.split(jax.random.fold_in(key, 1), 3), ((2,), (2,), ())
        draw = [jax.random.uniform(k, shape, self._wide, -1, 1) for k, shape in zip(keys, shapes, strict=True)]
        return spans[0] * draw[0], spans[1] * draw[1], spans[2] * draw[2]

    @property
    def _wide(self) -> jnp.dtype:
        return jnp.promote_types(self.dtype, jnp.float32)

    def _rope(self, grid: Grid, key: PRNGKeyArray | None) -> RotaryTable:
        return jnp.asarray(self.rope_table(grid, key), self._wide)

"""Vision transformers with rotary position embedding, as timm's eva.py defines them.

    [1] Fang et al.: EVA-02: A Visual Representation for Neon Genesis. arXiv 2303.11331
    [2] Su et al.: RoFormer. arXiv 2104.09864

They differ from `nfjax.models.vit` in three places: queries and keys of patch tokens turn with their position [2] in
every block, so that there is no learned position embedding; keys have no bias; LayerScale is a parameter of the block.
"""

import dataclasses
from typing import Annotated, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from nfjax.fast import add_bias, scale
from nfjax.models.vit import Tokens, Vectors, VisionTransformer
from nfjax.models.vit_blocks import Block, ViTCfg
from nfjax.nn.attention import Attention
from nfjax.nn.layers import Linear
from nfjax.nn.pos_embed import Grid, RotaryTable, rotary_table
from nfjax.nn.vit_layers import POOLS, Mlp
from nfjax.params import Constant, param, zeros
from port.ranges import Choice, Range, Width


@dataclasses.dataclass(frozen=True)
class EvaCfg(ViTCfg):
    """Architecture of a transformer with rotary positions; beyond `ViTCfg`, arguments of timm's `Eva`."""

    class_token: bool = False
    global_pool: Annotated[str, Choice(POOLS)] = "avg"
    init_values: Annotated[float, Range(-1000, 1000)] | None = 1e-5
    ref_feat_shape: tuple[Width, Width] | None = (16, 16)  # of pre-training: positions of other grids are scaled to it
    # Ratio of the highest to the lowest frequency, roughly.
    rope_temperature: Annotated[float, Range(1e-3, 1e9)] = 10_000.0


class EvaAttention(Attention):
    """Self-attention with rotary positions and no bias on the keys (timm `EvaAttention`)."""

    def __init__(self, cfg: EvaCfg, proj_std: float):
        dim = cfg.embed_dim
        drops = {"attn_drop": cfg.attn_drop_rate, "proj_drop": cfg.proj_drop_rate}
        super().__init__(dim, cfg.num_heads, qkv_bias=False, proj_std=proj_std, **drops)
        self.q_bias = param((dim,), zeros) if cfg.qkv_bias else None
        self.v_bias = param((dim,), zeros) if cfg.qkv_bias else None

    def project(self, x: Tokens) -> list[Tokens]:
        q, k, v = self.qkv.split(x, 3)
        if self.q_bias is None or self.v_bias is None:
            return [q, k, v]
        return [add_bias(q, self.q_bias[...]), k, add_bias(v, self.v_bias[...])]


class EvaBlock(Block):
    """`Block` with rotary positions, whose LayerScale are parameters of its own (timm `EvaBlock`)."""

    def __init__(self, cfg: EvaCfg, index: int, drop_path_rate: float):
        std = 0.02 / (2 * (index + 1)) ** 0.5
        self.drop_path_rate = drop_path_rate
        self.norm1, self.norm2 = cfg.norm(), cfg.norm()
        self.attn = EvaAttention(cfg, std)
        self.mlp = Mlp(cfg.embed_dim, cfg.mlp_hidden, drop=cfg.proj_drop_rate, out_std=std)
        init = None if cfg.init_values is None else Constant(cfg.init_values)
        self.gamma_1 = None if init is None else param((cfg.embed_dim,), init)
        self.gamma_2 = None if init is None else param((cfg.embed_dim,), init)

    def scaled(self, branch: int, y: Tokens) -> Tokens:
        gamma = self.gamma_1 if branch == 1 else self.gamma_2
        return y if gamma is None else scale(y, gamma[...])


class Eva(VisionTransformer):
    """Vision transformer with rotary position embedding ([1]; timm `Eva`); arguments as `VisionTransformer`'s."""

    config: EvaCfg
    timm_names: ClassVar = {"reg_tokens": "num_reg_tokens", "fc_norm": "use_fc_norm"}
    token_std = 0.02
    pools_before_norm = ("avg",)

    def _make_pos_embed(self) -> None:
        return None

    def _make_block(self, index: int, drop_path_rate: float) -> EvaBlock:
        return EvaBlock(self.config, index, drop_path_rate)

    def _make_head(self, num_classes: int) -> Linear | None:
        return Linear(self.num_features, num_classes, std=0.02 * 0.001) if num_classes else None

    def pool(self, x: Tokens) -> Vectors:
        return super().pool(x) if self.attn_pool is None else self.attn_pool(x)  # of all tokens

    def rope_table(self, grid: Grid) -> Float64[np.ndarray, "2 patches head_dim"]:
        """Sines and cosines of the positions of a grid of patches."""
        cfg = self.config
        head_dim = cfg.embed_dim // cfg.num_heads
        return rotary_table(grid, head_dim, temperature=cfg.rope_temperature, reference_grid=cfg.ref_feat_shape)

    def _rope(self, grid: Grid) -> RotaryTable:
        return jnp.asarray(self.rope_table(grid), jnp.promote_types(self.dtype, jnp.float32))

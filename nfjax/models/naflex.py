"""Vision transformers for images of any size and aspect ratio, as timm's naflexvit.py defines them.

    [1] Dehghani et al.: Patch n' Pack: NaViT. arXiv 2307.06304
    [2] Tschannen et al.: SigLIP 2 (NaFlex). arXiv 2502.14786
    [3] Heinrich et al.: RADIOv2.5. arXiv 2412.07679

They differ from `nfjax.models.vit` in what comes before the blocks: each patch goes through a linear layer, and the
position embedding, learned on a grid, is resampled to the grid of each image in every call. So a batch may hold
images of different sizes, as a dictionary of patches of which some are padding (`nfjax.naflex` makes one):

    patches      (batch, count, patch_size * patch_size * in_chans), channels last in a pixel, rows of patches in turn
    patch_coord  (batch, count, 2), whole numbers: row and column of each patch, 0 of padding
    patch_valid  (batch, count), True for patches and False for padding, which comes last
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nfjax.fast import row_major
from nfjax.models.base import Features, Images, Patches, Size
from nfjax.models.calling import anywhere
from nfjax.models.eva import out_std
from nfjax.models.vit import Tokens, Vectors, VisionTransformer
from nfjax.models.vit_blocks import Block, ViTCfg
from nfjax.nn.attention import Attention, attend, attention_weights, merge_heads
from nfjax.nn.layers import Linear, dropout, split_key
from nfjax.nn.pos_embed import Grid, interpolation_weights
from nfjax.nn.vit_layers import POOLS, global_pool_nlc, masked_pool_nlc
from nfjax.params import Normal, param
from port.ranges import Choice, Width

Valid = Bool[Array, "batch tokens"]
Weights = Float[Array, "batch heads tokens tokens"]
# Names of a `VisionTransformer`, and the same parameters here.
PLAIN_VIT = {
    "patch_embed.proj.weight": "embeds.proj.weight",
    "patch_embed.proj.bias": "embeds.proj.bias",
    **{name: f"embeds.{name}" for name in ("cls_token", "reg_token", "pos_embed")},
}
NAFLEX_POOLS = tuple(pool for pool in POOLS if pool not in ("cattokenavg", "prr"))


@dataclasses.dataclass(frozen=True)
class NaFlexVitCfg(ViTCfg):
    """Architecture of a transformer for images of any size; fields are those of timm's `NaFlexVitCfg`."""

    class_token: bool = False
    global_pool: Annotated[str, Choice(NAFLEX_POOLS)] = "map"
    # "factorized": a table for the rows and one for the columns, which are added
    pos_embed: Annotated[str, Choice(("learned", "factorized", "none"))] = "learned"
    pos_embed_grid_size: tuple[Width, Width] = (16, 16)  # on which it is learned
    pos_embed_interp_mode: Annotated[str, Choice(("bicubic", "bilinear"))] = "bicubic"  # "factorized" is bilinear
    pos_embed_ar_preserving: bool = False  # resample to the square around the image's grid, and take a part of that
    pos_embed_antialias: bool = True
    pos_embed_align_corners: bool = False
    dynamic_img_pad: bool = False  # pad images with zeros, below and to the right, to whole patches

    # What `ViTCfg` leaves open and this family does not have, in timm or here: no fields.
    qk_norm: ClassVar[bool] = False  # type: ignore[misc]
    pre_norm: ClassVar[bool] = False  # type: ignore[misc]
    patch_drop_rate: ClassVar[float] = 0.0  # type: ignore[misc]
    no_embed_class: ClassVar[bool] = True  # type: ignore[misc]
    norm_eps: ClassVar[float] = 1e-6  # type: ignore[misc]
    mlp_layer: ClassVar[str] = "mlp"  # type: ignore[misc]
    attn_layer: ClassVar[str] = "attn"  # type: ignore[misc]
    block_fn: ClassVar[str] = "sequential"  # type: ignore[misc]
    dynamic_img_size: ClassVar[bool] = True  # type: ignore[misc]
    pos_embed_interp: ClassVar[str] = ""  # type: ignore[misc]

    def grid(self, size: Size) -> Grid:
        up = self.patch_size - 1 if self.dynamic_img_pad else 0
        return (size[0] + up) // self.patch_size, (size[1] + up) // self.patch_size

    def positions(self, size: Size) -> int:
        rows, columns = self.pos_embed_grid_size
        return {"learned": rows * columns, "factorized": rows + columns, "none": 0}[self.pos_embed]


class NaFlexEmbeds(nnx.Module):
    """Patches as tokens, with their positions (timm `NaFlexEmbeds`)."""

    def __init__(self, cfg: NaFlexVitCfg, in_chans: int, token_std: float):
        dim, (rows, columns) = cfg.embed_dim, cfg.pos_embed_grid_size
        self.cfg = cfg
        self.cls_token = param((1, 1, dim), Normal(token_std)) if cfg.class_token else None
        self.reg_token = param((1, cfg.reg_tokens, dim), Normal(token_std)) if cfg.reg_tokens else None
        if cfg.pos_embed == "learned":
            self.pos_embed = param((1, rows, columns, dim), Normal(0.02))
        if cfg.pos_embed == "factorized":
            self.pos_embed_y = param((1, rows, dim), Normal(0.02))
            self.pos_embed_x = param((1, columns, dim), Normal(0.02))
        self.proj = Linear(cfg.patch_size**2 * in_chans, dim)

    def of_grid(self, grid: Grid, dtype: Any) -> Any:
        """The position embedding of a grid of patches, `(1, rows * columns, dim)`; computed in this dtype."""
        rows, columns = self._weights([jnp.arange(n) for n in grid], [jnp.asarray(n) for n in grid], dtype)
        if self.cfg.pos_embed == "factorized":
            y, x = self._tables(dtype)
            positions = _product(rows, y)[:, None] + _product(columns, x)
        else:
            part = jnp.einsum("Cc,rcd->rCd", columns, self.pos_embed[0].astype(dtype), precision="highest")
            positions = jnp.einsum("Rr,rCd->RCd", rows, part, precision="highest")
        return positions.reshape(1, -1, self.cfg.embed_dim)

    def of_patches(self, coord: Int[Array, "count 2"], dtype: Any) -> Float[Array, "count dim"]:
        """The position embedding of the patches of one image, whose grid ends with the last of them."""
        sides = coord.max(0) + 1
        rows, columns = self._weights([coord[:, 0], coord[:, 1]], [sides[0], sides[1]], dtype)
        if self.cfg.pos_embed == "factorized":
            y, x = self._tables(dtype)
            return _product(rows, y) + _product(columns, x)
        entries = self.pos_embed[...].astype(dtype).reshape(-1, self.cfg.embed_dim)
        return _product((rows[:, :, None] * columns[:, None, :]).reshape(len(coord), -1), entries)

    def _tables(self, dtype: Any) -> tuple[Any, Any]:
        return self.pos_embed_y[0].astype(dtype), self.pos_embed_x[0].astype(dtype)

    def _weights(self, places: Sequence[Any], sides: Sequence[Any], dtype: Any) -> list[Any]:
        """Of the entries of the table, for patches at these rows and columns of a grid: `(count, rows)` and so on."""
        cfg = self.cfg
        options: dict[str, Any] = {
            "mode": cfg.pos_embed_interp_mode,
            "antialias": cfg.pos_embed_antialias,
            "align_corners": cfg.pos_embed_align_corners,
        }
        if cfg.pos_embed == "factorized":
            options = {"mode": "bilinear", "antialias": False, "align_corners": False}
        lengths = sides
        if cfg.pos_embed_ar_preserving:
            own = (sides[0] == cfg.pos_embed_grid_size[0]) & (sides[1] == cfg.pos_embed_grid_size[1])
            as_is = own & (cfg.pos_embed == "learned")  # the table's own grid is not resampled
            lengths = [jnp.where(as_is, side, jnp.maximum(*sides)) for side in sides]
        return [
            interpolation_weights(place, length, old, dtype=dtype, **options)
            for place, length, old in zip(places, lengths, cfg.pos_embed_grid_size, strict=True)
        ]


def _product(weights: Any, entries: Any) -> Any:
    return jnp.matmul(weights, entries, precision="highest")


class MaskedAttention(Attention):
    """`Attention` among the valid tokens, where it is told which they are. What the others get is no use to anyone."""

    def weights(self, x: Tokens, valid: Valid | None = None) -> Weights:
        q, k, _ = self.heads(x, None)
        return attention_weights(q, k, _mask(valid))

    def __call__(self, x: Tokens, valid: Valid | None = None, key: PRNGKeyArray | None = None) -> Tokens:
        attn_key, proj_key = split_key(key, 2)
        y = attend(*self.heads(x, None), mask=_mask(valid), drop_rate=self.attn_drop, key=attn_key)
        return dropout(self.proj(merge_heads(y)), self.proj_drop, proj_key)


def _mask(valid: Valid | None) -> Any:
    """Which queries see which keys: valid ones each other. The others see nothing, and so, as in timm, all alike."""
    return None if valid is None else (valid[:, :, None] & valid[:, None, :])[:, None]


class NaFlexBlock(Block):
    """`Block` with masked attention, whose last layers start smaller the later it comes (timm: `fix_init`)."""

    def __init__(self, cfg: NaFlexVitCfg, index: int, drop_path_rate: float):
        super().__init__(cfg, index, drop_path_rate)
        last: Any = self.mlp.fc2
        last.kernel = param((cfg.mlp_hidden, cfg.embed_dim), Normal(out_std(index)))

    @staticmethod
    def _attention(cfg: ViTCfg, index: int) -> Attention:
        drops: Any = {"attn_drop": cfg.attn_drop_rate, "proj_drop": cfg.proj_drop_rate}
        return MaskedAttention(cfg.embed_dim, cfg.num_heads, qkv_bias=cfg.qkv_bias, proj_std=out_std(index), **drops)


class NaFlexVit(VisionTransformer):
    """Vision transformer for images of any size, and of several in a batch ([1], [2], [3]; timm `NaFlexVit`).

    Arguments as `VisionTransformer`'s. Where images are asked for, it takes a dictionary of patches too (see above);
    `forward_features` then returns a dictionary of the tokens and `patch_valid`, which `forward_head` takes, and what
    are feature maps otherwise are the tokens of the patches, `(batch, count, dim)`.
    """

    config: NaFlexVitCfg
    pools_before_norm = ("avg",)
    patch_keys = ("patches", "patch_coord", "patch_valid")

    def _make_embedding(self) -> None:
        self.embeds = NaFlexEmbeds(self.config, self.in_chans, self.token_std)

    def _make_block(self, index: int, drop_path_rate: float) -> NaFlexBlock:
        return NaFlexBlock(self.config, index, drop_path_rate)

    @anywhere
    def forward_features(self, x: Images, *, key: PRNGKeyArray | None = None) -> Features:
        """The tokens, normalised if the model does that before it pools; of patches a dictionary with `patch_valid`."""
        tokens: Any = super().forward_features(x, key=key)
        return {"patches": tokens, "patch_valid": x["patch_valid"]} if isinstance(x, Mapping) else tokens

    def _embed(self, images: Images, key: PRNGKeyArray | None) -> tuple[Tokens, Any, Any]:
        """The tokens that enter the blocks; the grid of the patches; which tokens are valid, or None for all."""
        # Positions are in float32 at least.
        learned, dtype = self.config.pos_embed != "none", jnp.promote_types(self.dtype, jnp.float32)
        if isinstance(images, Mapping):
            patches, coord, valid = self.check_patches(images)
            grid = patches.shape[1:2]
            # One image after the other: the weights of all at once would be large where the table is.
            positions = jax.lax.map(lambda one: self.embeds.of_patches(one, dtype), coord) if learned else 0.0
            positions = jnp.where(valid[:, :, None], positions, 0)
        else:
            patches, grid = self._patchify(self.check_input(images))
            positions, valid = self.embeds.of_grid(grid, dtype) if learned else jnp.zeros(()), None
        x = self.embeds.proj(patches)
        x = x + positions.astype(x.dtype)
        tokens = [t[...] for t in (self.embeds.cls_token, self.embeds.reg_token) if t is not None]
        prefix = [jnp.broadcast_to(t, (len(x), *t.shape[1:])).astype(x.dtype) for t in tokens]
        x = dropout(row_major(jnp.concatenate([*prefix, x], axis=1)), self.config.pos_drop_rate, key)
        return x, grid, None if valid is None else self._with_prefix(valid)

    def _with_prefix(self, patch_valid: Bool[Array | np.ndarray, "batch count"]) -> Valid:
        """Which tokens are valid: those before the patches always are."""
        return jnp.pad(patch_valid, ((0, 0), (self.num_prefix_tokens, 0)), constant_values=True)

    def _patchify(self, x: Float[Array, "batch height width in_chans"]) -> tuple[Tokens, Grid]:
        """Patches of whole images, and their grid."""
        side, (rows, columns) = self.config.patch_size, self.config.grid((x.shape[1], x.shape[2]))
        missing = [(0, n * side - size) for n, size in zip((rows, columns), x.shape[1:3], strict=True)]
        x = jnp.pad(x, [(0, 0), *missing, (0, 0)])
        x = x.reshape(len(x), rows, side, columns, side, -1).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(len(x), rows * columns, -1), (rows, columns)

    def check_patches(self, given: Patches) -> tuple[Any, Any, Any]:
        """Patches in the compute dtype, coordinates, and which are valid; or a ValueError that says what is wrong."""
        if missing := [name for name in self.patch_keys if name not in given]:
            raise ValueError(f"a dictionary without {', '.join(missing)}; expected {', '.join(self.patch_keys)}.")
        patches, coord, valid = (jnp.asarray(given[name]) for name in self.patch_keys)
        width = self.config.patch_size**2 * self.in_chans
        if patches.ndim == 5:  # (batch, count, height, width, in_chans)
            patches = patches.reshape(*patches.shape[:2], -1)
        if patches.ndim != 3 or patches.shape[2] != width:
            raise ValueError(f"patches of shape {given['patches'].shape}; expected (batch, count, {width}).")
        if coord.shape != (*patches.shape[:2], 2) or valid.shape != patches.shape[:2]:
            raise ValueError(
                f"patch_coord of shape {coord.shape} and patch_valid of shape {valid.shape}; expected "
                f"{(*patches.shape[:2], 2)} and {patches.shape[:2]}, for patches of shape {patches.shape}."
            )
        kinds = (patches, jnp.floating), (coord, jnp.integer), (valid, jnp.bool_)
        for name, (array, kind) in zip(self.patch_keys, kinds, strict=True):
            if not jnp.issubdtype(array.dtype, kind):
                raise ValueError(f"{name} of dtype {array.dtype}; expected {kind.__name__.rstrip('_')}.")
        return patches.astype(self.dtype), coord, valid

    def pool(self, x: Any) -> Vectors:
        """The tokens as the head sees them; of a dictionary, as `forward_features` returns it, the valid ones."""
        if not isinstance(x, Mapping):
            return super().pool(x)
        prefix = 0 if self.config.pool_include_prefix else self.num_prefix_tokens
        tokens, valid = x["patches"], self._with_prefix(x["patch_valid"])[:, prefix:]
        if self.attn_pool is not None:
            return self.attn_pool(tokens[:, prefix:], valid[:, None, None])
        if self.pool_type in ("", "token"):
            return global_pool_nlc(tokens, self.pool_type, prefix)
        return masked_pool_nlc(tokens[:, prefix:], valid, self.pool_type)

    def set_input_size(self, img_size: int | Sequence[int] | None = None, patch_size: int | None = None) -> None:
        raise ValueError(f"{self.name} takes images of any size, of patches of its own: there is nothing to set.")

    @classmethod
    def first_pixels(cls, config: NaFlexVitCfg) -> int:
        return config.patch_size**2

    @classmethod
    def weights_options(cls, config: Any, state: Mapping[str, Any]) -> dict[str, Any]:
        """The final norm is where the weights have it, and their position embedding is learned on a grid of theirs."""
        options = super().weights_options(config, state)
        shapes = [np.shape(state.get(f"embeds.{name}", ())) for name in ("pos_embed", "pos_embed_y", "pos_embed_x")]
        if config.pos_embed == "learned" and len(shapes[0]) == 4:
            options["pos_embed_grid_size"] = shapes[0][1:3]
        if config.pos_embed == "factorized" and len(shapes[1]) == len(shapes[2]) == 3:
            options["pos_embed_grid_size"] = shapes[1][1], shapes[2][1]
        return options

    @classmethod
    def weights_size(cls, config: Any, sizes: Sequence[Size], state: Mapping[str, Any]) -> Size | None:
        return None

    @classmethod
    def own_names(cls, config: Any, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """The weights of a plain vision transformer, for square images, as this family has them (timm
        `checkpoint_filter_fn`); what positions add to the tokens before the patches is a part of these."""
        kernel, entries = (np.asarray(state.get(name, ())) for name in ("patch_embed.proj.weight", "pos_embed"))
        if kernel.ndim != 4 or entries.ndim != 3 or len(entries) != 1:
            return state
        found = {PLAIN_VIT.get(name, name): array for name, array in state.items()}
        found["embeds.proj.weight"] = kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)
        start = 0
        if math.isqrt(entries.shape[1]) ** 2 != entries.shape[1]:
            for name in [name for name in ("embeds.cls_token", "embeds.reg_token") if name in found]:
                end = start + found[name].shape[1]
                found[name], start = found[name] + entries[:, start:end], end
        side = math.isqrt(entries.shape[1] - start)
        if side * side == entries.shape[1] - start:
            found["embeds.pos_embed"] = entries[:, start:].reshape(1, side, side, -1)
        return found

    def model_args(self, own: ViTCfg) -> dict[str, Any]:
        return {name: value for name, value in super().model_args(own).items() if name != "img_size"}

    def _checked_pool(self, global_pool: str) -> str:
        if global_pool not in NAFLEX_POOLS:
            raise ValueError(f"global_pool={global_pool!r} is not one of {', '.join(map(repr, NAFLEX_POOLS))}.")
        return super()._checked_pool(global_pool)

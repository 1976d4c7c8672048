"""Vision transformers with registers, as timm's vision_transformer.py defines them.

    [1] Dosovitskiy et al.: An Image is Worth 16x16 Words. arXiv 2010.11929
    [2] Darcet et al.: Vision Transformers Need Registers. arXiv 2309.16588

The image becomes a grid of patch tokens; a class token [1] and registers [2], both learned, come before them;
blocks of attention and MLP follow (`nfjax.models.vit_blocks`), and the tokens are pooled. Names of modules are timm's,
so that parameter paths mirror timm's state dict.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from nfjax.fast import row_major
from nfjax.models import vit_sizes
from nfjax.models.base import Feature, Features, ImageModel, Images, Size, sides, take_indices
from nfjax.models.calling import anywhere
from nfjax.models.data_config import Chans, Classes, DataConfig
from nfjax.models.options import check_types
from nfjax.models.vit_blocks import BLOCKS, PatchSize, ViTCfg
from nfjax.nn.layers import Linear, dropout, split_key
from nfjax.nn.pos_embed import Grid, RotaryTable, resample_abs_pos_embed
from nfjax.nn.vit_layers import POOLS, AttentionPoolLatent, PatchEmbed, drop_patches, global_pool_nlc, refined_pool
from nfjax.params import Normal, initialize, named_params, param
from port.ranges import Choice, ShareBelow1

Tokens = Float[Array, "batch tokens dim"]
# One vector for each image, or with the pool "" for each token.
Vectors = Float[Array, "batch features"] | Float[Array, "batch tokens features"]
Maps = Float[Array, "batch rows columns dim"]


class VisionTransformer(ImageModel):
    """Vision transformer ([1], [2]; timm `VisionTransformer`). Arguments as `ImageModel`'s, and:

    Args:
        global_pool: one of `nfjax.nn.vit_layers.POOLS`; None for the architecture's own.
        data_config: its `input_size` sets the grid of patches.
    """

    config: ViTCfg
    default_out_indices = 3
    token_std = 1e-6  # of the class token and the registers at first
    # Pools after which the final norm comes, if the config leaves it open.
    pools_before_norm: tuple[str, ...] = ("avg", "max", "avgmax")

    def __init__(
        self,
        config: ViTCfg,
        *,
        num_classes: Classes = 1000,
        in_chans: Chans = 3,
        global_pool: Annotated[str, Choice(POOLS)] | None = None,
        drop_rate: ShareBelow1 = 0.0,
        drop_path_rate: ShareBelow1 = 0.0,
        dtype: Any = jnp.float32,
        data_config: DataConfig = DataConfig(),
    ):
        for option, value, least in (("num_classes", num_classes, 0), ("in_chans", in_chans, 1)):
            if value < least:
                raise ValueError(f"{option}={value}; expected at least {least}.")
        vit_sizes.require_room(config, data_config.input_size[1:])
        dim = config.embed_dim
        self.config, self.data_config = config, data_config
        self.num_classes, self.in_chans, self.output_stride = num_classes, in_chans, config.patch_size
        self.num_features, self.drop_rate, self.dtype = dim, drop_rate, jnp.dtype(dtype)
        self.pool_type = self._checked_pool(config.global_pool if global_pool is None else global_pool)

        self._make_embedding()
        self.norm_pre = config.norm() if config.pre_norm else None
        self.blocks = nnx.List(
            [self._make_block(i, rate) for i, rate in enumerate(np.linspace(0, drop_path_rate, config.depth).tolist())]
        )
        pooled_norm = self.pool_type in self.pools_before_norm if config.fc_norm is None else config.fc_norm
        self.norm = config.norm() if config.final_norm and not pooled_norm else None
        self.attn_pool = (
            AttentionPoolLatent(dim, config.num_heads, hidden=config.mlp_hidden, norm=config.norm())
            if self.pool_type == "map"
            else None
        )
        if pooled_norm and self.pool_type == "cattokenavg":
            raise ValueError("global_pool='cattokenavg' comes after the final norm; leave out fc_norm=True.")
        self.fc_norm = config.norm() if config.final_norm and pooled_norm else None
        self.head = nnx.data(self._make_head(num_classes))  # data even if there is none: one may come later

    def _make_embedding(self) -> None:
        """The layers of what comes before the blocks."""
        cfg, dim, tokens = self.config, self.config.embed_dim, Normal(self.token_std)
        options = {"bias": not cfg.pre_norm, "pad": cfg.dynamic_img_pad}
        self.patch_embed = PatchEmbed(cfg.patch_size, self.in_chans, dim, **options)
        self.cls_token = param((1, 1, dim), tokens) if cfg.class_token else None
        self.reg_token = param((1, cfg.reg_tokens, dim), tokens) if cfg.reg_tokens else None
        self.pos_embed = self._make_pos_embed()

    def _make_pos_embed(self) -> nnx.Param | None:
        prefix = self.config.num_pos_prefix
        return param((1, prefix + self.grid_size[0] * self.grid_size[1], self.config.embed_dim), Normal(0.02))

    def _make_block(self, index: int, drop_path_rate: float) -> Any:
        return BLOCKS[self.config.block_fn](self.config, index, drop_path_rate)

    def _make_head(self, num_classes: int) -> Linear | None:
        return Linear(self.head_hidden_size, num_classes) if num_classes else None

    @property
    def grid_size(self) -> Grid:
        """Rows and columns of patches of an image of the model's own size."""
        return self.config.grid(self.data_config.input_size[1:])

    @property
    def num_prefix_tokens(self) -> int:
        """Class token and registers: the tokens before those of the patches."""
        return self.config.num_prefix_tokens

    @property
    def global_pool(self) -> str:
        return self.pool_type

    @property
    def head_hidden_size(self) -> int:
        return self.num_features * (2 if self.pool_type == "cattokenavg" else 1)

    @anywhere
    def forward_intermediates(
        self,
        x: Images,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        intermediates_only: bool = False,
        return_prefix_tokens: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> Any:
        """The patches that leave the blocks, as maps; features are class token, registers and patches.

        Arguments as `ImageModel`'s; `return_prefix_tokens` makes pairs of a map and its prefix tokens
        `(batch, prefix, dim)`.
        """
        taken = take_indices(len(self.blocks), indices, least=int(intermediates_only))
        if taken and key is not None and self.config.patch_drop_rate:
            rate = self.config.patch_drop_rate
            raise ValueError(f"training with patch_drop_rate={rate} leaves no maps; load with 0, or leave out key=.")
        embed_key, *keys = split_key(key, 1 + len(self.blocks))
        tokens, grid, rope = self._embed(x, embed_key)
        outputs = []
        for i in range(max(taken) + 1 if intermediates_only else len(self.blocks)):
            block = self.blocks[i]
            tokens = (jax.checkpoint(block) if self.grad_checkpointing else block)(tokens, rope, keys[i])
            if i in taken:
                outputs.append(self._norm(tokens) if norm else tokens)

        prefix = self.num_prefix_tokens
        maps: list[Any] = [y[:, prefix:].reshape(y.shape[0], *grid, y.shape[2]) for y in outputs]
        if return_prefix_tokens:
            maps = [(spatial, y[:, :prefix]) for spatial, y in zip(maps, outputs, strict=True)]
        return maps if intermediates_only else (self._norm(tokens), maps)

    def get_intermediate_layers(
        self,
        x: Images,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> list[Any]:
        """The patches that leave blocks, the last `n` or those at the positions `n`: `(batch, patches, dim)` each, or
        with `reshape` maps. By timm's and DINO's name, what `forward_intermediates` says of the other arguments."""
        options: dict[str, Any] = {"norm": norm, "return_prefix_tokens": return_prefix_tokens, "key": key}
        maps = self.forward_intermediates(x, n, intermediates_only=True, **options)
        if reshape:
            return maps

        def flat(grid: Maps) -> Tokens:
            return grid.reshape(grid.shape[0], grid.shape[1] * grid.shape[2], grid.shape[3])

        return [(flat(one[0]), one[1]) if return_prefix_tokens else flat(one) for one in maps]

    @anywhere
    def attention_maps(
        self, x: Images, indices: int | Sequence[int] | None = None
    ) -> list[Float[Array, "batch heads tokens tokens"]]:
        """Who attends to whom: the attention weights of blocks, chosen as in `forward_intermediates`, evaluated.

        In the order of the network; `[b, h, i, j]` is what token i takes from token j. Rows sum to 1; with differential
        attention they are differences, and can be negative.
        """
        taken = take_indices(len(self.blocks), indices)
        tokens, _, rope = self._embed(x, None)
        maps = []
        for i in range(max(taken) + 1):
            if i in taken:
                maps.append(self.blocks[i].attention_map(tokens, rope))
            tokens = self.blocks[i](tokens, rope)  # for the next one
        return maps

    def _embed(self, images: Images, key: PRNGKeyArray | None) -> tuple[Tokens, Grid, RotaryTable | None]:
        """The tokens that enter the blocks, the grid of the patches, and the table of rotary positions."""
        x = self.patch_embed(self.check_input(images))
        batch, rows, cols, dim = x.shape
        grid = rows, cols
        x = x.reshape(batch, rows * cols, dim)
        # Repeated for the batch before they are cast, so that their gradients are not summed in half precision.
        tokens = [t[...] for t in (self.cls_token, self.reg_token) if t is not None]
        prefix = [jnp.broadcast_to(t, (batch, *t.shape[1:])).astype(x.dtype) for t in tokens]
        pos_embed: Any = 0.0
        if self.pos_embed is not None:
            entries = self.pos_embed[...]
            pos_embed = resample_abs_pos_embed(entries, grid, self.grid_size, self.config.num_pos_prefix)
            pos_embed = jnp.broadcast_to(pos_embed, (batch, *pos_embed.shape[1:])).astype(x.dtype)
        if self.config.no_embed_class:
            x = jnp.concatenate([*prefix, x + pos_embed], axis=1)
        else:
            x = jnp.concatenate([*prefix, x], axis=1) + pos_embed
        x, rope = dropout(row_major(x), self.config.pos_drop_rate, key), self._rope(grid, key)
        drop_key = None if key is None else jax.random.fold_in(key, 2)
        x, rope = drop_patches(x, rope, self.num_prefix_tokens, self.config.patch_drop_rate, drop_key)
        return x if self.norm_pre is None else self.norm_pre(x), grid, rope

    def _rope(self, grid: Grid, key: PRNGKeyArray | None) -> RotaryTable | None:
        return None

    def _norm(self, x: Tokens) -> Tokens:
        return x if self.norm is None else self.norm(x)

    def pool(self, x: Any) -> Vectors:
        """The tokens as the head sees them, by the model's `global_pool`."""
        if self.pool_type == "prr":
            return refined_pool(x, self.num_features // self.config.num_heads, token=self.config.class_token)
        prefix = 0 if self.config.pool_include_prefix else self.num_prefix_tokens
        return global_pool_nlc(x, self.pool_type, prefix) if self.attn_pool is None else self.attn_pool(x[:, prefix:])

    @anywhere
    def forward_head(self, features: Features, *, pre_logits: bool = False, key: PRNGKeyArray | None = None) -> Vectors:
        """Logits of what `forward_features` returns; with `pre_logits`, the pooled features."""
        x = self.pool(features)
        x = dropout(x if self.fc_norm is None else self.fc_norm(x), self.drop_rate, key)
        if pre_logits or self.head is None:
            return x
        return self.head(x.astype(jnp.promote_types(x.dtype, jnp.float32)))

    def feature_taps(self) -> list[Feature]:
        size = self.config.patch_size
        return [Feature(self.num_features, size, f"blocks.{i}", i) for i in range(len(self.blocks))]

    def get_classifier(self) -> Any:
        return self.head

    def set_input_size(self, img_size: int | Sequence[int] | None = None, patch_size: int | None = None) -> None:
        """Make this, in place, a model for images of another size, by timm's name and with its arithmetic.

        Args:
            img_size: height and width, or one number for both; None to keep them. The position embedding is resampled.
            patch_size: side of the patches; None to keep it. Their kernel is resampled (`resample_patch_embed`).

        Raises:
            ValueError: there is no room for a patch, or it is no size.
        """
        kinds: dict[str, Any] = {"img_size": int | Sequence[int] | None, "patch_size": PatchSize | None}
        check_types({"img_size": img_size, "patch_size": patch_size}, kinds)
        size = self.data_config.input_size[1:] if img_size is None else sides(img_size)
        config = dataclasses.replace(self.config, patch_size=patch_size or self.config.patch_size)
        vit_sizes.require_room(config, size)
        old_grid = self.grid_size
        if config.patch_size != self.config.patch_size:
            self.patch_embed.set_patch_size(config.patch_size)
        self.config, self.output_stride = config, config.patch_size
        self.data_config = dataclasses.replace(self.data_config, input_size=(self.data_config.input_size[0], *size))
        if self.pos_embed is not None:
            grids, prefix = (self.grid_size, old_grid), self.config.num_pos_prefix
            self.pos_embed.set_value(resample_abs_pos_embed(self.pos_embed[...], *grids, prefix))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, *, seed: int = 0) -> None:
        """As `ImageModel`'s; the final norm stays where it is, and the pooling "map" cannot be added."""
        if global_pool is not None and global_pool != self.pool_type:
            if global_pool == "map":
                raise ValueError("attention pooling cannot be added to a model; load it with global_pool='map'.")
            self.pool_type, self.attn_pool = self._checked_pool(global_pool), None
        self.head, self.num_classes = self._make_head(num_classes), num_classes
        fresh = {} if self.head is None else named_params(self.head)
        initialize({f"head/{path}": var for path, var in fresh.items()}, seed, self.param_dtype)

    def _checked_pool(self, global_pool: str) -> str:
        if global_pool not in POOLS:
            raise ValueError(f"global_pool={global_pool!r} is not known; choose one of {', '.join(map(repr, POOLS))}.")
        if global_pool in ("token", "cattokenavg") and not self.config.class_token:
            raise ValueError(
                f"global_pool={global_pool!r} needs a class token, and {self.name} has none; choose 'avg'."
            )
        return global_pool

    def prune(self, out_indices: int | Sequence[int]) -> None:
        """Return the maps `out_indices` from now on, and drop the layers that they do not need."""
        taken = take_indices(len(self.blocks), out_indices)
        self.reset_classifier(0, "")
        self.norm = self.fc_norm = None
        self.blocks = nnx.List(list(self.blocks)[: max(taken) + 1])
        self.out_indices = tuple(taken)

    @classmethod
    def weights_options(cls, config: ViTCfg, state: Mapping[str, Any]) -> dict[str, Any]:
        """The final norm is where the weights have it, whatever pooling was asked for; and a classifier twice as wide
        as the tokens sees class token and average patch."""
        found = [name for name in ("norm", "fc_norm") if f"{name}.weight" in state]
        options: dict[str, Any] = {"fc_norm": found == ["fc_norm"]} if len(found) == 1 else {}
        head, patches = (np.shape(state.get(f"{name}.weight", ())) for name in ("head", "patch_embed.proj"))
        if patches and head[1:] == (2 * patches[0],):
            options["global_pool"] = "cattokenavg"
        return options

    @classmethod
    def weights_size(cls, config: ViTCfg, sizes: Sequence[Size], state: Mapping[str, Any]) -> Size | None:
        """Height and width of the images that the position embedding is made for."""
        return vit_sizes.of_weights(config, sizes, state.get("pos_embed"))

    def adapt_size(self, state: Mapping[str, Any], size: Size) -> Mapping[str, Any]:
        """Resample the position embedding to this model's grid (timm `checkpoint_filter_fn`)."""
        grids, cfg = (self.grid_size, self.config.grid(size)), self.config
        resampled = resample_abs_pos_embed(state["pos_embed"], *grids, cfg.num_pos_prefix, cfg.pos_embed_interp)
        return {**state, "pos_embed": np.asarray(resampled)}

    def model_args(self, own: ViTCfg) -> dict[str, Any]:
        changed = super().model_args(own) | {"global_pool": self.pool_type, "fc_norm": self.fc_norm is not None}
        chosen = self.pool_type in self.pools_before_norm if own.fc_norm is None else own.fc_norm
        defaults = {"global_pool": own.global_pool, "fc_norm": chosen, "output_stride": self.output_stride}
        args = {name: value for name, value in changed.items() if name not in defaults or value != defaults[name]}
        # timm reads the size from the data config too, but only where that says that the size is fixed.
        args["img_size"] = self.data_config.input_size[1:]
        return {self.timm_names.get(name, name): value for name, value in args.items()}

    def check_input(self, x: Images) -> Float[Array, "batch height width in_chans"]:
        checked = super().check_input(x)
        vit_sizes.require_own(
            self.config, self.name, self.data_config.input_size[1:], (checked.shape[1], checked.shape[2])
        )
        return checked

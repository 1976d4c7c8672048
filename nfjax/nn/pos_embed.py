"""Where a token is: learned position embeddings of any grid, and rotary ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

Grid = tuple[int, int]  # rows and columns of patches
RotaryTable = Float[Array, "2 patches head_dim"]  # sines, then cosines


def resample_abs_pos_embed(
    pos_embed: Any, new_grid: Grid, old_grid: Grid, num_prefix_tokens: int
) -> Float[Array, "1 positions dim"]:
    """A learned position embedding for another grid of patches (timm `resample_abs_pos_embed`).

    Bicubic with antialiasing, in float32; the result has the dtype of `pos_embed`, an array
    `(1, num_prefix_tokens + old_h * old_w, dim)`, whose entries of prefix tokens are kept as they are.
    """
    pos_embed = jnp.asarray(pos_embed)
    if new_grid == old_grid:
        return pos_embed
    prefix, patches = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    dim = pos_embed.shape[-1]
    grid = patches.reshape(1, *old_grid, dim).astype(jnp.float32)
    grid = jax.image.resize(grid, (1, *new_grid, dim), "bicubic", antialias=True)
    return jnp.concatenate([prefix, grid.reshape(1, -1, dim).astype(pos_embed.dtype)], axis=1)


def rotary_table(
    grid: Grid, head_dim: int, *, temperature: float, reference_grid: Grid | None
) -> Float64[np.ndarray, "2 patches {head_dim}"]:
    """Sines and cosines of axial rotary position embedding (2104.09864; timm `RotaryEmbeddingCat`).

    The first half of a head turns with the row, the second with the column, in interleaved pairs, at
    `head_dim / 4` frequencies per axis. Positions are scaled to the reference grid, the one of pre-training.
    The sines come first.
    """
    bands = temperature ** -(np.arange(head_dim // 4) / (head_dim // 4))
    reference = grid if reference_grid is None else reference_grid
    rows, cols = (np.arange(n) * (r / n) for n, r in zip(grid, reference, strict=True))
    turns = rows[:, None, None] * bands, cols[None, :, None] * bands
    angles = np.concatenate([np.broadcast_to(turn, (*grid, len(bands))) for turn in turns], axis=-1)
    pairs = np.repeat(angles.reshape(grid[0] * grid[1], -1), 2, axis=-1)
    return np.stack([np.sin(pairs), np.cos(pairs)])


def rotate(
    x: Float[Array, "batch tokens heads head_dim"], table: RotaryTable
) -> Float[Array, "batch tokens heads head_dim"]:
    """Turn the patch tokens of queries or keys by their position; prefix tokens, which come first, stay as they are."""
    sin, cos = table[0][:, None], table[1][:, None]
    prefix, patches = x[:, : x.shape[1] - sin.shape[0]], x[:, x.shape[1] - sin.shape[0] :]
    quarter_turn = jnp.stack([-patches[..., 1::2], patches[..., ::2]], axis=-1).reshape(patches.shape)
    turned = (patches * cos + quarter_turn * sin).astype(x.dtype)
    return jnp.concatenate([prefix, turned], axis=1)

"""Where a token is: learned position embeddings of any grid, and rotary ones."""

from typing import Any

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
    rows, columns = map(_bicubic, new_grid, old_grid)
    grid = jnp.einsum("Cc,nrcd->nrCd", columns, grid, precision="highest")
    grid = jnp.einsum("Rr,nrCd->nRCd", rows, grid, precision="highest")
    return jnp.concatenate([prefix, grid.reshape(1, -1, dim).astype(pos_embed.dtype)], axis=1)


def _bicubic(new: int, old: int) -> Float[np.ndarray, "new old"]:
    """Weights of the old places for each new one, with antialiasing: torch's to the bit (aten `UpSampleKernel`).

    Rounded in other ways they would differ from torch's by as much as both do from the exact ones. A product and a sum
    are rounded to float32 once, as in torch's fused instructions.
    """

    def rounded(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float32).astype(np.float64)

    scale = np.float64(np.float32(old) / np.float32(new))
    stretch = max(scale, 1.0)
    centre = rounded(scale * (np.arange(new) + 0.5))[:, None]
    place = np.arange(old)
    first, end = (rounded(centre + side * 2 * stretch) + 0.5 for side in (-1, 1))
    x = np.abs(rounded((rounded(place - centre) + 0.5) * np.float32(1 / stretch)))
    inner = rounded(rounded(rounded(1.5 * x - 2.5) * x) * x + 1)  # Keys' cubic convolution, a = -1/2
    outer = rounded(rounded(rounded(-0.5 * x + 2.5) * x - 4) * x + 2)
    near = (place >= first.astype(int)) & (place < end.astype(int)) & (x < 2)
    weights = np.where(near, np.where(x < 1, inner, outer), 0).astype(np.float32)
    return weights / weights.cumsum(axis=1)[:, -1:]


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

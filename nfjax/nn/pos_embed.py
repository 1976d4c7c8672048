"""Where a token is: learned position embeddings of any grid, and rotary ones."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

Grid = tuple[int, int]  # rows and columns of patches
# Sines, then cosines; `batch` where training leaves out other patches of each image.
RotaryTable = Float[Array, "2 patches head_dim"] | Float[Array, "2 batch patches head_dim"]
Coords = Float64[np.ndarray, "patches 2"]  # of patches, row and column


def resample_abs_pos_embed(
    pos_embed: Any, new_grid: Grid, old_grid: Grid, num_prefix_tokens: int, interpolation: str = "bicubic"
) -> Float[Array, "1 positions dim"]:
    """A learned position embedding for another grid of patches (timm `resample_abs_pos_embed`).

    By one of `INTERPOLATIONS`, in float32; the result has the dtype of `pos_embed`, an array
    `(1, num_prefix_tokens + old_h * old_w, dim)`, whose entries of prefix tokens are kept as they are.
    """
    pos_embed = jnp.asarray(pos_embed)
    if new_grid == old_grid:
        return pos_embed
    prefix, patches = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    dim = pos_embed.shape[-1]
    grid = patches.reshape(1, *old_grid, dim).astype(jnp.float32)
    rows, columns = map(INTERPOLATIONS[interpolation], new_grid, old_grid)
    grid = jnp.einsum("Cc,nrcd->nrCd", columns, grid, precision="highest")
    grid = jnp.einsum("Rr,nrCd->nRCd", rows, grid, precision="highest")
    return jnp.concatenate([prefix, grid.reshape(1, -1, dim).astype(pos_embed.dtype)], axis=1)


def resample_patch_embed(kernel: Any, patch_size: int) -> Float[Array, "side side in_chans dim"]:
    """The kernel of patches of another side (2212.08013; timm `resample_patch_embed`).

    On an image that is resized as much it gives, as nearly as there is such a kernel, what it gave on the image itself:
    the pseudoinverse of resizing. In float32; the result has the dtype of `kernel`, `(side, side, in_chans, dim)`.
    """
    kernel = jnp.asarray(kernel)
    back = np.linalg.pinv(_bicubic(patch_size, kernel.shape[0])).astype(np.float32)  # of one axis, for each of the two
    resampled = jnp.einsum("rR,cC,rcio->RCio", back, back, kernel.astype(jnp.float32), precision="highest")
    return resampled.astype(kernel.dtype)


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


def _bilinear(new: int, old: int) -> Float[np.ndarray, "new old"]:
    """Weights of the old places for each new one, without antialiasing."""
    step = np.float32(old) / np.float32(new)  # float32 as in torch, whose places are those of the pixels' centres
    return _between(np.clip(step * (np.arange(new, dtype=np.float32) + 0.5) - 0.5, 0, old - 1), old)


def _bilinear_corners(new: int, old: int) -> Float[np.ndarray, "new old"]:
    """The same where the first and the last places are those of before (torch: `align_corners=True`)."""
    step = np.float32(old - 1) / np.float32(max(new - 1, 1))
    return _between(step * np.arange(new, dtype=np.float32), old)


def _between(places: np.ndarray, old: int) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old, dtype=np.float32)))


# "bicubic" has antialiasing.
INTERPOLATIONS = {"bicubic": _bicubic, "bilinear": _bilinear, "bilinear_corners": _bilinear_corners}


def interpolation_weights(
    place: Any, new: Any, old: int, *, mode: str, antialias: bool, align_corners: bool, dtype: Any
) -> Float[Array, "*places old"]:
    """How much each of `old` entries has in those at `place` among `new` (torch `interpolate`).

    `place` and `new` are whole numbers, or arrays of them, which may be traced: each place can be of a grid of its own.

    Args:
        place: from 0 to `new - 1`.
        new: how many there will be.
        old: how many there are.
        mode: "bilinear" or "bicubic".
        antialias: whether the filter is as wide as the new spacing, where that is wider than the old.
        align_corners: whether first and last entries keep their places.
        dtype: to compute in.
    """
    place, new = (jnp.asarray(n, dtype)[..., None] for n in (place, new))
    entries = jnp.arange(old, dtype=dtype)
    step = jnp.where(new > 1, (old - 1) / jnp.maximum(new - 1, 1), 0) if align_corners else old / new
    centre = step * place if align_corners and not antialias else step * (place + 0.5) - 0.5
    if antialias:
        x = jnp.abs(entries - centre) / jnp.maximum(step, 1)
        weights = jnp.maximum(0, 1 - x) if mode == "bilinear" else _cubic(x, -0.5)
        return weights / weights.sum(-1, keepdims=True)
    if mode == "bilinear":
        return jnp.maximum(0, 1 - jnp.abs(jnp.clip(centre, 0, old - 1) - entries))
    first = jnp.floor(centre)
    near = [(_cubic(jnp.abs(centre - first - i), -0.75), first + i) for i in (-1, 0, 1, 2)]
    return sum(weight * (entries == jnp.clip(entry, 0, old - 1)) for weight, entry in near)


def _cubic(x: Any, a: float) -> Any:
    """Keys' cubic convolution, at distances from 0."""
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = a * (((x - 5) * x + 8) * x - 4)
    return jnp.where(x < 1, inner, jnp.where(x < 2, outer, 0))


def scaled_positions(grid: Grid, reference: Grid | None) -> Coords:
    """Row and column of each patch, from 0, scaled to a reference grid, the one of pre-training (timm: "cat")."""
    reference = grid if reference is None else reference
    return _pairs(*(np.arange(n) * (r / n) for n, r in zip(grid, reference, strict=True)))


def centred_positions(grid: Grid) -> Coords:
    """The centre of each patch, from -1 to 1 on both axes of the image (2508.10104; timm: "dinov3")."""
    return _pairs(*(2 * (np.arange(n) + 0.5) / n - 1 for n in grid))


def _pairs(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    return np.stack([part.reshape(-1) for part in np.meshgrid(rows, cols, indexing="ij")], axis=-1)


def move_positions(coords: Any, shift: Any, jitter: Any, rescale: Any) -> Any:
    """Positions as training sees them (timm `_apply_coord_augs`).

    Args:
        coords: `(patches, 2)`, from `centred_positions`.
        shift: `(2,)`, added to rows and columns.
        jitter: `(2,)`, logarithms of their factors.
        rescale: the logarithm of a factor of both.
    """
    return (coords + shift) * jnp.exp(jitter) * jnp.exp(rescale)


def rotary_table(coords: Any, head_dim: int, *, temperature: float, turns: float = 1.0, half: bool = False) -> Any:
    """Sines and cosines of axial rotary position embedding (2104.09864; timm `RotaryEmbeddingCat`, `...DinoV3`).

    One half of the angles of a head is by the row, the other by the column, at `head_dim / 4` frequencies each.

    Args:
        coords: `(patches, 2)`; numpy's, or jax's for positions that are drawn.
        head_dim: channels of a head.
        temperature: ratio of the highest to the lowest frequency, roughly.
        turns: factor of all angles.
        half: whether channels i and i + head_dim / 2 turn together, not neighbours; see `rotate`.

    Returns:
        Array `(2, patches, head_dim)`, float64 of numpy's coordinates; the sines come first.
    """
    xp = np if isinstance(coords, np.ndarray) else jnp
    bands = turns * temperature ** -(np.arange(head_dim // 4) / (head_dim // 4))
    angles = (coords[:, :, None] * xp.asarray(bands, coords.dtype)).reshape(len(coords), -1)
    pairs = xp.concatenate([angles, angles], axis=-1) if half else xp.repeat(angles, 2, axis=-1)
    return xp.stack([xp.sin(pairs), xp.cos(pairs)])


def rotate(
    x: Float[Array, "batch tokens heads head_dim"], table: RotaryTable, *, half: bool = False
) -> Float[Array, "batch tokens heads head_dim"]:
    """Turn the patch tokens of queries or keys by their position; prefix tokens, which come first, stay as they are.

    Neighbouring channels turn together, or with `half` a channel of the first half with one of the second.
    """
    sin, cos = table[0][..., None, :], table[1][..., None, :]
    prefix, patches = jnp.split(x, [x.shape[1] - sin.shape[-3]], axis=1)
    if half:
        first, second = jnp.split(patches, 2, axis=-1)
        quarter_turn = jnp.concatenate([-second, first], axis=-1)
    else:
        quarter_turn = jnp.stack([-patches[..., 1::2], patches[..., ::2]], axis=-1).reshape(patches.shape)
    turned = (patches * cos + quarter_turn * sin).astype(x.dtype)
    return jnp.concatenate([prefix, turned], axis=1)

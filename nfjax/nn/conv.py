"""The one convolution of the project: padding, grouping and the 1x1 case are decided here and nowhere else."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nfjax.fast.backend import matmul, spread_rows

Padding = Literal["symmetric", "same", "valid"]

# XLA runs a grouped convolution (`feature_group_count`) slowly on CPU (measured: 4x forward, up to 400x in
# the weight gradient) and all-gathers the batch when it is sharded. So groups become separate dense
# convolutions, at most this many: beyond it neighbouring groups are packed into one block-diagonal kernel,
# which costs arithmetic but keeps the compiled program small (66 groups: 0.9 s to compile instead of 3.4 s).
MAX_CONVOLUTIONS = 8

# Winograd's F(2x2, 3x3) (Lavin, Gray, arXiv 1509.09308, section 4.1): 16 products for 4 outputs instead of 36.
# Rows of B' make the 4x4 tile, those of G the kernel, those of A' the 2x2 outputs. F(4x4, 3x3) was no
# faster on any map from 7x7 to 112x112 (0.96 to 1.5 of the time), and its error is 7 times as large (6e-6).
TILE = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
TAPS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
OUTPUTS = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
# XLA's CPU backend computes many small products of one operation on one core, but two such operations at a time.
WINOGRAD_PARTS = 2


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: Padding = "symmetric",
) -> jax.Array:
    """2-D convolution of NHWC images, equal to torch's `conv2d` under timm's padding rules.

    Args:
        x: array of shape `(batch, height, width, in_channels)`.
        kernel: array of shape `(kernel_h, kernel_w, in_channels // groups, out_channels)`, same dtype as `x`.
        bias: array of shape `(out_channels,)`, of any dtype, or None.
        stride: step in both directions.
        dilation: distance between the kernel's taps in both directions.
        groups: number of channel groups that do not see each other.
        padding: "symmetric" pads both sides by `((stride - 1) + dilation * (kernel - 1)) // 2`
            (timm's `get_padding`); "same" is TensorFlow's SAME (timm's `pad_same`), which differs from it
            whenever the stride is 2; "valid" pads nothing.

    Returns:
        Array of shape `(batch, out_height, out_width, out_channels)` in the dtype of `x`.
    """
    if groups > 1:
        x_parts, kernel_parts = _split_groups(x, kernel, groups)
        parts = [_dense(a, b, stride, dilation, padding) for a, b in zip(x_parts, kernel_parts, strict=True)]
        y = jnp.concatenate(parts, axis=-1)
    else:
        y = _dense(x, kernel, stride, dilation, padding)
    return y if bias is None else y + spread_rows(bias, y)


def _dense(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: Padding) -> jax.Array:
    height, width = kernel.shape[:2]
    # Windows that do not overlap make a matrix product: about twice as fast as the convolution on CPU.
    if height == width == stride == 1:
        return matmul(x, kernel[0, 0])
    if height == width == stride and padding == "valid":
        batch, rows, cols, chans = x.shape[0], x.shape[1] // stride, x.shape[2] // stride, x.shape[3]
        patches = x[:, : rows * stride, : cols * stride].reshape(batch, rows, stride, cols, stride, chans)
        patches = patches.swapaxes(2, 3).reshape(batch, rows, cols, stride * stride * chans)
        return matmul(patches, kernel.reshape(-1, kernel.shape[3]))
    pads: str | list[tuple[int, int]] = padding.upper()
    if padding == "symmetric":
        pads = [(p, p) for p in (((stride - 1) + dilation * (k - 1)) // 2 for k in (height, width))]
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _split_groups(x: jax.Array, kernel: jax.Array, groups: int) -> tuple[list[jax.Array], list[jax.Array]]:
    """Inputs and kernels of the dense convolutions that together make the grouped one."""
    pack = next(p for p in range(1, groups + 1) if groups % p == 0 and groups // p <= MAX_CONVOLUTIONS)
    if pack > 1:
        height, width, fan_in, out = kernel.shape
        blocks = kernel.reshape(height, width, fan_in, groups // pack, pack, out // groups)
        # [.., q, i, g, p, o]: input channel i of member q reaches output o of member p only where p == q.
        diagonal = jnp.einsum("hwigpo,pq->hwqigpo", blocks, jnp.eye(pack, dtype=kernel.dtype))
        kernel = diagonal.reshape(height, width, pack * fan_in, out)
    return jnp.split(x, groups // pack, axis=-1), jnp.split(kernel, groups // pack, axis=-1)


def winograd_kernel(kernel: jax.Array, groups: int) -> list[jax.Array]:
    """A 3x3 kernel `(3, 3, in_channels // groups, out_channels)` as `winograd` wants it.

    Returns:
        Two arrays of shape `(8, groups, in_channels // groups, out_channels // groups)`.
    """
    fan_in, out = kernel.shape[2:]
    tiles = jnp.einsum("ia,jb,abcgo->ijgco", TAPS, TAPS, kernel.reshape(3, 3, fan_in, groups, out // groups))
    return jnp.split(tiles.reshape(16, groups, fan_in, out // groups).astype(kernel.dtype), WINOGRAD_PARTS)


def winograd(x: jax.Array, kernels: Sequence[jax.Array], bias: jax.Array) -> jax.Array:
    """`conv2d` of a 3x3 kernel with stride 1, symmetric padding: fewer multiplications, and a little more rounding.

    Pays on a CPU from about 64 channels in a group, if the kernel has been transformed beforehand. The error is 1e-6 of
    the largest output in float32.

    Args:
        x: array of shape `(batch, height, width, in_channels)`.
        kernels: from `winograd_kernel`.
        bias: array of shape `(out_channels,)`.

    Returns:
        Array of shape `(batch, height, width, out_channels)`.
    """
    batch, height, width, _ = x.shape
    count, groups, fan_in, out = kernels[0].shape
    high, wide = -(-height // 2), -(-width // 2)  # tiles, which overlap by half
    # Zeros with x put in: what computes x would be slow as part of `jnp.pad`, which asks for every element where it is.
    padded = jnp.zeros((batch, 2 * high + 2, 2 * wide + 2, x.shape[3]), x.dtype)
    x = padded.at[:, 1 : height + 1, 1 : width + 1].set(x)
    rows = _combine(TILE, [x[:, i : i + 2 * high - 1 : 2] for i in range(4)])
    tiles = [t for r in rows for t in _combine(TILE, [r[:, :, j : j + 2 * wide - 1 : 2] for j in range(4)])]
    products: list[jax.Array] = []  # the four rows of the tiles
    for i, kernel in enumerate(kernels):
        part = jnp.stack(tiles[i * count : (i + 1) * count]).reshape(count, batch * high * wide, groups, fan_in)
        part = jnp.einsum("ktgi,kgio->kgto", part, kernel)
        products += list(part.reshape(count // 4, 4, groups, batch, high, wide, out))
    y = jnp.stack([jnp.stack(_combine(OUTPUTS, list(row))) for row in _combine(OUTPUTS, products)])
    y = y.transpose(3, 4, 0, 5, 1, 2, 6).reshape(batch, 2 * high, 2 * wide, groups * out)
    return y[:, :height, :width] + bias


def _combine(matrix: np.ndarray, terms: list[jax.Array]) -> list[jax.Array]:
    """Sums of the terms with the factors 1, 0 and -1 in each row; faster than a product with the matrix."""
    sums = []
    for row in matrix:
        added = [term if factor > 0 else -term for factor, term in zip(row, terms, strict=True) if factor]
        sums.append(sum(added[1:], start=added[0]))
    return sums

"""Winograd's F(2x2, 3x3) (Lavin, Gray, arXiv 1509.09308, section 4.1): 16 products for 4 outputs instead of 36.

Pays on a CPU, if the kernel has been transformed beforehand. F(4x4, 3x3) was no faster on any map from 7x7 to 112x112
(0.96 to 1.5 of the time), and its error is 7 times as large (6e-6).
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from nfjax.fast.operation import operation
from nfjax.params import Value

CHANNELS = 64  # in a group, from which on the products are large enough to pay for the transforms
# Rows of B' make the 4x4 tile, those of G the kernel, those of A' the 2x2 outputs; UNTAPS undoes G.
TILE = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
TAPS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
OUTPUTS = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
UNTAPS = np.array([[1, 0, 0, 0], [0, 1, -1, 0], [0, 0, 0, 1]])
# XLA's CPU backend computes many small products of one operation on one core, but two such operations at a time.
PARTS = 2

Images = Float[Array, "batch height width in_channels"]
Kernels = Sequence[Float[Array, "8 groups fan_in fan_out"]]
Bias = Float[Array, " out_channels"]


class WinogradConv(nnx.Module):
    """A 3x3 convolution with stride 1 and symmetric padding, whose kernel has been transformed."""

    def __init__(self, kernel: Float[Value, "3 3 fan_in out_channels"], bias: Bias, groups: int):
        fan_in, out = kernel.shape[2:]
        grouped = kernel.reshape(3, 3, fan_in, groups, out // groups)
        tiles = jnp.einsum("ia,jb,abcgo->ijgco", TAPS, TAPS, grouped).reshape(16, groups, fan_in, out // groups)
        self.kernels = nnx.List([nnx.Param(part) for part in jnp.split(tiles.astype(kernel.dtype), PARTS)])
        self.bias = nnx.Param(bias)

    def __call__(self, x: Images) -> Float[Array, "batch height width out_channels"]:
        return winograd(x, [part[...] for part in self.kernels], self.bias[...])


@operation
def winograd(x: Images, kernels: Kernels, bias: Bias) -> Float[Array, "batch height width out_channels"]:
    """The convolution of a 3x3 kernel, given as `WinogradConv` keeps it; its error is 1e-6 of the largest output."""
    groups, fan_in = kernels[0].shape[1:3]
    tiles = jnp.concatenate(kernels).reshape(4, 4, groups, fan_in, -1)
    kernel = jnp.einsum("ai,bj,ijgco->abcgo", UNTAPS, UNTAPS, tiles).reshape(3, 3, fan_in, -1).astype(x.dtype)
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", None, None, layout, groups) + bias


@winograd.faster
def _winograd(x: Images, kernels: Kernels, bias: Bias) -> Float[Array, "batch height width out_channels"]:
    batch, height, width, _ = x.shape
    count, groups, fan_in, out = kernels[0].shape
    high, wide = -(-height // 2), -(-width // 2)  # tiles, which overlap by half
    # Zeros with x put in: what computes x would be slow as part of `jnp.pad`, which asks for every element where it is.
    padded = jnp.zeros((batch, 2 * high + 2, 2 * wide + 2, x.shape[3]), x.dtype)
    x = padded.at[:, 1 : height + 1, 1 : width + 1].set(x)
    rows = _combine(TILE, [x[:, i : i + 2 * high - 1 : 2] for i in range(4)])
    tiles = [t for r in rows for t in _combine(TILE, [r[:, :, j : j + 2 * wide - 1 : 2] for j in range(4)])]
    products: list[Array] = []  # the four rows of the tiles
    for i, kernel in enumerate(kernels):
        part = jnp.stack(tiles[i * count : (i + 1) * count]).reshape(count, batch * high * wide, groups, fan_in)
        part = jnp.einsum("ktgi,kgio->kgto", part, kernel)
        products += list(part.reshape(count // 4, 4, groups, batch, high, wide, out))
    y = jnp.stack([jnp.stack(_combine(OUTPUTS, list(row))) for row in _combine(OUTPUTS, products)])
    y = y.transpose(3, 4, 0, 5, 1, 2, 6).reshape(batch, 2 * high, 2 * wide, groups * out)
    return y[:, :height, :width] + bias


def _combine(matrix: np.ndarray, terms: list[Array]) -> list[Array]:
    """Sums of the terms with the factors 1, 0 and -1 in each row; faster than a product with the matrix."""
    sums = []
    for row in matrix:
        added = [term if factor > 0 else -term for factor, term in zip(row, terms, strict=True) if factor]
        sums.append(sum(added[1:], start=added[0]))
    return sums

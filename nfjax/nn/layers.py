"""The layers that the families share. Parameters are named and shaped so that `port` can mirror timm's names.

Layers compute in the dtype of their input; parameters are cast to it where they are used.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nfjax.fast.backend import backend, kept, matmul, spread_rows, sum_rows, sum_rows_of
from nfjax.nn.conv import Padding, conv2d
from nfjax.params import Normal, Uniform, ones, param, zeros


def make_divisible(value: float, divisor: int = 8, round_limit: float = 0.9) -> int:
    """`value` rounded to a multiple of `divisor`, never below `round_limit * value` (timm `make_divisible`)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < round_limit * value else rounded


class Conv(nnx.Module):
    """Convolution with a bias; `nfjax.fold` turns every `ScaledStdConv` into one.

    Kernel `(k, k, in_channels // groups, out_channels)`, bias `(out_channels,)`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: Padding = "symmetric",
    ):
        self.stride, self.dilation, self.groups, self.padding = stride, dilation, groups, padding
        fan_in = in_channels // groups * kernel_size**2
        shape = (kernel_size, kernel_size, in_channels // groups, out_channels)
        self.kernel = param(shape, Normal(fan_in**-0.5))  # kaiming normal, fan_in, linear
        self.bias = param((out_channels,), zeros)

    def weight(self) -> jax.Array:
        """The kernel that the convolution applies, shape `(k, k, in_channels // groups, out_channels)`."""
        return self.kernel[...]

    def __call__(self, x: jax.Array) -> jax.Array:
        return conv2d(
            x,
            self.weight().astype(x.dtype),
            self.bias[...],
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            padding=self.padding,
        )


class ScaledStdConv(Conv):
    """Convolution with Scaled Weight Standardization (2101.08692, eq. 3; timm `ScaledStdConv2d`).

        W_hat = gain * gamma / sqrt(N) * (W - mean) / sqrt(var + eps)

    with the biased moments of the N = in_channels // groups * k * k weights that feed one output channel.
    timm's form; DeepMind's own has `max(var * N, 1e-4)` under the root. The moments are taken in float32
    (float64 if the parameters are) whatever the compute dtype. Adds `gain`, shape `(out_channels,)`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        gamma: float = 1.0,
        eps: float = 1e-6,
        zero_gain: bool = False,
        **geometry: Any,  # of `Conv`: stride, dilation, groups, padding
    ):
        super().__init__(in_channels, out_channels, kernel_size, **geometry)
        self.eps = eps
        self.scale = gamma * (in_channels // self.groups * kernel_size**2) ** -0.5
        self.gain = param((out_channels,), zeros if zero_gain else ones)

    def weight(self) -> jax.Array:
        kernel = self.kernel[...]
        kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
        return standardized(kernel, self.gain[...] * self.scale, self.eps)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def standardized(kernel: jax.Array, gain: jax.Array, eps: float) -> jax.Array:
    """`gain * (W - mean) / sqrt(var + eps)`, with the biased moments of the weights of each output channel.

    Args:
        kernel: array of shape `(k, k, in_channels // groups, out_channels)`.
        gain: array of shape `(out_channels,)`.
        eps: added to the variance.
    """
    mean, inverse = _moments(kernel, eps)
    return (kernel - spread_rows(mean, kernel)) * spread_rows(gain * inverse, kernel)


@standardized.defjvp
def _standardized_jvp(eps: float, at: Any, along: Any) -> tuple[jax.Array, jax.Array]:
    # Left to itself, differentiation goes through the sum of squares twice, and writes the squares to memory.
    (kernel, gain), (d_kernel, d_gain) = at, along
    mean, inverse = _moments(kernel, eps)
    centred = kernel - spread_rows(mean, kernel)
    factor = spread_rows(gain * inverse, kernel)
    fan_in = math.prod(kernel.shape[:-1])
    d_centred = d_kernel - spread_rows(sum_rows(d_kernel) / fan_in, kernel)
    d_factor = d_gain * inverse - gain * inverse**3 * sum_rows(centred * d_kernel) / fan_in
    return centred * factor, d_centred * factor + centred * spread_rows(d_factor, kernel)


def _moments(kernel: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
    """Of each output channel: the mean, and `1 / sqrt(var + eps)`."""
    fan_in = math.prod(kernel.shape[:-1])
    mean = sum_rows_of(lambda rows: rows, kernel) / fan_in
    var = sum_rows_of(lambda rows: jnp.square(rows - mean), kernel) / fan_in
    return mean, jax.lax.rsqrt(var + eps)


class Linear(nnx.Module):
    """Affine map of the last axis: kernel `(in_features, out_features)`, bias `(out_features,)` or none."""

    def __init__(self, in_features: int, out_features: int, *, std: float = 0.02, bias: bool = True):
        self.kernel = param((in_features, out_features), Normal(std))
        self.bias = param((out_features,), zeros) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = matmul(x, self.kernel[...].astype(x.dtype))
        return y if self.bias is None else y + spread_rows(self.bias[...], y)

    def split(self, x: jax.Array, parts: int) -> list[jax.Array]:
        """The map's value in so many equal parts of its last axis."""
        if backend() != "gpu":
            return jnp.split(self(x), parts, axis=-1)
        # As products of their own: the parts of one would be copied, since cuDNN's attention wants each in one piece.
        kernels = jnp.split(self.kernel[...].astype(x.dtype), parts, axis=1)
        ys = [matmul(x, kernel) for kernel in kernels]
        if self.bias is None:
            return ys
        return [y + spread_rows(bias, y) for y, bias in zip(ys, jnp.split(self.bias[...], parts), strict=True)]


class LayerNorm(nnx.Module):
    """Normalisation of the last axis (1607.06450): scale and bias `(channels,)`, moments in float32 at least."""

    def __init__(self, channels: int, eps: float = 1e-6):
        self.eps = eps
        self.scale = param((channels,), ones)
        self.bias = param((channels,), zeros)

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        scale, bias = (spread_rows(p[...], wide) for p in (self.scale, self.bias))
        return (normalized(wide, self.eps) * scale + bias).astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def normalized(x: jax.Array, eps: float) -> jax.Array:
    """`(x - mean) / sqrt(var + eps)`, with the biased moments over the last axis."""
    mean, inverse = _row_moments(x, eps)
    return (x - mean) * inverse


@normalized.defjvp
def _normalized_jvp(eps: float, at: Any, along: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (d_x,) = at, along
    mean, inverse = kept(_row_moments(x, eps))
    y = (x - mean) * inverse
    return y, inverse * (d_x - d_x.mean(-1, keepdims=True) - y * (y * d_x).mean(-1, keepdims=True))


def _row_moments(x: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
    """Over the last axis, which stays: the mean, and `1 / sqrt(var + eps)`."""
    mean = x.mean(-1, keepdims=True)
    return mean, jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + eps)


class RmsNorm(nnx.Module):
    """Division of the last axis by its root mean square (1910.07467): scale `(channels,)`, float32 at least."""

    def __init__(self, channels: int, eps: float = 1e-6):
        self.eps = eps
        self.scale = param((channels,), ones)

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        y = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        y = y * spread_rows(self.scale[...], wide)
        return y.astype(x.dtype)


class SqueezeExcite(nnx.Module):
    """Weights of channels, `sigmoid(fc2(relu(fc1(mean(x)))))` (1709.01507; timm `SEModule`, which multiplies by them).

    The two maps are 1x1 convolutions on the pooled `(batch, 1, 1, channels)`, as in timm.
    """

    def __init__(self, channels: int, rd_ratio: float):
        reduced = make_divisible(channels * rd_ratio, 8, round_limit=0.0)
        self.fc1 = Conv(channels, reduced, 1)
        self.fc2 = Conv(reduced, channels, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = x.mean((1, 2), keepdims=True)
        return jax.nn.sigmoid(self.fc2(jax.nn.relu(self.fc1(pooled))))


class Conv1dKernel(nnx.Module):
    """Holds the `(k, 1, 1)` kernel of a bias-free one-channel 1-D convolution (torch `Conv1d(1, 1, k)`)."""

    def __init__(self, kernel_size: int):
        self.kernel = param((kernel_size, 1, 1), Uniform(kernel_size**-0.5))  # torch's default for Conv1d


class EfficientChannelAttention(nnx.Module):
    """Weights of channels `(batch, 1, 1, channels)`, by a 1-D convolution over neighbouring channels.

    (1910.03151; timm `EcaModule`, which multiplies by them.)
    """

    def __init__(self, channels: int):
        t = int(abs(math.log2(channels) + 1) / 2)
        self.kernel_size = max(t if t % 2 else t + 1, 3)
        self.conv = Conv1dKernel(self.kernel_size)

    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = x.mean((1, 2))
        channels, reach = pooled.shape[1], self.kernel_size // 2
        padded = jnp.pad(pooled, ((0, 0), (reach, reach)))
        taps = self.conv.kernel[...].astype(x.dtype)[:, 0, 0]
        # A handful of shifted sums: cheaper than a convolution of one channel on every backend.
        y = sum(taps[i] * padded[:, i : i + channels] for i in range(self.kernel_size))
        return jax.nn.sigmoid(y)[:, None, None, :]


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum, stride 2, symmetric padding 1, NHWC (torch `MaxPool2d(3, 2, 1)`)."""
    pads = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)


def avg_pool(x: jax.Array, stride: int) -> jax.Array:
    """2x2 average of the shortcut, NHWC.

    Stride 2: an incomplete window at an odd edge averages the pixels it has (torch `AvgPool2d(2, 2,
    ceil_mode=True, count_include_pad=False)`). Stride 1, used with dilation: the map keeps its size, and the
    zeros beyond its edge count (timm `AvgPool2dSame`).
    """
    pads = [(0, 0), (0, 1), (0, 1), (0, 0)]
    if stride == 1:
        padded = jnp.pad(x, pads)
        rows = padded[:, 1:] + padded[:, :-1]
        return (rows[:, :, 1:] + rows[:, :, :-1]) / 4
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        pads = [(0, 0), (0, height % 2), (0, width % 2), (0, 0)]
        return avg_pool(jnp.pad(x, pads, mode="edge"), 2)  # repeating the edge averages what is there
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def drop_path(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Stochastic depth (1603.09382): drop whole samples, rescale the kept ones by `1 / (1 - rate)`.

    Args:
        x: array whose first axis is the batch.
        rate: probability of dropping a sample.
        key: PRNG key; None evaluates, that is returns `x`.
    """
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return x * (kept / (1 - rate)).astype(x.dtype)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout of single elements; `key=None` returns `x`."""
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def split_key(key: jax.Array | None, count: int) -> Sequence[jax.Array | None]:
    """`count` independent keys, or `None` for each if there is no key, that is when evaluating."""
    return [None] * count if key is None else list(jax.random.split(key, count))

"""The layers that the families share. Parameters are named and shaped so that `port` can mirror timm's names.

Layers compute in the dtype of their input; parameters are cast to it where they are used.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from nfjax.fast import add_bias, in_parts, matmul, normalize, scale, standardize
from nfjax.nn.conv import Padding, conv2d
from nfjax.params import Normal, Uniform, Value, ones, param, zeros

Maps = Float[Array, "batch height width channels"]
Tokens = Float[Array, "*axes channels"]  # of any number of axes


def make_divisible(value: float, divisor: int = 8, round_limit: float = 0.9) -> int:
    """`value` rounded to a multiple of `divisor`, never below `round_limit * value` (timm `make_divisible`)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < round_limit * value else rounded


class Conv(nnx.Module):
    """Convolution with a bias; `nfjax.fold` turns every `ScaledStdConv` into one."""

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

    @property
    def geometry(self) -> dict[str, Any]:
        """Options of `conv2d`, and of another such layer."""
        return {name: getattr(self, name) for name in ("stride", "dilation", "groups", "padding")}

    def weight(self) -> Float[Value, "k k fan_in out_channels"]:
        """The kernel that the convolution applies."""
        return self.kernel[...]

    def __call__(self, x: Maps) -> Float[Array, "batch out_height out_width out_channels"]:
        bias = None if self.bias is None else self.bias[...]
        return conv2d(x, self.weight().astype(x.dtype), bias, **self.geometry)


class ScaledStdConv(Conv):
    """Convolution with Scaled Weight Standardization (2101.08692, eq. 3; timm `ScaledStdConv2d`).

        W_hat = gain * gamma / sqrt(N) * (W - mean) / sqrt(var + eps)

    with the biased moments of the N = in_channels // groups * k * k weights that feed one output channel.
    timm's form; with a `floor`, which is 1e-4 in DeepMind's own, `max(var, floor / N)` is under the root. The moments
    are taken in float32 (float64 if the parameters are) whatever the compute dtype. Adds the parameter `gain`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        gamma: float = 1.0,
        eps: float = 1e-6,
        floor: float = 0.0,
        zero_gain: bool = False,
        **geometry: Any,  # of `Conv`: stride, dilation, groups, padding
    ):
        super().__init__(in_channels, out_channels, kernel_size, **geometry)
        self.eps, self.floor = eps, floor
        self.scale = gamma * (in_channels // self.groups * kernel_size**2) ** -0.5
        self.gain = param((out_channels,), zeros if zero_gain else ones)

    def weight(self) -> Float[Value, "k k fan_in out_channels"]:
        kernel = self.kernel[...]
        kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
        gain = self.gain[...].astype(kernel.dtype) * self.scale
        if not self.floor:
            return standardize(kernel, gain, self.eps)
        axes, fan_in = (0, 1, 2), kernel[..., 0].size
        return gain * (kernel - kernel.mean(axes)) * jax.lax.rsqrt(self.guarded(kernel.var(axes), fan_in))

    def guarded(self, variance: Any, fan_in: int) -> Any:
        """What is under the root, of numpy's arrays too."""
        if not self.floor:
            return variance + self.eps
        return variance.clip(self.floor / fan_in)


class Linear(nnx.Module):
    """Affine map of the last axis, `x W + b`, or without `b`."""

    def __init__(self, in_features: int, out_features: int, *, std: float = 0.02, bias: bool = True):
        self.kernel = param((in_features, out_features), Normal(std))
        self.bias = param((out_features,), zeros) if bias else None

    def __call__(self, x: Float[Array, "*axes in_features"]) -> Float[Array, "*axes out_features"]:
        y = matmul(x, self.kernel[...].astype(x.dtype))
        return y if self.bias is None else add_bias(y, self.bias[...])

    def split(self, x: Float[Array, "*axes in_features"], parts: int) -> list[Float[Array, "*axes part"]]:
        """The map's value, split into equal parts of its last axis."""
        return in_parts(self, x, parts)


class LayerNorm(nnx.Module):
    """`(x - mean) / sqrt(var + eps) * scale + bias` over the last axis (1607.06450), in float32 at least."""

    def __init__(self, channels: int, eps: float = 1e-6):
        self.eps = eps
        self.scale = param((channels,), ones)
        self.bias = param((channels,), zeros)

    def __call__(self, x: Tokens) -> Tokens:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        y = add_bias(scale(normalize(wide, self.eps), self.scale[...]), self.bias[...])
        return y.astype(x.dtype)


class RmsNorm(nnx.Module):
    """`x / sqrt(mean(x^2) + eps) * scale` over the last axis (1910.07467), in float32 at least."""

    def __init__(self, channels: int, eps: float = 1e-6):
        self.eps = eps
        self.scale = param((channels,), ones)

    def __call__(self, x: Tokens) -> Tokens:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        y = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        return scale(y, self.scale[...]).astype(x.dtype)


class SqueezeExcite(nnx.Module):
    """Weights of channels, `sigmoid(fc2(relu(fc1(mean(x)))))` (1709.01507; timm `SEModule`, which multiplies by them).

    The two maps are 1x1 convolutions on the pooled map, as in timm.
    """

    def __init__(self, channels: int, rd_ratio: float):
        reduced = make_divisible(channels * rd_ratio, 8, round_limit=0.0)
        self.fc1 = Conv(channels, reduced, 1)
        self.fc2 = Conv(reduced, channels, 1)

    def __call__(self, x: Maps) -> Float[Array, "batch 1 1 channels"]:
        pooled = x.mean((1, 2), keepdims=True)
        return jax.nn.sigmoid(self.fc2(jax.nn.relu(self.fc1(pooled))))


class Conv1dKernel(nnx.Module):
    """Holds the `(k, 1, 1)` kernel of a bias-free one-channel 1-D convolution (torch `Conv1d(1, 1, k)`)."""

    def __init__(self, kernel_size: int):
        self.kernel = param((kernel_size, 1, 1), Uniform(kernel_size**-0.5))  # torch's default for Conv1d


class EfficientChannelAttention(nnx.Module):
    """Weights of channels, by a 1-D convolution over neighbours (1910.03151; timm `EcaModule`, which multiplies)."""

    def __init__(self, channels: int):
        t = int(abs(math.log2(channels) + 1) / 2)
        self.kernel_size = max(t if t % 2 else t + 1, 3)
        self.conv = Conv1dKernel(self.kernel_size)

    def __call__(self, x: Maps) -> Float[Array, "batch 1 1 channels"]:
        pooled = x.mean((1, 2))
        channels, reach = pooled.shape[1], self.kernel_size // 2
        padded = jnp.pad(pooled, ((0, 0), (reach, reach)))
        taps = self.conv.kernel[...].astype(x.dtype)[:, 0, 0]
        # A few shifted sums: cheaper than a convolution of one channel on every backend.
        y = sum(taps[i] * padded[:, i : i + channels] for i in range(self.kernel_size))
        return jax.nn.sigmoid(y)[:, None, None, :]


def max_pool(x: Maps) -> Float[Array, "batch half_height half_width channels"]:
    """3x3 maximum, stride 2, symmetric padding 1 (torch `MaxPool2d(3, 2, 1)`)."""
    pads = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)


def avg_pool(x: Maps, stride: int) -> Float[Array, "batch out_height out_width channels"]:
    """2x2 average of the shortcut.

    Stride 2: an incomplete window at an odd edge averages the pixels it has (torch `AvgPool2d(2, 2,
    ceil_mode=True, count_include_pad=False)`). Stride 1, used with dilation: the map keeps its size, and the
    zeros beyond its edge count (timm `AvgPool2dSame`).
    """
    if stride == 1:
        padded = jnp.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
        rows = padded[:, 1:] + padded[:, :-1]
        return (rows[:, :, 1:] + rows[:, :, :-1]) / 4
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        odd = [(0, 0), (0, height % 2), (0, width % 2), (0, 0)]
        return avg_pool(jnp.pad(x, odd, mode="edge"), 2)  # repeating the edge averages what is there
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def drop_path(x: Float[Array, "*shape"], rate: float, key: PRNGKeyArray | None) -> Float[Array, "*shape"]:
    """Stochastic depth (1603.09382): drop whole samples, along the first axis, with probability `rate`.

    The kept ones are rescaled by `1 / (1 - rate)`; `key=None` evaluates, that is returns `x`.
    """
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return x * (kept / (1 - rate)).astype(x.dtype)


def dropout(x: Float[Array, "*axes"], rate: float, key: PRNGKeyArray | None) -> Float[Array, "*axes"]:
    """Inverted dropout of single elements; `key=None` returns `x`."""
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def split_key(key: PRNGKeyArray | None, count: int) -> Sequence[PRNGKeyArray | None]:
    """`count` independent keys, or `None` for each if there is no key, that is when evaluating."""
    return [None] * count if key is None else list(jax.random.split(key, count))

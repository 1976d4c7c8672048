"""The one convolution of the project: padding, grouping and the 1x1 case are decided here and nowhere else."""

from typing import Literal, cast

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nfjax.fast import add_bias, group_parts, matmul
from nfjax.params import Value

Padding = Literal["symmetric", "same", "valid"]
Images = Float[Array, "batch height width in_channels"]
Kernel = Float[Value, "kernel_height kernel_width fan_in out_channels"]


def conv2d(
    x: Images,
    kernel: Kernel,
    bias: Float[Value, " out_channels"] | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: Padding = "symmetric",
) -> Float[Array, "batch out_height out_width out_channels"]:
    """2-D convolution of NHWC images, equal to torch's `conv2d` under timm's padding rules.

    Args:
        x: the images, or maps.
        kernel: of the same dtype as `x`, as the result is; its fan in is `in_channels // groups`.
        bias: of any dtype.
        stride: step in both directions.
        dilation: distance between the kernel's taps in both directions.
        groups: number of channel groups that do not see each other.
        padding: "symmetric" pads both sides by `((stride - 1) + dilation * (kernel - 1)) // 2` (timm's `get_padding`);
            "same" is TensorFlow's SAME (timm's `pad_same`), which differs from it whenever the stride is 2; "valid"
            pads nothing.
    """
    pairs = [(x, kernel)] if groups == 1 else group_parts(x, kernel, groups)
    parts = [_convolve(part, own, stride, dilation, padding) for part, own in pairs]
    y = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
    return y if bias is None else add_bias(y, bias)


def _convolve(
    x: Images, kernel: Kernel, stride: int, dilation: int, padding: Padding
) -> Float[Array, "batch _ _ out_channels"]:
    height, width, fan_in = kernel.shape[:3]
    groups = x.shape[3] // fan_in
    # Windows that do not overlap make a matrix product: about twice as fast as the convolution on CPU.
    if height == width == stride == groups == 1:
        return matmul(x, kernel[0, 0])
    if height == width == stride and padding == "valid" and groups == 1:
        batch, rows, cols, chans = x.shape[0], x.shape[1] // stride, x.shape[2] // stride, x.shape[3]
        patches = x[:, : rows * stride, : cols * stride].reshape(batch, rows, stride, cols, stride, chans)
        patches = patches.swapaxes(2, 3).reshape(batch, rows, cols, stride * stride * chans)
        return matmul(patches, kernel.reshape(-1, kernel.shape[3]))
    pads: str | list[tuple[int, int]] = padding.upper()
    if padding == "symmetric":
        pads = [(p, p) for p in (((stride - 1) + dilation * (k - 1)) // 2 for k in (height, width))]
    kernel = cast(Array, kernel)  # it takes numpy's too
    layout, strides, dilations = ("NHWC", "HWIO", "NHWC"), (stride, stride), (dilation, dilation)
    return lax.conv_general_dilated(x, kernel, strides, pads, None, dilations, layout, groups)

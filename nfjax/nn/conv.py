"""The one convolution of the project: padding, grouping and the 1x1 case are decided here and nowhere else."""

from typing import Literal, cast

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nfjax.fast import add_bias, matmul
from nfjax.params import Value

Padding = Literal["symmetric", "same", "valid"]
Images = Float[Array, "batch height width in_channels"]
Kernel = Float[Value, "kernel_height kernel_width fan_in out_channels"]

# XLA runs a grouped convolution (`feature_group_count`) slowly on CPU (measured: 4x forward, up to 400x in
# the weight gradient) and all-gathers the batch when it is sharded. So groups become separate dense
# convolutions, at most this many: beyond it neighbouring groups are packed into one block-diagonal kernel,
# which costs arithmetic but keeps the compiled program small (66 groups: 0.9 s to compile instead of 3.4 s).
MAX_CONVOLUTIONS = 8


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
    if groups > 1:
        x_parts, kernel_parts = _split_groups(x, kernel, groups)
        parts = [_dense(a, b, stride, dilation, padding) for a, b in zip(x_parts, kernel_parts, strict=True)]
        y = jnp.concatenate(parts, axis=-1)
    else:
        y = _dense(x, kernel, stride, dilation, padding)
    return y if bias is None else add_bias(y, bias)


def _dense(x: Images, kernel: Kernel, stride: int, dilation: int, padding: Padding) -> Float[Array, "batch _ _ out"]:
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
    kernel = cast(Array, kernel)  # it takes numpy's too
    layout, strides, dilations = ("NHWC", "HWIO", "NHWC"), (stride, stride), (dilation, dilation)
    return lax.conv_general_dilated(x, kernel, strides, pads, rhs_dilation=dilations, dimension_numbers=layout)


def _split_groups(
    x: Images, kernel: Kernel, groups: int
) -> tuple[list[Float[Array, "batch height width part"]], list[Float[Array, "kernel_height kernel_width part out"]]]:
    """Inputs and kernels of the dense convolutions that together make the grouped one."""
    pack = next(p for p in range(1, groups + 1) if groups % p == 0 and groups // p <= MAX_CONVOLUTIONS)
    if pack > 1:
        height, width, fan_in, out = kernel.shape
        blocks = kernel.reshape(height, width, fan_in, groups // pack, pack, out // groups)
        # [.., q, i, g, p, o]: input channel i of member q reaches output o of member p only where p == q.
        diagonal = jnp.einsum("hwigpo,pq->hwqigpo", blocks, jnp.eye(pack, dtype=kernel.dtype))
        kernel = diagonal.reshape(height, width, pack * fan_in, out)
    return jnp.split(x, groups // pack, axis=-1), jnp.split(kernel, groups // pack, axis=-1)

"""Inference: fold the weight standardisation once, and jit what is fastest on this backend."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nfjax import cache
from nfjax.conv import winograd, winograd_kernel
from nfjax.layers import Conv, ScaledStdConv
from nfjax.model import ImageModel
from nfjax.params import merge, split

# A CPU walks through a batch in pieces of at most this many pixels (two images of 256x256, or a single larger one):
# their activations stay in its caches and the memory that a call asks of the system, whose pages must be cleared,
# is that of one piece (eca_nfnet_l0, batch 8: 55 MB instead of 171). One core: 0.92 of the time.
PIECE_PIXELS = 2**17
WINOGRAD_CHANNELS = 64  # in a group, from which on the products are large enough to pay for the transforms


def fold(model: ImageModel) -> ImageModel:
    """A copy of the model in which every standardised convolution is a plain one with the weights it applies.

    Same function, less work per call: the standardisation is done once, here. The copy shares nothing that
    could be changed through it, and cannot be exported (`nfjax.save` the original).
    """
    folded = _replace(model, _plain)
    folded.folded = True
    return folded


# Compiled as one program: the operations of each layer would be compiled one by one, for 4 s with eca_nfnet_l0.
@functools.partial(jax.jit, static_argnames="by")
def _replace(model: ImageModel, by: Callable[[Any], nnx.Module | None]) -> ImageModel:
    """A copy of the model in which `by(layer)`, where it is not None, stands for the layer."""
    for _, module in list(nnx.iter_graph(model)):  # jit has made the copy
        for name, child in list(vars(module).items()) if isinstance(module, nnx.Module) else ():
            if (replacement := by(child)) is not None:
                setattr(module, name, replacement)
    return model


def _plain(conv: Any) -> Conv | None:
    """The plain convolution that applies what a standardised one does."""
    if not isinstance(conv, ScaledStdConv):
        return None
    kernel = conv.weight()
    fan_in, out = kernel.shape[2] * conv.groups, kernel.shape[3]
    plain = Conv(
        fan_in,
        out,
        kernel.shape[0],
        stride=conv.stride,
        dilation=conv.dilation,
        groups=conv.groups,
        padding=conv.padding,
    )
    plain.kernel.set_value(kernel)
    plain.bias.set_value(conv.bias[...])
    return plain


class _Winograd(nnx.Module):
    """A 3x3 convolution whose kernel has been transformed for `nfjax.conv.winograd`."""

    def __init__(self, conv: Conv):
        self.kernel = nnx.Param(winograd_kernel(conv.weight(), conv.groups))
        self.bias = nnx.Param(conv.bias[...])

    def __call__(self, x: jax.Array) -> jax.Array:
        return winograd(x, self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype))


def _for_winograd(layer: Any) -> _Winograd | None:
    if not isinstance(layer, Conv) or (layer.stride, layer.dilation) != (1, 1) or layer.padding == "valid":
        return None
    height, width, fan_in, out = layer.kernel[...].shape
    wide = min(fan_in, out // layer.groups) >= WINOGRAD_CHANNELS
    return _Winograd(layer) if (height, width) == (3, 3) and wide else None


def _piece(batch: int, pixels: int) -> int:
    """Images in a piece: the largest divisor of the batch with at most PIECE_PIXELS, so that all pieces are alike."""
    return max(n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or n * pixels <= PIECE_PIXELS))


def compile(model: ImageModel, x: Any) -> Callable[[Any], Any]:
    """The model as a compiled function of a batch like `x`: folded, jitted, nothing traced again.

    On a CPU the batch is walked in pieces, and wide 3x3 convolutions of float32 models become Winograd's products,
    which round a little more: each by about 1e-6 of its largest output.

    Args:
        model: any model; later changes to it do not reach the function.
        x: an example batch `(batch, height, width, in_chans)`, or its `jax.ShapeDtypeStruct`.

    Returns:
        A function of an array of that shape and dtype, with the outputs of `model(x)`.
    """
    cache.enable()
    model = model if model.folded else fold(model)
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and model.dtype == jnp.float32:
        model = _replace(model, _for_winograd)
    graphdef, params = split(model)

    def step(params: Any, x: jax.Array) -> Any:
        call = merge(graphdef, params)
        piece = _piece(len(x), x.shape[1] * x.shape[2]) if on_cpu and x.ndim == 4 else len(x)
        if piece == len(x):
            return call(x)
        y = jax.lax.map(call, x.reshape(-1, piece, *x.shape[1:]))
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), y)

    compiled = jax.jit(step).lower(params, x).compile()
    return lambda x: compiled(params, x)

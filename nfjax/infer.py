"""Inference: fold the weight standardisation once, and jit what is fastest on this backend."""

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nfjax import cache
from nfjax.fast.backend import backend, compiler_options
from nfjax.models.base import ImageModel
from nfjax.nn.conv import winograd, winograd_kernel
from nfjax.nn.layers import Conv, ScaledStdConv
from nfjax.params import merge, split

# A CPU walks through a batch in pieces of at most this many pixels (one image of 256x256): their activations stay in
# its caches, and the memory of a call is small enough (eca_nfnet_l0: 21 MB instead of 171 for eight images) that the
# system's allocator keeps it; pages fresh from the system must be cleared first.
PIECE_PIXELS = 2**16
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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
    """A 3x3 convolution whose kernel has been transformed for `nfjax.nn.conv.winograd`."""

    def __init__(self, conv: Conv):
        self.kernels = nnx.List([nnx.Param(part) for part in winograd_kernel(conv.weight(), conv.groups)])
        self.bias = nnx.Param(conv.bias[...])

    def __call__(self, x: jax.Array) -> jax.Array:
        return winograd(x, [part[...] for part in self.kernels], self.bias[...])


def _for_winograd(layer: Any) -> _Winograd | None:
    if not isinstance(layer, Conv) or (layer.stride, layer.dilation) != (1, 1) or layer.padding == "valid":
        return None
    height, width, fan_in, out = layer.kernel[...].shape
    wide = min(fan_in, out // layer.groups) >= WINOGRAD_CHANNELS
    return _Winograd(layer) if (height, width) == (3, 3) and wide else None


@functools.partial(jax.jit, static_argnames="dtype")
def _kernels_in(params: dict[str, jax.Array], dtype: Any) -> dict[str, jax.Array]:
    """Kernels of matrix products in the dtype that they are used in, which each call would cast them to.

    Not the head's, whose product is in float32; nor those of wider windows, which a GPU transposes and casts at once.
    """

    def cast(path: str, value: jax.Array) -> jax.Array:
        product = path.endswith("kernel") and math.prod(value.shape[:-2]) == 1 and not path.startswith("head/")
        return value.astype(dtype) if product else value

    return {path: cast(path, value) for path, value in params.items()}


def prepare(model: ImageModel) -> tuple[nnx.GraphDef, dict[str, jax.Array]]:
    """What `compile` compiles, for the backend that is traced for: a folded model, split by `nfjax.params.split`."""
    model = model if model.folded else fold(model)
    if backend() == "cpu" and model.dtype == jnp.float32:
        model = _replace(model, _for_winograd)
    graphdef, params = split(model)
    return graphdef, params if model.dtype == model.param_dtype else _kernels_in(params, model.dtype)


def _piece(batch: int, pixels: int) -> int:
    """Images in a piece: a divisor of the batch, so that all are alike, with enough pieces for all cores."""
    most = min(PIECE_PIXELS // pixels, batch // min(batch, CORES))
    return max(n for n in range(1, batch + 1) if batch % n == 0 and n <= max(most, 1))


def compile(model: ImageModel, x: Any) -> Callable[[Any], Any]:
    """The model as a compiled function of a batch like `x`: folded, jitted, nothing traced again.

    On a CPU the batch is walked in pieces, several at a time, and the function returns when all are done; wide 3x3
    convolutions of float32 models become Winograd's products, which round a little more: each by about 1e-6 of its
    largest output.

    Args:
        model: any model; later changes to it do not reach the function.
        x: an example batch `(batch, height, width, in_chans)`, or its `jax.ShapeDtypeStruct`.

    Returns:
        A function of an array of that shape and dtype, with the outputs of `model(x)`. It raises a ValueError for
        any other shape.
    """
    cache.enable()
    graphdef, params = prepare(model)
    shape, piece = tuple(x.shape), x.shape[0]
    if backend() == "cpu" and len(shape) == 4:
        piece = _piece(shape[0], shape[1] * shape[2])

    def step(params: Any, x: jax.Array) -> Any:
        return merge(graphdef, params)(x)

    options: dict[str, Any] = dict(compiler_options())
    if piece < shape[0]:
        x = jax.ShapeDtypeStruct((piece, *shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype))
        if shape[0] // piece % CORES == 0:  # then no core is ever left without a piece of its own
            options["xla_cpu_multi_thread_eigen"] = False
    compiled = jax.jit(step, compiler_options=options).lower(params, x).compile()
    one = functools.partial(compiled, params)
    call = one if piece == shape[0] else _in_pieces(one, piece)

    def checked(x: Any) -> Any:
        if tuple(x.shape) != shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; this function was compiled for {shape}.")
        return call(x)

    return checked


def _in_pieces(call: Callable[[Any], Any], piece: int) -> Callable[[Any], Any]:
    """A function that calls `call` for each `piece` images of its batch, in as many threads as there are cores.

    XLA itself computes one operation of a program after the other, and of many of them only parts in parallel: eight
    images of eca_nfnet_l0 one at a time in two threads take 0.86 to 0.90 of the time that pairs take in turn.
    """
    pool = ThreadPoolExecutor(CORES, thread_name_prefix="nfjax")

    def call_pieces(x: Any) -> Any:
        whole = np.asarray(x)  # a view, on a CPU
        pieces = [jax.device_put(whole[start : start + piece]) for start in range(0, len(whole), piece)]
        outputs = list(pool.map(lambda part: jax.block_until_ready(call(part)), pieces))
        return jax.tree.map(lambda *parts: jax.device_put(np.concatenate(parts)), *outputs)

    return call_pieces

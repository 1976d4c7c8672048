"""Inference: fold the weight standardisation once, and jit what is fastest on this backend."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from nfjax import cache
from nfjax.fast import WinogradConv, compiled, winograd
from nfjax.fast.backend import backend
from nfjax.models.base import ImageModel
from nfjax.models.calling import patches, require_array
from nfjax.nn.layers import Conv, ScaledStdConv
from nfjax.params import merge, split


def fold(model: ImageModel) -> ImageModel:
    """A copy of the model in which every standardised convolution is a plain one with the weights it applies.

    Same function, less work per call: the standardisation is done once, here. The copy shares no state with the model,
    and has no weights of timm's to save (`nfjax.save` the original).
    """
    folded = _replace(model, _plain)
    folded.folded = True
    return folded


# Compiled as one program: the operations of each layer would be compiled one by one, for 4 s with eca_nfnet_l0.
@functools.partial(jax.jit, static_argnames="by")
def _replace(model: ImageModel, by: Callable[[Any], nnx.Module | None]) -> ImageModel:
    """A copy of the model in which `by(layer)`, where it is not None, replaces the layer."""
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
    plain = Conv(kernel.shape[2] * conv.groups, kernel.shape[3], kernel.shape[0], **conv.geometry)
    plain.kernel.set_value(kernel)
    plain.bias.set_value(conv.bias[...])
    return plain


def _for_winograd(layer: Any) -> WinogradConv | None:
    """The same convolution by Winograd's products, where they are faster."""
    if not isinstance(layer, Conv) or (layer.stride, layer.dilation) != (1, 1) or layer.padding == "valid":
        return None
    height, width, fan_in, out = layer.kernel[...].shape
    wide = min(fan_in, out // layer.groups) >= winograd.CHANNELS
    return WinogradConv(layer.weight(), layer.bias[...], layer.groups) if (height, width) == (3, 3) and wide else None


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


def compile(model: ImageModel, x: Any) -> Callable[[Any], Any]:
    """The model as a compiled function of a batch like `x`: folded, jitted, nothing traced again.

    On a CPU the batch is walked in pieces, several at a time, and the function returns when all are done; wide 3x3
    convolutions of float32 models become Winograd's products, which round a little more: each by about 1e-6 of its
    largest output.

    A batch on several devices is computed there: the weights are copied to each, unless they are spread over them, and
    the outputs are sharded as the batch is.

    Args:
        model: any model; later changes to it do not reach the function.
        x: an example batch `(batch, height, width, in_chans)`, or its `jax.ShapeDtypeStruct`, either with a sharding;
            or a dictionary of patches, where the model takes one.

    Returns:
        A function of an array of that shape and dtype, with the outputs of `model(x)`; another shape is a ValueError.
        It is for arrays, and not for use inside `jax.jit`, `grad` or `vmap`: the model itself is.

    Raises:
        ValueError: the batch is on several devices without a mesh.
    """
    cache.enable()
    graphdef, params = prepare(model)
    keys = model.patch_keys
    x = patches(x, keys) if isinstance(x, Mapping) else x
    shape, sharding = _shape(x), getattr(x, "sharding", None)
    several = sharding is not None and len(sharding.device_set) > 1

    def function(params: Any, x: Any) -> Any:
        return merge(graphdef, params)(x)

    call: Callable[[Any], Any]
    if several:
        call = functools.partial(jax.jit(function).lower(placed := _placed(params, sharding), x).compile(), placed)
    else:
        call = compiled(function, params, x)

    def checked(x: Any) -> Any:
        x = patches(x, keys) if isinstance(x, Mapping) else x
        arrays = list(x.values()) if isinstance(x, Mapping) else [x]
        for array in arrays:
            require_array(array)
        if any(isinstance(array, jax.core.Tracer) for array in arrays):
            raise ValueError(
                "a function of nfjax.compile is compiled already, and cannot be called inside jax.jit, grad or vmap: "
                "call the model itself there."
            )
        if _shape(x) != shape:
            raise ValueError(f"x has shape {_shape(x)}; this function was compiled for {shape}.")
        return call(jax.device_put(x, sharding) if several else x)

    return checked


def _shape(x: Any) -> Any:
    """Of an array, or of each in a dictionary."""
    return jax.tree.map(lambda array: tuple(array.shape), x)


def _placed(params: dict[str, jax.Array], sharding: Any) -> dict[str, jax.Array]:
    """The parameters on the devices of a batch."""
    if not isinstance(sharding, NamedSharding):
        raise ValueError(f"the batch is sharded by a {type(sharding).__name__}; expected a jax.sharding.NamedSharding.")
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    there = sharding.device_set
    return {path: a if a.sharding.device_set == there else jax.device_put(a, whole) for path, a in params.items()}

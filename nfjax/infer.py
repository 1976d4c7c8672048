"""Inference: fold the weight standardisation once, and jit."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from nfjax.layers import Conv, ScaledStdConv
from nfjax.model import ImageModel
from nfjax.params import merge, split


def fold(model: ImageModel) -> ImageModel:
    """A copy of the model in which every standardised convolution is a plain one with the weights it applies.

    Same function, less work per call: the standardisation is done once, here. The copy shares nothing that
    could be changed through it, and cannot be exported (`nfjax.save` the original).
    """
    folded = nnx.clone(model)
    for _, module in list(nnx.iter_graph(folded)):
        for name, child in list(vars(module).items()) if isinstance(module, nnx.Module) else ():
            if isinstance(child, ScaledStdConv):
                setattr(module, name, _plain(child))
    folded.folded = True
    return folded


def _plain(conv: ScaledStdConv) -> Conv:
    """The plain convolution that applies what the standardised one does."""
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


def compile(model: ImageModel, x: Any) -> Callable[[Any], Any]:
    """The model as a compiled function of a batch like `x`: folded, jitted, nothing traced again.

    Args:
        model: any model; later changes to it do not reach the function.
        x: an example batch `(batch, height, width, in_chans)`, or its `jax.ShapeDtypeStruct`.

    Returns:
        A function of an array of that shape and dtype, with the outputs of `model(x)`.
    """
    graphdef, params = split(model if model.folded else fold(model))
    step = jax.jit(lambda params, x: merge(graphdef, params)(x))
    compiled = step.lower(params, x).compile()
    return lambda x: compiled(params, x)

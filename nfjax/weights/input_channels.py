"""Another number of input channels: timm's recipe, and an exact one for standardised convolutions."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from nfjax.models.base import ImageModel
from nfjax.nn.layers import ScaledStdConv

InChansMode = Literal["timm", "exact"]


def adapt_in_chans(
    state: Mapping[str, Any], first_conv: str, in_chans: int, model: ImageModel, mode: InChansMode
) -> dict[str, Any]:
    """The state dict with its first convolution adapted to `in_chans` input channels.

    "timm" has timm's numbers (`adapt_input_conv`): one channel gets the sum over the old ones; more get the old
    ones in turn, times `old / new`. Standardisation then undoes the scale, so the layer's response changes: by 21 %
    for a grey image, by a factor of sqrt(2) for six channels (measured on eca_nfnet_l0).

    "exact" keeps the response of the standardised convolution: on a grey image one channel gives what the same
    image gave as RGB, and 3 n or any other number of channels gives on repeated RGB what RGB gave.

    `first_conv` is timm's name of the convolution; that of the model, which has `in_chans` channels already, says how
    it standardises.
    """
    state = dict(state)
    weight = state[f"{first_conv}.weight"]
    wide = weight.astype(np.promote_types(weight.dtype, np.float32))
    layer: Any = model
    for attribute in first_conv.split("."):
        layer = getattr(layer, attribute)
    gain = state.get(f"{first_conv}.gain")  # if it is missing, the strict comparison that follows says so
    if wide.ndim == 2:  # of a linear layer for patches, where the channels of a pixel lie next to each other
        pixels = layer.kernel.get_value().shape[0] // in_chans
        by_channel = np.moveaxis(wide.reshape(len(wide), pixels, -1), 2, 1)
        new = np.moveaxis(_timm(by_channel, in_chans), 1, 2).reshape(len(wide), -1)
        state[f"{first_conv}.weight"] = new.astype(weight.dtype)
        return state
    if mode == "timm" or not isinstance(layer, ScaledStdConv) or gain is None:
        state[f"{first_conv}.weight"] = _timm(wide, in_chans).astype(weight.dtype)
        return state

    # What the layer applied to its old channels, then to the new ones; its mean stays 0, so that a standardised
    # convolution can have it: the weights are the response itself, and the gain undoes the standardisation.
    centred = wide - wide.mean((1, 2, 3), keepdims=True)
    old_fan_in = wide[0].size
    gamma = layer.scale * np.sqrt(in_chans * wide[0, 0].size)
    response = centred * gain * gamma / np.sqrt(old_fan_in * layer.guarded(_var(wide), old_fan_in))
    new = _repeat(response, in_chans)
    state[f"{first_conv}.weight"] = new
    state[f"{first_conv}.gain"] = np.sqrt(layer.guarded(_var(new), new[0].size) * new[0].size) / gamma
    return state


def _timm(weight: np.ndarray, in_chans: int) -> np.ndarray:
    old = weight.shape[1]
    if in_chans == 1:
        return weight.sum(1, keepdims=True)
    return weight[:, np.arange(in_chans) % old] * np.asarray(old / in_chans, weight.dtype)


def _repeat(response: np.ndarray, in_chans: int) -> np.ndarray:
    """Old channels in turn, each divided by how often it occurs; with too few new ones, the sum shared out."""
    old = response.shape[1]
    if in_chans < old:
        return np.repeat(response.sum(1, keepdims=True) / in_chans, in_chans, axis=1)
    source = np.arange(in_chans) % old
    copies = np.bincount(source)[source]
    return response[:, source] / copies[None, :, None, None].astype(response.dtype)


def _var(weight: np.ndarray) -> np.ndarray:
    return weight.var((1, 2, 3), keepdims=True)

"""Sizes of images that a vision transformer takes, and those that its weights are made for."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nfjax.models.base import Size
from nfjax.models.vit_blocks import ViTCfg


def require_room(config: ViTCfg, size: Size) -> None:
    """Refuse a size in which there is no patch."""
    if min(config.grid(size)) < 1:
        raise ValueError(f"img_size={size} has no room for a patch of {config.patch_size}.")


def require_own(config: ViTCfg, name: str, own: Size, size: Size) -> None:
    """Refuse images of a size that the model `name`, made for images of the size `own`, does not take."""
    patch = config.patch_size
    if config.dynamic_img_size:
        if (size[0] % patch or size[1] % patch) and not config.dynamic_img_pad:
            found = f"images of {size[0]}x{size[1]} pixels; {name} takes multiples of {patch}"
            raise ValueError(f"{found}. Load it with dynamic_img_pad=True for others.")
    elif size != own:
        fit = tuple(max(round(side / patch), 1) * patch for side in size)
        resize = "" if fit == size else f", and resize the images to {fit[0]}x{fit[1]}"
        raise ValueError(
            f"images of {size[0]}x{size[1]} pixels; {name} was loaded for {own[0]}x{own[1]}. "
            f"Load it with img_size={fit}{resize}; or resize the images to {own[0]}x{own[1]}."
        )


def of_weights(config: ViTCfg, sizes: Sequence[Size], pos_embed: Any) -> Size | None:
    """Height and width of the images that a position embedding is made for: the first of `sizes` that fits, or a
    square; None where there is no embedding.

    Raises:
        ValueError: it is none of these.
    """
    if np.ndim(pos_embed) != 3 or pos_embed.shape[0] != 1:  # what it is instead is told with the other shapes
        return None
    patches, patch = pos_embed.shape[1] - config.num_pos_prefix, config.patch_size
    for size in sizes:
        if np.prod(config.grid(size)) == patches:
            return size
    side = round(max(patches, 0) ** 0.5)
    if side * side != patches:
        wanted = ", ".join("{}x{}".format(*config.grid(size)) for size in sizes)
        raise ValueError(
            f"the position embedding has {patches} patches, which is no square and not {wanted}; "
            "pass the img_size (height, width) that the weights were made for."
        )
    return side * patch, side * patch

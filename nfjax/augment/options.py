"""How training images are changed at random: the options, without what follows them, so that they are read at once."""

import dataclasses
from typing import Literal

from nfjax.models.data_config import Interpolation
from port.ranges import NotNegative, Positive, Share, ShareAbove0


@dataclasses.dataclass
class Augment:
    """How training images are changed at random; names and defaults are those of timm's train script.

    Attributes:
        no_aug: resize the whole image with the model's own interpolation, without keeping its aspect ratio, and do
            nothing else.
        train_crop_mode: which part of an image: "rrc", a random part with an aspect ratio in `ratio`, resized; or all
            of it at its own aspect ratio, at times larger or with another one, by `scale` and `ratio`, and of that the
            middle, "rkrc", or any part, "rkrr".
        scale: smallest and largest area of the part that is cut out, as shares of the image.
        ratio: smallest and largest aspect ratio of that part, width over height.
        interpolation: of the resizing; random is bilinear or bicubic.
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.
        auto_augment: "rand-m9-mstd0.5-inc1" or another policy of `nfjax.augment.policies.create_policy`; None for none.
        color_jitter: largest change of brightness, contrast and saturation, or of each, and of hue, at most 0.5, as a
            fourth; empty for none. Left out where there is a policy, other than those with "3a".
        color_jitter_prob: how often colours are changed; None for always.
        grayscale_prob: probability of becoming grey.
        gaussian_blur_prob: probability of being blurred, with a standard deviation from 0.1 to 2 pixels.
        on_device: leave the policy, which must be a RandAugment, to the compiled step (see docs/augmentation.md).
    """

    no_aug: bool = False
    train_crop_mode: Literal["rrc", "rkrc", "rkrr"] = "rrc"
    scale: tuple[ShareAbove0, ShareAbove0] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "random"
    hflip: Share = 0.5
    vflip: Share = 0.0
    auto_augment: str | None = None
    color_jitter: tuple[NotNegative, ...] = (0.4,)
    color_jitter_prob: Share | None = None
    grayscale_prob: Share = 0.0
    gaussian_blur_prob: Share = 0.0
    on_device: bool = False

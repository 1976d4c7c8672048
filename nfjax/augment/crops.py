"""The part of a training image where its aspect ratio is kept, or nearly: timm's `train_crop_mode`."""

import math

import numpy as np
from PIL import Image

from nfjax.augment.resize import resize_part

CROP_MODES = ("rrc", "rkrc", "rkrr")
CHANCE = 0.5  # of another scale, and of another aspect ratio


def drawn(resample: tuple[Image.Resampling, ...], rng: np.random.Generator) -> Image.Resampling:
    """One of them; no random number is taken where there is one alone."""
    return resample[rng.integers(len(resample))] if len(resample) > 1 else resample[0]


def keep_ratio(
    pixels: np.ndarray,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    resample: tuple[Image.Resampling, ...],
    centred: bool,
    rng: np.random.Generator,
) -> Image.Image:
    """Resize so that the short side fits, now and then larger or of another aspect ratio; cut the rest off (timm rkr).

    Where a side is too short, the image is reflected at its edges. Random numbers are taken in timm's order.

    Args:
        pixels: uint8 `(height, width, 3)`, or `(height, width)` for greyscale.
        size: height and width of the result.
        scale: area of the image that a larger one is as large as, as a share.
        ratio: factor on width over height.
        resample: one is drawn if there are several.
        centred: cut out the middle ("rkrc") instead of any part ("rkrr").
    """
    height, width = pixels.shape[:2]
    fit = min(height / size[0], width / size[1])
    larger = 1 / math.sqrt(rng.uniform(*scale)) if rng.random() < CHANCE else 1.0
    logs = math.log(ratio[0]), math.log(ratio[1])
    wider = math.sqrt(math.exp(rng.uniform(*logs))) if rng.random() < CHANCE else 1.0
    new = max(1, round(height * larger / wider / fit)), max(1, round(width * larger * wider / fit))
    resized = np.asarray(resize_part(pixels, (0, 0, width, height), new, drawn(resample, rng)))
    for axis in (0, 1):
        resized = _cut_or_pad(resized, axis, size[axis], centred, rng)
    return Image.fromarray(resized)


def _cut_or_pad(pixels: np.ndarray, axis: int, size: int, centred: bool, rng: np.random.Generator) -> np.ndarray:
    """A side of an image made `size` long (timm `CenterCropOrPad`, `RandomCropOrPad`)."""
    more = pixels.shape[axis] - size
    if more >= 0:
        start = round(more / 2) if centred else int(rng.integers(more + 1))
        return pixels.take(range(start, start + size), axis)
    before = -more // 2 if centred else int(rng.integers(-more + 1))
    sides = [(0, 0)] * pixels.ndim
    sides[axis] = before, -more - before
    return np.pad(pixels, sides, mode="reflect")

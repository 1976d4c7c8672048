"""The operations of the augmentation policies: pure functions of a Pillow image and a number.

Pixels equal those of timm's `auto_augment` and of torchvision's transforms. Images are RGB or greyscale ("RGB", "L").
No function changes the image that it is given.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Fill = int | tuple[int, ...]


def affine(matrix: Callable[[float, int, int], tuple[float, ...]]) -> Callable[..., Image.Image]:
    """The operation that takes each pixel from where a 2x3 matrix says, in pixels; `fill` where that is outside.

    The matrix follows from the operation's argument, and the image's width and height.
    """

    def apply(image: Image.Image, number: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
        where = matrix(number, image.width, image.height)
        return image.transform(image.size, Image.Transform.AFFINE, where, resample, fillcolor=fill)

    return apply


shear_x = affine(lambda factor, w, h: (1, factor, 0, 0, 1, 0))  # rows, by `factor` times their distance from the top
shear_y = affine(lambda factor, w, h: (1, 0, 0, factor, 1, 0))  # columns, likewise from the left
translate_x = affine(lambda share, w, h: (1, 0, share * w, 0, 1, 0))  # to the left, by a share of the width
translate_y = affine(lambda share, w, h: (1, 0, 0, 0, 1, share * h))  # up, by a share of the height
translate_x_pixels = affine(lambda pixels, w, h: (1, 0, -int(pixels), 0, 1, 0))  # to the right, as torchvision's
translate_y_pixels = affine(lambda pixels, w, h: (1, 0, 0, 0, 1, -int(pixels)))  # down


def rotate(image: Image.Image, degrees: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Turn counterclockwise about the centre."""
    return image.rotate(degrees, resample, fillcolor=fill)


def solarize_add(image: Image.Image, amount: int) -> Image.Image:
    """Add to the levels below 128, up to white."""
    table = [min(255, level + amount) if level < 128 else level for level in range(256)]
    return image.point(table * len(image.getbands()))


def posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keep that many of the upper bits of each level; none is black, which Pillow refuses from version 13 on."""
    if bits >= 8:
        return image
    mask = 0xFF & ~(0xFF >> max(bits, 0))
    return image.point([level & mask for level in range(256)] * len(image.getbands()))


def _enhance(kind: Callable[[Image.Image], Any]) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, factor: kind(image).enhance(factor)


# A factor of 1 is the image itself; 0 is grey, the mean grey of the image, black, or smoothed.
color, contrast = _enhance(ImageEnhance.Color), _enhance(ImageEnhance.Contrast)
brightness, sharpness = _enhance(ImageEnhance.Brightness), _enhance(ImageEnhance.Sharpness)
ENHANCEMENTS = {"Brightness": brightness, "Color": color, "Contrast": contrast, "Sharpness": sharpness}


def hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn the hue by a share of the full circle, in steps of 1/256 (torchvision `adjust_hue`)."""
    if image.mode == "L":
        return image
    angle, saturation, value = image.convert("HSV").split()
    steps = int(turn * 255) % 256
    angle = angle.point([(level + steps) % 256 for level in range(256)])
    return Image.merge("HSV", (angle, saturation, value)).convert("RGB")


def desaturate(image: Image.Image, share: float) -> Image.Image:
    """Take away a share of the saturation."""
    return color(image, min(1.0, max(0.0, 1.0 - share)))


def grayscale(image: Image.Image) -> Image.Image:
    """Grey, with as many channels as before."""
    return image.convert("L").convert(image.mode)


def gaussian_blur(image: Image.Image, radius: float) -> Image.Image:
    """Blur with a standard deviation of `radius` pixels, approximately (Pillow's three box filters)."""
    return image.filter(ImageFilter.GaussianBlur(radius))


@dataclasses.dataclass(frozen=True)
class Op:
    """An operation and how a magnitude becomes its argument, if it has one.

    `apply` takes an image, the argument if there is one, and `resample` and `fill` if the operation is geometric;
    `argument` takes the share that the magnitude is of 10, a random number in [0, 1), and the largest translation as a
    share of the side.
    """

    apply: Callable[..., Image.Image]
    argument: Callable[[float, float, float], float] | None = None
    random: bool = False  # does the argument depend on the random number? Its upper half stands for the negative sign
    geometric: bool = False  # does it move pixels?


def _signed(value: float, chance: float) -> float:
    return -value if chance > 0.5 else value


# timm's names (`NAME_TO_OP`, `LEVEL_TO_ARG`) without its translations by a fixed number of pixels, which none of its
# policies uses. x is the share of the full magnitude, u random, t the largest translation.
OPS = {
    "AutoContrast": Op(ImageOps.autocontrast),
    "Equalize": Op(ImageOps.equalize),
    "Invert": Op(ImageOps.invert),
    "Rotate": Op(rotate, lambda x, u, t: _signed(x * 30.0, u), random=True, geometric=True),
    "Posterize": Op(posterize, lambda x, u, t: int(x * 4)),
    "PosterizeIncreasing": Op(posterize, lambda x, u, t: 4 - int(x * 4)),
    "PosterizeOriginal": Op(posterize, lambda x, u, t: int(x * 4) + 4),
    "Solarize": Op(ImageOps.solarize, lambda x, u, t: min(256, int(x * 256))),
    "SolarizeIncreasing": Op(ImageOps.solarize, lambda x, u, t: 256 - min(256, int(x * 256))),
    "SolarizeAdd": Op(solarize_add, lambda x, u, t: min(128, int(x * 110))),
    **{name: Op(op, lambda x, u, t: x * 1.8 + 0.1) for name, op in ENHANCEMENTS.items()},
    **{
        f"{name}Increasing": Op(op, lambda x, u, t: max(0.1, 1.0 + _signed(x * 0.9, u)), random=True)
        for name, op in ENHANCEMENTS.items()
    },
    "ShearX": Op(shear_x, lambda x, u, t: _signed(x * 0.3, u), random=True, geometric=True),
    "ShearY": Op(shear_y, lambda x, u, t: _signed(x * 0.3, u), random=True, geometric=True),
    "TranslateXRel": Op(translate_x, lambda x, u, t: _signed(x * t, u), random=True, geometric=True),
    "TranslateYRel": Op(translate_y, lambda x, u, t: _signed(x * t, u), random=True, geometric=True),
    "Desaturate": Op(desaturate, lambda x, u, t: min(1.0, 0.5 + 0.5 * x)),
    "GaussianBlur": Op(gaussian_blur, lambda x, u, t: min(2.0, 0.1 + (2.0 - 0.1) * x)),
    "GaussianBlurRand": Op(gaussian_blur, lambda x, u, t: 0.1 + (2.0 * min(1.0, x) - 0.1) * u, random=True),
}


def _angle(factor: float) -> float:
    # torchvision shears by angles, in degrees: it is these roundings that pixels halfway between two levels depend on.
    return math.radians(math.degrees(math.atan(factor)))


def _tangent_y(factor: float) -> float:
    return math.sin(_angle(factor)) / math.cos(_angle(factor))


# torchvision's `TrivialAugmentWide`; x is one of 31 shares from 0 to 1.
TRIVIAL_OPS = {
    "Identity": Op(lambda image: image),
    "ShearX": Op(shear_x, lambda x, u, t: math.tan(_angle(_signed(0.99 * x, u))), random=True, geometric=True),
    "ShearY": Op(shear_y, lambda x, u, t: _tangent_y(_signed(0.99 * x, u)), random=True, geometric=True),
    "TranslateX": Op(translate_x_pixels, lambda x, u, t: _signed(32 * x, u), random=True, geometric=True),
    "TranslateY": Op(translate_y_pixels, lambda x, u, t: _signed(32 * x, u), random=True, geometric=True),
    "Rotate": Op(rotate, lambda x, u, t: _signed(135 * x, u), random=True, geometric=True),
    **{n: Op(op, lambda x, u, t: 1.0 + _signed(0.99 * x, u), random=True) for n, op in ENHANCEMENTS.items()},
    "Posterize": Op(posterize, lambda x, u, t: 8 - round(6 * x)),
    "Solarize": Op(ImageOps.solarize, lambda x, u, t: 255 - 255 * x),
    "AutoContrast": Op(ImageOps.autocontrast),
    "Equalize": Op(ImageOps.equalize),
}


BLURS = (0.1, 2.0)  # standard deviations that are drawn from, in pixels (torchvision `GaussianBlur`)
REACH = 11  # pixels that count on each side, as in timm's train script


def blur_by_sums(image: Image.Image, sigma: float) -> Image.Image:
    """Each pixel as the mean of those around it, weighted by a Gaussian; the edges reflect what is before them."""
    weights = np.exp(-0.5 * (np.arange(-REACH, REACH + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    pixels = np.asarray(image, np.float32)
    for axis in (0, 1):
        length, sides = pixels.shape[axis], [(0, 0)] * pixels.ndim
        sides[axis] = REACH, REACH
        padded = np.moveaxis(np.pad(pixels, sides, mode="reflect"), axis, 0)
        total = np.zeros_like(padded[:length])
        for start, weight in enumerate(weights):
            if weight > 0:
                total += weight * padded[start : start + length]
        pixels = np.moveaxis(total, 0, axis)
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))

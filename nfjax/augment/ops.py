"""The operations of the augmentation policies: pure functions of a Pillow image and a number.

Pixels equal those of timm's `auto_augment` and of torchvision's transforms. Images are RGB or greyscale ("RGB", "L").
No function changes the image that it is given.
"""

import dataclasses
import math
from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Fill = int | tuple[int, ...]


def affine(image: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Each pixel from where the 2x3 matrix says, in pixels; `fill` where that is outside."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill)


def shear_x(image: Image.Image, factor: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Move each row by `factor` times its distance from the top."""
    return affine(image, (1, factor, 0, 0, 1, 0), resample, fill)


def shear_y(image: Image.Image, factor: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Move each column by `factor` times its distance from the left."""
    return affine(image, (1, 0, 0, factor, 1, 0), resample, fill)


def translate_x(image: Image.Image, share: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Move to the left by a share of the width."""
    return affine(image, (1, 0, share * image.width, 0, 1, 0), resample, fill)


def translate_y(image: Image.Image, share: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Move up by a share of the height."""
    return affine(image, (1, 0, 0, 0, 1, share * image.height), resample, fill)


def translate_x_pixels(image: Image.Image, pixels: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Move to the right by whole pixels (torchvision's direction)."""
    return affine(image, (1, 0, -int(pixels), 0, 1, 0), resample, fill)


def translate_y_pixels(image: Image.Image, pixels: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Move down by whole pixels (torchvision's direction)."""
    return affine(image, (1, 0, 0, 0, 1, -int(pixels)), resample, fill)


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


def color(image: Image.Image, factor: float) -> Image.Image:
    """Saturation: 0 is grey, 1 the image itself."""
    return ImageEnhance.Color(image).enhance(factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """Contrast: 0 is the mean grey of the image, 1 the image itself."""
    return ImageEnhance.Contrast(image).enhance(factor)


def brightness(image: Image.Image, factor: float) -> Image.Image:
    """Brightness: 0 is black, 1 the image itself."""
    return ImageEnhance.Brightness(image).enhance(factor)


def sharpness(image: Image.Image, factor: float) -> Image.Image:
    """Sharpness: 0 is smoothed, 1 the image itself."""
    return ImageEnhance.Sharpness(image).enhance(factor)


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
    """An operation and how a magnitude becomes its argument.

    Attributes:
        apply: from an image, and the argument if there is one, and `resample` and `fill` if it is geometric.
        argument: from the share that the magnitude is of 10, a random number in [0, 1), and the largest translation as
            a share of the side; None if there is no argument.
        random: does the argument depend on the random number? Its upper half stands for the negative sign.
        geometric: does it move pixels?
    """

    apply: Callable[..., Image.Image]
    argument: Callable[[float, float, float], float] | None = None
    random: bool = False
    geometric: bool = False


def _signed(value: float, chance: float) -> float:
    return -value if chance > 0.5 else value


def _enhance(x: float, u: float, t: float) -> float:
    return x * 1.8 + 0.1


def _enhance_increasing(x: float, u: float, t: float) -> float:
    return max(0.1, 1.0 + _signed(x * 0.9, u))


def _enhance_wide(x: float, u: float, t: float) -> float:
    return 1.0 + _signed(0.99 * x, u)


def _blur_radius(x: float, u: float, t: float) -> float:
    return 0.1 + (2.0 * min(1.0, x) - 0.1) * u


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
    "Color": Op(color, _enhance),
    "ColorIncreasing": Op(color, _enhance_increasing, random=True),
    "Contrast": Op(contrast, _enhance),
    "ContrastIncreasing": Op(contrast, _enhance_increasing, random=True),
    "Brightness": Op(brightness, _enhance),
    "BrightnessIncreasing": Op(brightness, _enhance_increasing, random=True),
    "Sharpness": Op(sharpness, _enhance),
    "SharpnessIncreasing": Op(sharpness, _enhance_increasing, random=True),
    "ShearX": Op(shear_x, lambda x, u, t: _signed(x * 0.3, u), random=True, geometric=True),
    "ShearY": Op(shear_y, lambda x, u, t: _signed(x * 0.3, u), random=True, geometric=True),
    "TranslateXRel": Op(translate_x, lambda x, u, t: _signed(x * t, u), random=True, geometric=True),
    "TranslateYRel": Op(translate_y, lambda x, u, t: _signed(x * t, u), random=True, geometric=True),
    "Desaturate": Op(desaturate, lambda x, u, t: min(1.0, 0.5 + 0.5 * x)),
    "GaussianBlur": Op(gaussian_blur, lambda x, u, t: min(2.0, 0.1 + (2.0 - 0.1) * x)),
    "GaussianBlurRand": Op(gaussian_blur, _blur_radius, random=True),
}


def _tangent_x(factor: float) -> float:
    return math.tan(_angle(factor))


def _tangent_y(factor: float) -> float:
    return math.sin(_angle(factor)) / math.cos(_angle(factor))


def _angle(factor: float) -> float:
    # torchvision shears by angles, in degrees: it is these roundings that pixels halfway between two levels depend on.
    return math.radians(math.degrees(math.atan(factor)))


# torchvision's `TrivialAugmentWide`; x is one of 31 shares from 0 to 1.
TRIVIAL_OPS = {
    "Identity": Op(lambda image: image),
    "ShearX": Op(shear_x, lambda x, u, t: _tangent_x(_signed(0.99 * x, u)), random=True, geometric=True),
    "ShearY": Op(shear_y, lambda x, u, t: _tangent_y(_signed(0.99 * x, u)), random=True, geometric=True),
    "TranslateX": Op(translate_x_pixels, lambda x, u, t: _signed(32 * x, u), random=True, geometric=True),
    "TranslateY": Op(translate_y_pixels, lambda x, u, t: _signed(32 * x, u), random=True, geometric=True),
    "Rotate": Op(rotate, lambda x, u, t: _signed(135 * x, u), random=True, geometric=True),
    "Brightness": Op(brightness, _enhance_wide, random=True),
    "Color": Op(color, _enhance_wide, random=True),
    "Contrast": Op(contrast, _enhance_wide, random=True),
    "Sharpness": Op(sharpness, _enhance_wide, random=True),
    "Posterize": Op(posterize, lambda x, u, t: 8 - round(6 * x)),
    "Solarize": Op(ImageOps.solarize, lambda x, u, t: 255 - 255 * x),
    "AutoContrast": Op(ImageOps.autocontrast),
    "Equalize": Op(ImageOps.equalize),
}

"""Cutting a part out of an image and resizing it: Pillow's pixels, sooner where numba is installed."""

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]
COMPILED = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def resize_part(pixels: np.ndarray, box: Box, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """A part of an image, resized by itself: nothing outside the part is looked at.

    Args:
        pixels: uint8 `(height, width, 3)`, or `(height, width)` for greyscale.
        box: left, upper, right and lower edge of the part.
        size: height and width of the result.
        resample: filter.

    Returns:
        the same as Pillow's `crop` and `resize`.
    """
    left, top, right, bottom = box
    part = pixels[top:bottom, left:right]
    resize = _compiled() if resample in COMPILED else None
    return (resize or _pillows)(part, size, resample)


def _pillows(part: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return Image.fromarray(part).resize((size[1], size[0]), resample)


Resize = Callable[[np.ndarray, tuple[int, int], Image.Resampling], Image.Image]


@functools.cache
def _compiled() -> Resize | None:
    """Compiled resizing; None without numba, or if the Pillow that is installed computes otherwise than version 12."""
    try:
        from nfjax.augment import kernels
    except (ImportError, RuntimeError):  # no numba; none for this numpy; no folder where it may keep compiled code
        return None

    def resize(part: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
        resized = kernels.resize(np.atleast_3d(part), *size, resample == Image.Resampling.BICUBIC)
        return Image.fromarray(resized.squeeze(-1) if part.ndim == 2 else resized)

    return resize if _equal(resize) else None


def _equal(resize: Resize) -> bool:
    """Whether noise, made larger and smaller, comes out as from Pillow."""
    noise = np.random.default_rng(0).integers(0, 256, (97, 61, 3), np.uint8)
    return all(
        resize(noise, size, resample) == _pillows(noise, size, resample)
        for resample in COMPILED
        for size in ((30, 17), (64, 200), (97, 61), (224, 224), (1, 3))
    )

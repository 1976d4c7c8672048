"""Cropping an image and resizing the crop: Pillow's pixels, faster where numba is installed."""

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]
COMPILED = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def resize_part(pixels: np.ndarray, box: Box, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """A part of an image, resized to `(height, width)` by itself, as by Pillow's `crop` and `resize`.

    Args:
        pixels: uint8 `(height, width, 3)`, or `(height, width)` for greyscale.
        box: left, upper, right and lower edge of the part.
    """
    left, top, right, bottom = box
    resize = _compiled() if resample in COMPILED else None
    return (resize or _pillows)(pixels[top:bottom, left:right], size, resample)


def _pillows(part: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return Image.fromarray(part).resize((size[1], size[0]), resample)


Resize = Callable[[np.ndarray, tuple[int, int], Image.Resampling], Image.Image]
HeightFirst = Callable[[tuple[int, ...], tuple[int, int]], bool]  # whether, by the sizes before and after


@functools.cache
def _compiled() -> Resize | None:
    """Compiled resizing, in the order of the installed Pillow; None without numba, or if that order is unknown."""
    try:
        from nfjax.augment import kernels
    except (ImportError, RuntimeError):  # no numba; none for this numpy; no folder where it may keep compiled code
        return None

    def in_order(order: HeightFirst) -> Resize:
        def resize(part: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
            cubic, first = resample == Image.Resampling.BICUBIC, order(part.shape, size)
            resized = kernels.resize(np.atleast_3d(part), *size, cubic, first)
            return Image.fromarray(resized.squeeze(-1) if part.ndim == 2 else resized)

        return resize

    order = height_first(in_order)
    return None if order is None else in_order(order)


def height_first(in_order: Callable[[HeightFirst], Resize]) -> HeightFirst | None:
    """With which order a resizing of ours is that of the installed Pillow; None if with none."""
    return next((order for order in ORDERS if _equal(in_order(order))), None)


def _never(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Pillow's order up to version 12."""
    return False


def _where_it_shrinks_most(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Pillow's order from version 13 on."""
    lost_height, lost_width = shape[0] - size[0], shape[1] - size[1]
    return lost_height > max(0, 2 * lost_width)


ORDERS = (_never, _where_it_shrinks_most)


def _equal(resize: Resize) -> bool:
    """Does resized noise equal Pillow's? The last two sizes show where its order changes."""
    noise = np.random.default_rng(0).integers(0, 256, (97, 61, 3), np.uint8)
    return all(
        resize(noise, size, resample) == _pillows(noise, size, resample)
        for resample in COMPILED
        for size in ((30, 17), (64, 200), (97, 61), (224, 224), (1, 3), (31, 28), (30, 28))
    )

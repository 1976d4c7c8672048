"""A part of a resized image without the rest of it, which can take gigabytes: Pillow's integers, by numpy.

An image of 1x65535 pixels whose short side becomes 256 has 16 million rows, of which a model sees 224.
"""

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

from nfjax.augment.resize import Box, HeightFirst, height_first

BITS = 22  # of the weights behind the point, in Pillow's `Resample.c`
Filter = Callable[[np.ndarray], np.ndarray]
Taps = list[tuple[int, np.ndarray]]  # of each output row: the first input row, and the weights from there on


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.where(x < 1, 1 - x, 0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    outer = np.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, outer)


# Weights by distance, and how far they reach.
FILTERS: dict[Image.Resampling, tuple[Filter, int]] = {
    Image.Resampling.BILINEAR: (_bilinear, 1),
    Image.Resampling.BICUBIC: (_bicubic, 2),
}


def resize_window(
    image: Image.Image, size: tuple[int, int], window: Box, resample: Image.Resampling
) -> Image.Image | None:
    """A part of a resized image, as by Pillow's `resize` and `crop`; None where it is not known how Pillow resizes.

    Args:
        image: of mode "RGB" or "L".
        size: height and width of the whole resized image.
        window: left, upper, right and lower edge of the part, within `size`.
    """
    order = _order() if resample in FILTERS else None
    return None if order is None else _window(image, size, window, resample, order)


def _window(
    image: Image.Image, size: tuple[int, int], window: Box, resample: Image.Resampling, order: HeightFirst
) -> Image.Image:
    left, top, right, bottom = window
    rows = _taps(image.height, size[0], range(top, bottom), *FILTERS[resample])
    columns = _taps(image.width, size[1], range(left, right), *FILTERS[resample])
    (low, high), (first, last) = _reach(rows), _reach(columns)
    pixels = np.asarray(image.crop((first, low, last, high)))
    passes = [
        (0, [(at - low, weights) for at, weights in rows]),
        (1, [(at - first, weights) for at, weights in columns]),
    ]
    for axis, taps in passes if order((image.height, image.width), size) else reversed(passes):
        pixels = np.moveaxis(_summed(np.moveaxis(pixels, axis, 0), taps), 0, axis)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _taps(total: int, count: int, places: range, weight: Filter, reach: int) -> Taps:
    """What each of the rows at `places`, of `count`, is a sum of, of `total` rows."""
    scale = total / count
    spread = max(scale, 1.0)
    taps = []
    for place in places:
        center = (place + 0.5) * scale
        first = max(int(center - reach * spread + 0.5), 0)
        last = min(int(center + reach * spread + 0.5), total)
        weights = weight(np.abs((np.arange(first, last) - center + 0.5) * (1.0 / spread)))
        shares = weights / np.cumsum(weights)[-1] * (1 << BITS)  # cumsum adds in order, as Pillow does
        taps.append((first, np.trunc(shares + np.where(shares >= 0, 0.5, -0.5)).astype(np.int64)))
    return taps


def _reach(taps: Taps) -> tuple[int, int]:
    """The first input row that is needed, and the one after the last."""
    return taps[0][0], taps[-1][0] + len(taps[-1][1])


def _summed(pixels: np.ndarray, taps: Taps) -> np.ndarray:
    """Rows as sums of rows."""
    resized = np.empty((len(taps), *pixels.shape[1:]), np.uint8)
    for row, (first, weights) in zip(resized, taps, strict=True):
        sums = np.tensordot(weights, pixels[first : first + len(weights)].astype(np.int64), 1) + (1 << (BITS - 1))
        row[:] = np.clip(sums >> BITS, 0, 255)
    return resized


@functools.cache
def _order() -> HeightFirst | None:
    """The order of the installed Pillow, if it is known."""

    def in_order(order: HeightFirst) -> Callable[..., Image.Image]:
        return lambda part, size, resample: _window(
            Image.fromarray(part), size, (0, 0, size[1], size[0]), resample, order
        )

    return height_first(in_order)

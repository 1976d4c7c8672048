"""Pillow's resizing, compiled by numba: the same integers, several at a time, and without the GIL.

Each output row is a weighted sum of input rows, in fixed point, and so is each output column. Pillow (`Resample.c`)
goes pixel by pixel; here a whole row is added at once, which the compiler vectorises, and for columns the image is
transposed before and after. Floating-point operations keep Pillow's order: weights are rounded to integers, which must
be Pillow's.
"""

import math

import numba
import numpy as np

BITS = 22  # of the weights behind the point
PIXELS = numba.types.Array(numba.uint8, 3, "A", readonly=True)  # any strides: compiled once for all


@numba.njit(nogil=True, cache=True)
def _weight(x: float, cubic: bool) -> float:
    """Of a pixel at a distance `x` (Pillow's `bilinear_filter` and `bicubic_filter`)."""
    if not cubic:
        return 1.0 - x if x < 1.0 else 0.0
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0


@numba.njit(nogil=True, cache=True)
def _transposed(pixels: np.ndarray) -> np.ndarray:
    """Columns as rows."""
    rows, columns, channels = pixels.shape
    transposed = np.empty((columns, rows, channels), np.uint8)
    for row in range(rows):
        for column in range(columns):
            for channel in range(channels):
                transposed[column, row, channel] = pixels[row, column, channel]
    return transposed


@numba.njit(nogil=True, cache=True)
def _rows(pixels: np.ndarray, count: int, cubic: bool) -> np.ndarray:
    """`count` rows instead of as many as there are."""
    rows, columns, channels = pixels.shape
    flat = pixels.reshape(rows, columns * channels)
    resized = np.empty((count, columns * channels), np.uint8)
    sums = np.empty(columns * channels, np.int32)
    scale = rows / count
    spread = max(scale, 1.0)
    reach = spread * (2.0 if cubic else 1.0)
    weights = np.empty(math.ceil(reach) * 2 + 1)
    for place in range(count):
        center = (place + 0.5) * scale
        first = max(int(center - reach + 0.5), 0)
        last = min(int(center + reach + 0.5), rows)
        total = 0.0
        for row in range(first, last):
            weights[row - first] = _weight(abs((row - center + 0.5) * (1.0 / spread)), cubic)
            total += weights[row - first]
        sums[:] = 1 << (BITS - 1)
        for row in range(first, last):
            share = weights[row - first] / total * (1 << BITS)
            fixed = np.int32(share + 0.5 if share >= 0 else share - 0.5)
            for index in range(columns * channels):
                sums[index] += np.int32(flat[row, index]) * fixed
        for index in range(columns * channels):
            resized[place, index] = np.uint8(min(max(sums[index] >> BITS, 0), 255))
    return resized.reshape(count, columns, channels)


@numba.njit(
    numba.uint8[:, :, ::1](PIXELS, numba.int64, numba.int64, numba.boolean, numba.boolean), nogil=True, cache=True
)
def resize(pixels: np.ndarray, height: int, width: int, cubic: bool, height_first: bool) -> np.ndarray:
    """An image, uint8 `(rows, columns, channels)`, also a part of a larger array, as one of another size.

    Args:
        cubic: bicubic, otherwise bilinear; both widened where the image shrinks, as in Pillow.
        height_first: otherwise the width; the result differs, because what lies between is rounded.
    """
    if height_first:
        return _transposed(_rows(_transposed(_rows(np.ascontiguousarray(pixels), height, cubic)), width, cubic))
    return _rows(_transposed(_rows(_transposed(pixels), width, cubic)), height, cubic)

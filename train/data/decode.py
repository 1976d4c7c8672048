"""From the bytes of an image file to pixels."""

import functools
import io
from typing import Any

import numpy as np
from PIL import Image

from nfjax.images import Mode, convert, load_image, max_pixels


class _File(io.BytesIO):
    """Bytes with a name, for messages."""

    name: str


def decode(image: bytes | np.ndarray, name: str, mode: Mode = "RGB") -> np.ndarray:
    """The pixels of an image, as Pillow decodes it, and so timm; the orientation that EXIF asks for is not applied.

    Args:
        image: the bytes of a file, or pixels.
        name: of the image, for messages.

    Returns:
        uint8 `(height, width, 3)`, or `(height, width)` for "L".

    Raises:
        nfjax.images.ImageError: no image, or damaged.
    """
    if isinstance(image, np.ndarray):
        return np.asarray(convert(Image.fromarray(image.squeeze(-1) if image.shape[2:] == (1,) else image), mode))
    fast = _jpeg(image) if mode == "RGB" and image.startswith(b"\xff\xd8\xff") else None
    if fast is not None:
        return fast
    file = _File(image)
    file.name = name
    return np.asarray(load_image(file, mode))


def _jpeg(data: bytes) -> np.ndarray | None:
    """A common, undamaged JPEG, decoded by simplejpeg: the same pixels as Pillow's, sooner; None for any other.

    Damage that simplejpeg refuses, Pillow may still read; CMYK it reads differently.
    """
    library = _simplejpeg()
    if library is None:
        return None
    try:
        height, width, colorspace, _ = library.decode_jpeg_header(data)
        if colorspace != "YCbCr" or height * width > max_pixels("JPEG"):
            return None
        pixels: np.ndarray = library.decode_jpeg(data, "RGB")
        return pixels
    except ValueError:
        return None


@functools.cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg

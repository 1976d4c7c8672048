"""Image files and Pillow images of any mode, as RGB: what timm does, and where timm's way would spoil the pixels."""

import contextlib
import functools
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from port.paths import no_file

Mode = Literal["RGB", "L"]
ImageFile = str | os.PathLike[str] | IO[bytes]
INTERPOLATIONS = {
    name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos", "hamming", "box")
}

# Those of Pillow's formats that are read. Others would call another program, or are no pictures.
FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA"),
    *("TIFF", "WEBP"),
)
# A gigabyte for one image. A pixel takes four bytes as Pillow holds it; beside that its decoder may hold all of the
# image in its own way, or it is converted to four more. So many bytes at the most, by format, as measured.
MAX_BYTES = 1_050_000_000
COST, COSTS = 10, {"JPEG2000": 25, "WEBP": 16, "AVIF": 16}
FOUR_CHANNELS = ({"JPEG", "MPO", "TIFF"}, 12)  # formats, whose decoders may hold two bytes for each, and the cost
ROW = 2  # pixels' worth of what Pillow holds beside each row
PART = 1 << 22  # pixels that are looked at at once, where numbers are checked
JUNK = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}  # folders that systems make


class ImageError(ValueError):
    """A file that is no image or is damaged, or pixels that have no agreed scale."""


@functools.cache
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that the installed Pillow can read."""
    Image.init()  # it loads them
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """Endings of image files, sorted."""
    return tuple(sorted(end for end, name in Image.registered_extensions().items() if name in formats()))


def walk(
    root: str | os.PathLike[str],
    passed: Counter[str] | None = None,
    *,
    _above: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[tuple[str, int]]:
    """The image files in a folder and in the folders within it: paths relative to it, with "/", and sizes in bytes.

    By name, folder by folder. Links to folders are followed, but not round in a circle. Hidden files and folders, whose
    names begin with a dot, and what is no regular file are passed over.

    Args:
        passed: counts what is passed over, by its ending or by what it is.
    """
    passed = Counter() if passed is None else passed
    status = os.stat(root)
    above = _above | {(status.st_dev, status.st_ino)}
    with os.scandir(root) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        ending = os.path.splitext(entry.name)[1].lower()
        try:
            status = entry.stat()
        except OSError:  # it leads nowhere, or to itself
            passed["broken links"] += 1
            continue
        if entry.name.startswith(".") or entry.name in JUNK:
            passed["hidden"] += 1
        elif stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in above:
                passed["links in a circle"] += 1
                continue
            for path, size in walk(entry.path, passed, _above=above):
                yield f"{entry.name}/{path}", size
        elif not stat.S_ISREG(status.st_mode):
            passed["no regular files"] += 1
        elif ending in image_suffixes():
            yield entry.name, status.st_size
        else:
            passed[ending or "without an ending"] += 1


def passed_over(passed: Counter[str]) -> str:
    """What `walk` has counted, in words: "3 .txt, 1 hidden"; empty if it is nothing."""
    return ", ".join(f"{count} {what}" for what, count in passed.most_common())


def load_image(file: ImageFile, mode: Mode = "RGB", *, exif: bool = False) -> Image.Image:
    """The first frame of an image file, decoded.

    The same pixels as `PIL.Image.open(file).convert(mode)`, with which timm reads images; `convert` says where not.

    Args:
        file: a path, or an object with `read` and `seek` that gives bytes.
        mode: "RGB", or "L" for one channel.
        exif: turn the image as its EXIF orientation says. timm, and so every published accuracy, does not.

    Raises:
        FileNotFoundError: there is no such file.
        ImageError: the file is a folder, is no image, or is damaged or cut short; the message names file and reason.
    """
    if isinstance(file, bytes):
        raise ImageError(f"found {len(file)} bytes, expected a path or a file; wrap contents as io.BytesIO(data).")
    with _opened(file) as image:
        image.load()
        return convert(image, mode, exif=exif)


def identify(file: ImageFile) -> None:
    """Open an image file without decoding it; an error as from `load_image` if it is none."""
    with _opened(file):
        pass


@contextlib.contextmanager
def _opened(file: ImageFile) -> Iterator[Image.Image]:
    """The image in a file, not decoded yet. Whatever goes wrong while it is used is an error that names the file."""
    name = os.fspath(file) if isinstance(file, str | os.PathLike) else getattr(file, "name", repr(file))
    if isinstance(file, str | os.PathLike) and os.path.exists(file):
        _require_regular(file)
    try:
        with Image.open(file, formats=formats()) as image:
            _require_bearable(image)
            yield image
    except FileNotFoundError:
        raise no_file(name) from None
    except PermissionError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image that Pillow can read: {_beginning(file)}.") from None
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Exception as error:  # damaged data makes Pillow's decoders raise almost any error
        raise ImageError(f"{name} cannot be decoded: {type(error).__name__}: {error}") from error


def max_pixels(form: str | None, channels: int = 3) -> int:
    """How many pixels an image may have, and `ROW` more for each row, by its format as Pillow calls it."""
    formats, cost = FOUR_CHANNELS
    return MAX_BYTES // (cost if form in formats and channels > 3 else COSTS.get(form or "", COST))


def _require_bearable(image: Image.Image) -> None:
    most = max_pixels(image.format, len(image.getbands()))
    if (image.width + ROW) * image.height > most:
        raise ImageError(
            f"{image.width}x{image.height} pixels; expected at most {most:,} in a {image.format} of mode {image.mode}, "
            f"where each row counts as {ROW} more. Make it smaller."
        )


def _require_regular(file: str | os.PathLike[str]) -> None:
    """Refuse folders, and what could be read for ever: pipes and devices."""
    kind = os.stat(file).st_mode
    if stat.S_ISDIR(kind):
        raise ImageError(f"{os.fspath(file)} is a folder; pass the image files in it one by one.")
    if not stat.S_ISREG(kind):
        raise ImageError(f"{os.fspath(file)} is no regular file, but a pipe or a device.")


def to_rgb(image: Image.Image, *, exif: bool = False) -> Image.Image:
    """`convert(image, "RGB")`."""
    return convert(image, "RGB", exif=exif)


def convert(image: Image.Image, mode: Mode = "RGB", *, exif: bool = False) -> Image.Image:
    """An image of any mode as 8-bit RGB or greyscale; the image itself if it is that already.

    Equal to timm's `image.convert(mode)`, without its warning about transparent palettes, except where Pillow would
    clip: 16-bit images (modes I;16 and I) keep the high byte of each pixel, as Pillow itself does with 16-bit colour,
    where `Image.convert` makes everything above 255 white.

    Args:
        image: any Pillow image. Alpha is dropped, not blended, and colour profiles are ignored, as in timm.
        mode: "RGB", or "L" for one channel.
        exif: turn the image as its EXIF orientation says.

    Raises:
        ImageError: no pixels; a mode without conversion; 32-bit integers outside 0 to 65535; floating point outside
            0 to 255, or all within 0 to 1, where timm would see black.
    """
    if not isinstance(image, Image.Image):
        raise ImageError(
            f"found {type(image).__name__}, expected a PIL image: nfjax.load_image(file), or "
            "PIL.Image.fromarray(array) of uint8 (height, width, 3)."
        )
    if not image.width or not image.height:
        raise ImageError(f"an image of {image.width}x{image.height} pixels; expected at least one each way.")
    if exif:
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _high_byte(image)
    elif image.mode == "F":
        _check_float(image)
    if image.mode == mode:
        return image
    if "transparency" in image.info:  # Pillow warns that this cannot be kept
        image = image.copy()
        del image.info["transparency"]
    try:
        return image.convert(mode)
    except ValueError as error:
        raise ImageError(f"an image of mode {image.mode} cannot become {mode}: {error}.") from None


def _high_byte(image: Image.Image) -> Image.Image:
    """A greyscale image of 16 bits a pixel as one of 8."""
    eight = np.empty((image.height, image.width), np.uint8)
    extremes: list[Any] = []
    for place, pixels in _parts(image):
        extremes += [pixels.min(), pixels.max()]
        np.right_shift(pixels, 8, out=eight[place], casting="unsafe")
    low, high = min(extremes), max(extremes)
    if low < 0 or high > 65535:
        raise ImageError(
            f"an image of 32-bit integers from {low} to {high}; expected 16 bits, 0 to 65535. Scale it and pass "
            "PIL.Image.fromarray(array) of uint8."
        )
    return Image.fromarray(eight)


def _parts(image: Image.Image) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """The pixels of a greyscale image, and where they are: of a large one in parts, lest all of it is there twice."""
    width = min(image.width, PART)
    height = min(image.height, PART // width)
    for top in range(0, image.height, height):
        for left in range(0, image.width, width):
            right, bottom = min(left + width, image.width), min(top + height, image.height)
            part = image if (width, height) == image.size else image.crop((left, top, right, bottom))
            yield (slice(top, bottom), slice(left, right)), np.asarray(part)


def _check_float(image: Image.Image) -> None:
    """Refuse floating-point pixels that are clearly not on timm's scale of 0 to 255."""
    extremes = np.array([(pixels.min(), pixels.max()) for _, pixels in _parts(image)])
    low, high = extremes[:, 0].min(), extremes[:, 1].max()  # of numpy: NaN is both
    if not (low >= 0 and high <= 255) or 0 < high <= 1:
        raise ImageError(
            f"an image of floating-point pixels from {low:g} to {high:g}; expected 0 to 255. Scale it and pass "
            "PIL.Image.fromarray(array) of uint8."
        )


def _beginning(file: ImageFile) -> str:
    """The first bytes of a file, to tell a web page or an archive from an image."""
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as stream:
            head = stream.read(16)
    else:
        file.seek(0)
        head = file.read(16)
    return f"it begins with {head!r}" if head else "it is empty"


def normalize(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """uint8 `(height, width, channels)` as float32, in units of `std` from `mean` (pixels in [0, 1], by channel)."""
    # Rows of (width * channels): numpy is several times slower on an innermost axis of three.
    rows = pixels.astype(np.float32).reshape(len(pixels), -1)
    # The three roundings of torch's ToTensor and Normalize, in their order: folding them changes bits.
    rows /= np.float32(255)
    rows -= np.tile(np.asarray(mean, np.float32), pixels.shape[1])
    rows /= np.tile(np.asarray(std, np.float32), pixels.shape[1])
    return rows.reshape(pixels.shape)

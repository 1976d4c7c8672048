"""Images as people give them: files, addresses, standard input, arrays and Pillow's own."""

import io
import os
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from typing import IO, Any, TypeAlias

import numpy as np
from PIL import Image

from nfjax.images import ImageError, ImageFile, Mode, convert, load_image
from nfjax.support.early import STDIN, is_url
from port.paths import is_remote, user_path
from port.stores import Store
from port.text import cut, file_size, one_line

Given: TypeAlias = "Image.Image | np.ndarray | ImageFile"

MAX_BYTES = 1 << 26  # of an image that is fetched, or comes from standard input
TIME = 30.0  # seconds until it must be there
CHUNK = 1 << 16


class Named(io.BytesIO):
    """The bytes of a file, with its name for messages."""

    def __init__(self, data: bytes, name: str):
        super().__init__(data)
        self.name = name


def read_image(given: Any, mode: Mode = "RGB", *, exif: bool = False) -> Image.Image:
    """An image, decoded: `load_image` of what has to be fetched or wrapped first, too.

    Args:
        given: a path, also as `pathlib.Path`; an http://, https://, s3://, gs:// or file:// address; an open
            file; a PIL image; or an array of uint8, `(height, width, 3)`, with 4 channels (the last is dropped), with
            1, or `(height, width)`.
        mode: "RGB", or "L" for one channel.
        exif: turn the image as its EXIF orientation says.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: the address cannot be reached in time, or says that it has no such file.
        nfjax.images.ImageError: no image, a damaged or too large one, or something else than what is listed above.
    """
    if isinstance(given, Image.Image):
        return convert(given, mode, exif=exif)
    if isinstance(given, str) and is_url(given):
        return load_image(fetch(given), mode, exif=exif)
    if isinstance(given, str) and given.startswith("file://"):
        given = user_path(given)
    if isinstance(given, str | os.PathLike | bytes) or hasattr(given, "read"):
        return load_image(given, mode, exif=exif)
    if hasattr(given, "__array__"):
        return convert(_of_array(np.asarray(given)), mode)
    raise ImageError(
        f"found {type(given).__name__}, expected an image: a path, an http(s) address, a PIL image or a uint8 array of "
        "shape (height, width, 3); for several, a list of them."
    )


def _of_array(array: np.ndarray) -> Image.Image:
    fits = array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4)))
    if not fits:
        several = " Several images are a list: list(array)." if array.ndim == 4 else ""
        raise ImageError(
            f"found an array of shape {array.shape} and {array.dtype}, expected uint8 of 0 to 255, (height, width, 3)."
            f"{several}"
        )
    return Image.fromarray(array.squeeze(-1) if array.shape[2:] == (1,) else array)


def standard_input() -> Named:
    """All that comes from standard input.

    Raises:
        ValueError: it is a terminal, is closed, or brings more than an image may have.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise ValueError(f"{STDIN} is standard input, and nothing is piped into it: `nfjax ... {STDIN} < cat.jpg`.")
    return Named(_limited(sys.stdin.buffer, "standard input"), "standard input")


def fetch(url: str) -> Named:
    """What an address has; redirections on the web are followed, to such addresses only.

    Raises:
        ConnectionError: it cannot be reached, answers with an error, or has not sent everything after `TIME` seconds.
        ImageError: more than `MAX_BYTES`.
    """
    found: list[bytes | BaseException] = []

    def get() -> None:
        try:
            found.append(_get(url))
        except BaseException as error:  # raised below
            found.append(error)

    if is_remote(url):  # where it is tried again, and only one answers for the time
        return Named(_stored(url), cut(one_line(url), 300))

    # A thread, because the limit is of everything: looking up the name, and a server that sends a byte now and then.
    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    thread.join(TIME)
    name = cut(one_line(url), 300)
    if not found:
        raise ConnectionError(f"{name} was not there within {TIME:g} seconds.")
    match found[0]:
        case bytes() as data:
            return Named(data, name)
        case ImageError() as error:
            raise ImageError(f"{name}: {error}") from None
        case urllib.error.HTTPError() as error:
            raise ConnectionError(f"{name} cannot be fetched: {error.code} {one_line(error.reason)}.") from None
        case OSError() | HTTPException() | ValueError() as error:
            reason = getattr(error, "reason", error)
            raise ConnectionError(f"{name} cannot be fetched: {one_line(reason) or type(error).__name__}.") from None
        case error:
            raise error


def _get(url: str) -> bytes:
    # Of urllib's handlers only these: none of file:, ftp: or data:, to which a server may redirect.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPRedirectHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    # What people paste may have letters that an address cannot have as they are.
    request = urllib.request.Request(urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]"))
    request.add_header("User-Agent", "nfjax")
    try:
        with opener.open(request, timeout=TIME) as answer:
            return _limited(answer, "it")
    except urllib.error.HTTPError as error:  # it is an open file, too
        error.close()
        raise


def _stored(address: str) -> bytes:
    """The file of an address in an object store."""
    data = Store(address).read()
    return _limited(io.BytesIO(data), address)


def _limited(stream: IO[bytes], what: str) -> bytes:
    """Everything of a stream, unless it is too much."""
    parts: list[bytes] = []
    size = 0
    while chunk := stream.read(CHUNK):
        size += len(chunk)
        if size > MAX_BYTES:
            raise ImageError(f"{what} has more than {file_size(MAX_BYTES)}, the most that an image may have.")
        parts.append(chunk)
    return b"".join(parts)

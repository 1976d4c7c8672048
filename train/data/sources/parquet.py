"""Parquet files with images in them, as bytes.

A row of such a file cannot be had without the many that are packed with it. So the images are copied out of it once,
one after the other into one file in the user's cache, and read from there.
"""

import contextlib
import hashlib
from pathlib import Path

import numpy as np

from nfjax.cache import SWITCH, folder_for
from nfjax.many.inputs import ParquetImages, open_file
from nfjax.support.archives import Place
from port.atomic import replacing
from port.text import one_line


def bytes_in(file: Path, input_key: str | None) -> ParquetImages | None:
    """The images in a parquet file; None if it has their paths."""
    images = open_file(file, input_key, "data.input_key") if file.suffix.lower() == ".parquet" else None
    return images if isinstance(images, ParquetImages) else None


def unpacked(file: Path, images: ParquetImages) -> tuple[Path, np.ndarray]:
    """The file that the images were copied to, and where in it each is, as `nfjax.support.archives.Place`.

    Raises:
        ValueError: nothing is to be kept (NFJAX_CACHE=0).
        OSError: they cannot be copied, as where there is no room.
    """
    folder = folder_for("parquet")
    if folder is None:
        raise ValueError(f"{file}: its images are copied out of it, into the cache, which {SWITCH}=0 has switched off.")
    status = file.stat()
    identity = f"{file.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0{images.digest()}"
    kept = folder / hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    index = kept.with_suffix(".npy")
    with contextlib.suppress(OSError, ValueError):
        sizes = np.load(index)
        if len(sizes) == len(images) and kept.stat().st_size == sizes.sum():
            return kept, _places(sizes)
    sizes = np.zeros(len(images), np.int64)
    try:
        with replacing(kept) as partial, partial.open("wb") as stream:
            for row, item in enumerate(images.items(0, len(images))):
                content = item.content if isinstance(item.content, bytes) else Path(str(item.content)).read_bytes()
                sizes[row] = stream.write(content)
        with replacing(index) as partial, partial.open("wb") as stream:
            np.save(stream, sizes)
    except OSError as error:
        raise OSError(f"{file}: its images could not be copied to {folder}: {one_line(error)}.") from None
    return kept, _places(sizes)


def _places(sizes: np.ndarray) -> np.ndarray:
    places = np.zeros((len(sizes), len(Place._fields)), np.int64)
    places[:, 0] = np.cumsum(sizes) - sizes
    places[:, 1] = places[:, 2] = sizes
    return places

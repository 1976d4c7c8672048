"""Images of any sizes as one batch, for models of timm's NaFlex: `naflexvit_*`.

>>> transform = naflex.create_transform(model, max_seq_len=256)
>>> logits = model(transform.batch(["wide.jpg", "tall.jpg"]))

Each image keeps its aspect ratio and gets as many pixels as `max_seq_len` patches have; what is missing to that length
is padding, which no attention and no pooling sees. `nfjax.models.naflex` says what is in the dictionary.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from nfjax import transforms
from nfjax.images import INTERPOLATIONS, ImageError, ImageFile, convert, load_image, normalize
from nfjax.models.base import ImageModel, Size
from nfjax.models.naflex import NaFlexVitCfg
from nfjax.weights.names import resolve

SEQ_LEN = 576  # timm's default: 24 x 24 patches


@dataclasses.dataclass(frozen=True)
class PatchTransform:
    """Resize an image to at most `max_seq_len` patches, and normalise it (timm `ResizeToSequence`, `Patchify`).

    Attributes:
        patch_size: side of a patch in pixels.
        max_seq_len: the most patches of an image, and as many as each has in a batch.
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", "hamming" or "box": Pillow's, antialiased.
        mean: by channel, of pixels in [0, 1]: three for RGB images, one for greyscale.
        std: likewise.
    """

    patch_size: int
    max_seq_len: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.max_seq_len < 1:
            raise ValueError(f"max_seq_len={self.max_seq_len}; expected at least one patch.")

    def __call__(self, image: Image.Image) -> Float[np.ndarray, "height width channels"]:
        """An image of any size and mode, resized to whole patches and normalised, float32.

        Raises:
            nfjax.images.ImageError: not a PIL image, or one whose pixels have no agreed scale, or too large.
        """
        image = convert(image, "L" if len(self.mean) == 1 else "RGB")
        height, width = sequence_size((image.height, image.width), self.patch_size, self.max_seq_len)
        resized = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        return normalize(np.asarray(resized).reshape(height, width, -1), self.mean, self.std)

    def batch(self, images: Iterable[Image.Image | ImageFile], *, threads: int | None = None) -> dict[str, np.ndarray]:
        """Many images, decoded and transformed in threads, as the dictionary that a model takes.

        Args:
            images: paths, open files or PIL images.
            threads: None for as many as there are cores.
        """

        def one(image: Image.Image | ImageFile) -> np.ndarray:
            return self(image if isinstance(image, Image.Image) else load_image(image))

        if isinstance(images, str | os.PathLike | Image.Image) or hasattr(images, "read"):
            raise ValueError(f"batch takes many images, and found one; write transform.batch([{images!r}]).")
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            return patch_batch(list(pool.map(one, images)), self.patch_size, max_seq_len=self.max_seq_len)


def create_transform(model: ImageModel | str, *, max_seq_len: int = SEQ_LEN, **overrides: Any) -> PatchTransform:
    """The preprocessing of images of any size, with which timm evaluates a NaFlex model.

    Args:
        model: the model, or a name that `nfjax.load` takes.
        max_seq_len: the most patches of an image.
        overrides: `interpolation`, `mean` and `std` instead of the data config's.

    Raises:
        ValueError: a model for images of one size, or other overrides.
    """
    config = model.config if isinstance(model, ImageModel) else resolve(model).entry.config
    if not isinstance(config, NaFlexVitCfg):
        name = model.name if isinstance(model, ImageModel) else model
        raise ValueError(f"{name} takes images of one size in a batch; nfjax.create_transform makes them.")
    if beyond := overrides.keys() - {"interpolation", "mean", "std"}:
        raise ValueError(f"override {', '.join(sorted(beyond))} is not one of interpolation, mean, std.")
    usual = transforms.create_transform(model, **overrides)
    return PatchTransform(config.patch_size, max_seq_len, usual.interpolation, usual.mean, usual.std)


def sequence_size(size: Size, patch_size: int, max_seq_len: int) -> Size:
    """Height and width in pixels of an image that is resized to at most `max_seq_len` patches, of its aspect ratio.

    Both are multiples of the patch. Found by halving, with timm's bounds (`get_image_size_for_seq`).
    """

    def at(ratio: float) -> Size:
        height, width = (max(math.ceil(side * ratio / patch_size), 1) * patch_size for side in size)
        return height, width

    low, high, precision = 1e-6, 100.0, 1e-5
    while high - low >= precision:
        middle = (low + high) / 2
        if math.prod(at(middle)) <= max_seq_len * patch_size**2:
            low = middle
        else:
            high = middle
    if low <= precision:
        raise ImageError(f"an image of {size[1]}x{size[0]} pixels is too large for {max_seq_len} patches.")
    return at(low)


def patch_batch(
    images: Sequence[Float[np.ndarray, "_ _ channels"]], patch_size: int, *, max_seq_len: int | None = None
) -> dict[str, np.ndarray]:
    """Normalised images of any sizes as the dictionary of patches that a model takes (timm `NaFlexCollator`).

    Args:
        images: `(height, width, channels)` each; what is missing to whole patches, below and to the right, is zeros.
        patch_size: side of a patch in pixels.
        max_seq_len: patches of each image, with padding; None for as many as the largest has.

    Returns:
        `patches`, `patch_coord` and `patch_valid`, see `nfjax.models.naflex`.

    Raises:
        ValueError: no image, or one with more patches than `max_seq_len`.
    """
    if not images:
        raise ValueError("no image; expected at least one.")
    found = [_patches(np.asarray(image), patch_size) for image in images]
    longest = max(len(coord) for _, coord in found)
    count = longest if max_seq_len is None else max_seq_len
    if longest > count:
        raise ValueError(f"an image of {longest} patches; max_seq_len={count} has no room for it: resize it before.")
    patches = np.zeros((len(found), count, found[0][0].shape[1]), found[0][0].dtype)
    coords, valid = np.zeros((len(found), count, 2), np.int32), np.zeros((len(found), count), bool)
    for i, (pixels, coord) in enumerate(found):
        patches[i, : len(coord)], coords[i, : len(coord)], valid[i, : len(coord)] = pixels, coord, True
    return {"patches": patches, "patch_coord": coords, "patch_valid": valid}


def _patches(image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches of one image, `(count, side * side * channels)`, and their rows and columns."""
    image = np.pad(image, [(0, -image.shape[0] % side), (0, -image.shape[1] % side), (0, 0)])
    rows, columns = image.shape[0] // side, image.shape[1] // side
    patches = image.reshape(rows, side, columns, side, -1).transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)
    return patches, np.stack(np.unravel_index(np.arange(rows * columns), (rows, columns)), axis=-1)

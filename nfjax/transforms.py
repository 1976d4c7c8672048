"""Preprocessing: a Pillow image becomes the array that timm's own transform makes of it, bit for bit."""

import dataclasses
import math
import operator
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, overload

import numpy as np
from PIL import Image, ImageOps

from nfjax.augment import RandomTransform, create_train_transform
from nfjax.augment.window import resize_window
from nfjax.images import INTERPOLATIONS, ImageError, ImageFile, Mode, convert, load_image, normalize
from nfjax.models.base import ImageModel
from nfjax.models.data_config import CROP_MODES, DataConfig
from nfjax.weights.names import resolve
from port.messages import require_name

Model = ImageModel | DataConfig | str  # itself, its data config or its name
OVERRIDES = ("input_size", "img_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
MAX_RESIZED = 1 << 24  # pixels of a whole resized image; of a larger one only what is kept is computed


@dataclasses.dataclass(frozen=True)
class EvalTransform:
    """Resize, crop, scale to [0, 1] and normalise one image (timm `transforms_imagenet_eval`).

    The image is resized so that `size` is `crop_pct` of it, and its centre is cut out:

    * "center": its short side fits, and what sticks out on the long side is lost.
    * "squash": both sides fit; the aspect ratio changes.
    * "border": its long side fits, and the rest is filled with the mean colour.

    Attributes:
        size: height and width of the result, in pixels.
        crop_pct: share of each side of the resized image that is kept; above 1 adds a frame, black or, with "border",
            of the mean colour.
        crop_mode: "center", "squash" or "border".
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", "hamming" or "box": Pillow's, antialiased.
        mean: by channel, of pixels in [0, 1]: three for RGB images, one for greyscale.
        std: likewise.
    """

    size: tuple[int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        require_name("crop_mode", self.crop_mode, CROP_MODES)
        if self.interpolation == "random":
            raise ValueError(f"interpolation='random' is for training; choose one of {', '.join(INTERPOLATIONS)}.")
        require_name("interpolation", self.interpolation, INTERPOLATIONS)
        if min(self.size) < 1:
            raise ValueError(f"image size {self.size}; expected a height and a width of at least 1 pixel.")
        if not (0 < self.crop_pct < math.inf and min(self.scale_size) >= 1):
            raise ValueError(
                f"crop_pct={self.crop_pct}; expected a share such as 0.9, with which at least one pixel "
                f"remains of {self.size}."
            )
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean) or not min(self.std) > 0:
            raise ValueError(
                f"mean={self.mean} and std={self.std}; expected three of each for RGB or one for grey, std positive."
            )

    @property
    def scale_size(self) -> tuple[int, int]:
        """Height and width that the crop is cut from."""
        height, width = (math.floor(side / self.crop_pct) for side in self.size)
        return height, width

    @property
    def mode(self) -> Mode:
        """Pillow's mode of the images that are cropped: "RGB" or "L"."""
        return "L" if len(self.mean) == 1 else "RGB"

    def __call__(self, image: Image.Image) -> np.ndarray:
        """An image of any size and mode, normalised: float32 `(height, width, 3)`, for greyscale `(height, width, 1)`.

        Raises:
            nfjax.images.ImageError: not a PIL image, or one whose pixels have no agreed scale (see `convert`).
        """
        return normalize(self.pixels(image), self.mean, self.std)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """One image, resized and cropped, but not normalised: uint8 array of the same shape."""
        image = convert(image, self.mode)
        height, width = self._resized(image.height, image.width)
        resample = INTERPOLATIONS[self.interpolation]
        if height * width <= MAX_RESIZED:
            image = image.resize((width, height), resample)
        else:  # the part that is kept alone
            columns, rows = _centre(width, self.size[1]), _centre(height, self.size[0])
            part = resize_window(image, (height, width), (columns[0], rows[0], columns[1], rows[1]), resample)
            if part is None:
                raise ImageError(
                    f"an image of {image.width}x{image.height} pixels becomes one of {width}x{height} before it is "
                    f"cropped; with interpolation={self.interpolation!r} that can be {MAX_RESIZED:,} pixels."
                )
            image = part
        return np.asarray(self._crop(image)).reshape(*self.size, len(self.mean))

    def batch(self, images: Iterable[Image.Image | ImageFile], *, threads: int | None = None) -> np.ndarray:
        """Many images, decoded and transformed in threads (Pillow releases the GIL).

        Args:
            images: paths, open files or PIL images; a lazily opened PIL image may not come twice.
            threads: None for as many as there are cores.

        Returns:
            float32 array `(count, height, width, channels)` in the order of `images`.

        Raises:
            nfjax.images.ImageError: naming the file that cannot be read.
            FileNotFoundError: there is no such file.
        """
        if isinstance(images, str | os.PathLike | Image.Image) or hasattr(images, "read"):
            raise ValueError(f"batch takes many images, and found one; write transform.batch([{images!r}]).")
        images = list(images)
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads}; expected at least 1, or None for one per core.")
        result = np.empty((len(images), *self.size, len(self.mean)), np.float32)

        def put(index: int) -> None:
            image = images[index]
            result[index] = self(image if isinstance(image, Image.Image) else load_image(image, self.mode))

        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            for _ in pool.map(put, range(len(images))):
                pass
        return result

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which an image is resized."""
        target_height, target_width = self.scale_size
        if self.crop_mode == "squash":
            return target_height, target_width
        if self.crop_mode == "center" and target_height == target_width:
            # torchvision's Resize truncates the long side; timm's own, below, rounds.
            short, long = target_height, int(target_height * max(height, width) / min(height, width))
            return (long, short) if width <= height else (short, long)
        ratios = height / target_height, width / target_width
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        # timm fails where a side would vanish, which takes an image some hundred times as long as it is wide.
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _crop(self, image: Image.Image) -> Image.Image:
        """The centre of an image, after padding it where it is too small."""
        height, width = self.size
        missing_x, missing_y = max(0, width - image.width), max(0, height - image.height)
        if missing_x or missing_y:
            border = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
            image = ImageOps.expand(image, border, self._fill())
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))

    def _fill(self) -> int | tuple[int, ...]:
        """Colour of the padding."""
        levels = [round(255 * mean) if self.crop_mode == "border" else 0 for mean in self.mean]
        return tuple(levels) if len(levels) > 1 else levels[0]


def _centre(side: int, kept: int) -> tuple[int, int]:
    """Where the kept pixels of a side begin and end; all of them, if there are no more."""
    start = round((side - kept) / 2)
    return (0, side) if side < kept else (start, start + kept)


@overload
def create_transform(
    model_or_data_config: Model, *, is_training: Literal[False] = False, use_test_size: bool = False, **overrides: Any
) -> EvalTransform: ...


@overload
def create_transform(
    model_or_data_config: Model, *, is_training: Literal[True], use_test_size: bool = False, **overrides: Any
) -> RandomTransform: ...


def create_transform(
    model_or_data_config: Model, *, is_training: bool = False, use_test_size: bool = False, **overrides: Any
) -> EvalTransform | RandomTransform:
    """The preprocessing with which a set of weights was evaluated, or one to train it further with.

    Source: timm `create_transform(**resolve_data_config(...), is_training=...)`; differences from it are 0, in training
    for the same random numbers.

    Args:
        model_or_data_config: a model, a data config, or a name that `nfjax.load` takes.
        is_training: random crop, flip and colour jitter; a policy such as auto_augment="rand-m9-mstd0.5-inc1" if given.
        use_test_size: take the image size and the crop_pct that the weights do best with, `test_input_size` and
            `test_crop_pct`, where the data config has them.
        overrides: instead of the data config's, with timm's names; None counts as not given. `input_size`
            (channels, height, width) or `img_size` (one number, or height and width), `crop_pct`, `crop_mode`,
            `interpolation`, `mean`, `std` (by channel, or one number for all). In training the fields of
            `nfjax.augment.Augment` instead of the cropping.

    Returns:
        A callable from a PIL image to float32 `(height, width, 3)`. For one input channel images become
        greyscale, `(height, width, 1)`, and three means or stds their average, as timm's loader does. In training
        `(image, rng=None)`, whose result follows from the image and the `numpy.random.Generator` alone.

    Raises:
        ValueError: unknown overrides (the closest are suggested) or values; a number of input
            channels other than 1 and 3.
        nfjax.UnknownModelError: no such name.
    """
    if is_training:
        base = {name: overrides.pop(name) for name in ("input_size", "img_size", "mean", "std") if name in overrides}
        whole = create_transform(model_or_data_config, use_test_size=use_test_size, **base)
        options = {"interpolation": None} | overrides  # None: the data config's, as in timm
        data = _data_config(model_or_data_config)
        changed = create_train_transform(data, img_size=whole.size, mean=whole.mean, **options)
        return RandomTransform(changed, whole.mean, whole.std)
    for name in overrides:
        require_name("override", name, OVERRIDES)
    given = {name: value for name, value in overrides.items() if value is not None}
    data = _data_config(model_or_data_config)

    channels, *size = data.input_size
    if "input_size" in given and "img_size" in given:
        raise ValueError("both input_size and img_size are given; input_size alone sets channels, height and width.")
    if "input_size" in given:
        if np.shape(given["input_size"]) != (3,):
            raise ValueError(
                f"input_size={given['input_size']}; expected (channels, height, width). img_size takes a size alone."
            )
        channels, *size = given["input_size"]
    elif "img_size" in given:
        if np.shape(given["img_size"]) not in ((), (2,)):
            raise ValueError(f"img_size={given['img_size']}; expected one number, or (height, width).")
        size = np.broadcast_to(given["img_size"], 2).tolist()
    elif use_test_size and data.test_input_size:
        size = list(data.test_input_size[1:])
    if channels not in (1, 3):
        raise ValueError(
            f"the model takes {channels} channels, and images here have 3 (RGB) or 1 (greyscale). Make the 3-channel "
            f"part with input_size=(3, {size[0]}, {size[1]}) and join the others to it."
        )
    test_crop = data.test_crop_pct if use_test_size else None
    return EvalTransform(
        size=(operator.index(size[0]), operator.index(size[1])),
        crop_pct=float(given.get("crop_pct", test_crop or data.crop_pct)),
        crop_mode=given.get("crop_mode", data.crop_mode),
        interpolation=given.get("interpolation", data.interpolation),
        mean=_per_channel("mean", given.get("mean"), data.mean, channels),
        std=_per_channel("std", given.get("std"), data.std, channels),
    )


def _data_config(source: Any) -> DataConfig:
    """The data config of a model, of a name, or the one given."""
    if isinstance(source, str | os.PathLike):
        found = resolve(source)
        channels = found.model_args.get("in_chans", found.data.input_size[0])
        return dataclasses.replace(found.data, input_size=(channels, *found.data.input_size[1:]))
    data = getattr(source, "data_config", source)
    if not isinstance(data, DataConfig):
        raise ValueError(f"found {type(source).__name__}, expected a model, an nfjax.DataConfig or a model name.")
    return data


def _per_channel(name: str, given: Any, own: Sequence[float], channels: int) -> tuple[float, ...]:
    """The given values, which must fit, or the data config's own, averaged if they are for more channels."""
    if given is None:
        return tuple(own) if len(own) == channels else (float(np.mean(own)),) * channels
    values = np.atleast_1d(given).tolist()
    if len(values) not in (1, channels):
        raise ValueError(f"{name}={given} has {len(values)} values; expected 1 or one for each of {channels} channels.")
    return tuple(map(float, values)) * (channels // len(values))

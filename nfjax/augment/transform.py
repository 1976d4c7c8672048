"""The transform of a training image: a random part of it, resized, flipped, and changed by a policy."""

import dataclasses
import math
import operator
from typing import Any

import numpy as np
from PIL import Image

from nfjax.augment import ops
from nfjax.augment.crops import CROP_MODES, drawn, keep_ratio
from nfjax.augment.options import Augment
from nfjax.augment.policies import Policy, create_policy
from nfjax.augment.resize import Box, resize_part
from nfjax.images import INTERPOLATIONS, ImageError, Mode, convert, normalize
from nfjax.models.data_config import IMAGENET_MEAN, DataConfig
from port.messages import require_name

RANDOM_INTERPOLATION = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
JITTERS = (ops.brightness, ops.contrast, ops.color, ops.hue)


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """`(image, rng) -> uint8 (height, width, channels)`; made by `create_train_transform`.

    The result depends on the image and on the state of `rng` alone. Random numbers are taken in the order of timm's
    `transforms_imagenet_train`.
    """

    size: tuple[int, int]  # height and width of the result, in pixels
    mode: Mode
    resample: tuple[Image.Resampling, ...]  # one is drawn if there are several
    augment: Augment
    policy: Policy | None  # applied after the flips, here or on the device
    # Ranges of the factors of brightness, contrast and saturation, and of the turn of the hue; None: it stays.
    jitter: tuple[tuple[float, float] | None, ...]

    def __call__(self, image: Image.Image | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One image, changed at random.

        Args:
            image: of any size and mode (see `nfjax.images.convert`); or its pixels, of `mode` already: uint8
                `(height, width, 3)`, or `(height, width)` for greyscale, which saves Pillow's copies.
            rng: of this image alone: fold the seed, the epoch and the index of the image into it.

        Raises:
            nfjax.images.ImageError: neither a PIL image nor such an array, or pixels that have no agreed scale.
        """
        pixels = _checked(image, self.mode) if isinstance(image, np.ndarray) else np.asarray(convert(image, self.mode))
        augment, (height, width) = self.augment, pixels.shape[:2]
        if augment.no_aug or augment.train_crop_mode == "rrc":
            ranges = augment.scale, augment.ratio
            box = (0, 0, width, height) if augment.no_aug else random_box(width, height, *ranges, rng)
            resized = resize_part(pixels, box, self.size, drawn(self.resample, rng))
        else:
            centred = augment.train_crop_mode == "rkrc"
            resized = keep_ratio(pixels, self.size, augment.scale, augment.ratio, self.resample, centred, rng)
        if not augment.no_aug:
            resized = self._change(resized, rng)
        return np.asarray(resized).reshape(*self.size, -1)

    def _change(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Everything after cutting and resizing."""
        augment = self.augment
        if augment.hflip > 0 and rng.random() < augment.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if augment.vflip > 0 and rng.random() < augment.vflip:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if self.policy is not None and not augment.on_device:
            image = self.policy(image, rng)
        if self.jitter and (augment.color_jitter_prob is None or rng.random() <= augment.color_jitter_prob):
            image = color_jitter(image, self.jitter, rng)
        if augment.grayscale_prob > 0 and rng.random() < augment.grayscale_prob:
            image = ops.grayscale(image)
        if augment.gaussian_blur_prob > 0 and rng.random() <= augment.gaussian_blur_prob:
            image = ops.blur_by_sums(image, rng.uniform(*ops.BLURS))
        return image


@dataclasses.dataclass(frozen=True)
class RandomTransform:
    """A training transform that normalises too; made by `nfjax.create_transform(..., is_training=True)`.

    `mean` and `std` are those of pixels in [0, 1], by channel.
    """

    pixels: TrainTransform
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        """One image, changed at random and normalised: float32 `(height, width, channels)`.

        Without `rng`, which is as for `TrainTransform`, the result differs each time.
        """
        return normalize(self.pixels(image, np.random.default_rng() if rng is None else rng), self.mean, self.std)


def _checked(pixels: np.ndarray, mode: Mode) -> np.ndarray:
    """Pixels, if they are of a mode."""
    channels = (3,) if mode == "RGB" else ()
    if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.shape[2:] != channels:
        expected = "(height, width, 3)" if channels else "(height, width)"
        raise ImageError(f"found an array {pixels.shape} of {pixels.dtype}, expected uint8 {expected} or a PIL image.")
    return pixels


def random_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """Left, upper, right and lower edge of a random part of an image (timm `RandomResizedCropAndInterpolation`).

    Area and logarithm of the aspect ratio are drawn evenly, ten times at most until they fit. If none fits, it is the
    largest centred part whose aspect ratio is within `ratio`. It has at least one pixel each way, where timm fails.
    """
    logs = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = rng.uniform(*scale) * (width * height)
        aspect = math.exp(rng.uniform(*logs))
        w, h = max(1, round(math.sqrt(area * aspect))), max(1, round(math.sqrt(area / aspect)))
        if w <= width and h <= height:
            top = int(rng.integers(height - h + 1))
            left = int(rng.integers(width - w + 1))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < min(ratio):
        h = round(w / min(ratio))
    elif width / height > max(ratio):
        w = round(h * max(ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def color_jitter(
    image: Image.Image, ranges: tuple[tuple[float, float] | None, ...], rng: np.random.Generator
) -> Image.Image:
    """Brightness, contrast, saturation and hue changed in random order (torchvision `ColorJitter`).

    `ranges` are those of the three factors and of the turn of the hue; None for those that stay.
    """
    order = rng.permutation(len(JITTERS))  # drawn first, then the values
    values = [None if bounds is None else rng.uniform(*bounds) for bounds in ranges]
    for index in order:
        if (value := values[index]) is not None:
            image = JITTERS[index](image, value)
    return image


def create_train_transform(
    data: DataConfig | int | tuple[int, int],
    *,
    img_size: int | tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    **options: Any,
) -> TrainTransform:
    """The transform of training images (timm `create_transform(is_training=True)`); normalising is left to the device.

    Args:
        data: data config of a model, or the size of the result alone: one number, or height and width.
        img_size: instead of the data config's.
        mean: by channel, of pixels in [0, 1]; the policies fill with this colour. Instead of the data config's or of
            ImageNet's. One value makes greyscale images.
        options: fields of `Augment`. `interpolation=None` takes the data config's, and `color_jitter` may be a number.

    Returns:
        `(image, rng) -> uint8 array (height, width, channels)`. It can be pickled.

    Raises:
        ValueError: for unknown options, and for values out of range.
    """
    if not isinstance(data, DataConfig):
        data = DataConfig(input_size=(len(mean or IMAGENET_MEAN), *_pair(data)), mean=mean or IMAGENET_MEAN)
    augment = _augment(options, data.interpolation)
    size = _pair(img_size) if img_size is not None else data.input_size[1:]
    if min(size) < 1:
        raise ValueError(f"image size {size}; expected a height and a width of at least 1 pixel.")
    mean = tuple(mean or data.mean)
    if len(mean) not in (1, 3):
        raise ValueError(f"mean={mean}; expected three numbers for RGB or one for greyscale.")
    levels = tuple(min(255, round(255 * value)) for value in mean)
    random = augment.interpolation == "random"
    resample = RANDOM_INTERPOLATION if random else (INTERPOLATIONS[augment.interpolation],)
    policy = None
    if augment.auto_augment is not None:
        policy = create_policy(augment.auto_augment, fill=levels if len(levels) > 1 else levels[0], resample=resample)
    jitters = policy is None or "3a" in str(augment.auto_augment)
    return TrainTransform(
        size=(size[0], size[1]),
        mode="L" if len(mean) == 1 else "RGB",
        resample=resample,
        augment=augment,
        policy=policy,
        jitter=_jitter_ranges(augment.color_jitter) if jitters else (),
    )


def _augment(options: dict[str, Any], interpolation: str) -> Augment:
    """The options, checked."""
    known = [field.name for field in dataclasses.fields(Augment)]
    for name in options:
        require_name("option", name, known)
    if options.get("interpolation", "") is None or options.get("no_aug"):
        options["interpolation"] = interpolation
    jitter = options.get("color_jitter", Augment.color_jitter)
    options["color_jitter"] = () if jitter is None else tuple(np.atleast_1d(jitter).tolist())
    augment = Augment(**options)
    known = ["random", *INTERPOLATIONS]
    if augment.interpolation not in known:
        raise ValueError(f"interpolation={augment.interpolation!r} is not known; choose one of {', '.join(known)}.")
    require_name("train_crop_mode", augment.train_crop_mode, CROP_MODES)
    for name in ("hflip", "vflip", "color_jitter_prob", "grayscale_prob", "gaussian_blur_prob"):
        value = getattr(augment, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name}={value}; expected a probability from 0 to 1.")
    for name, most in (("scale", 1.0), ("ratio", math.inf)):
        low, high = getattr(augment, name)
        if not 0 < low <= high <= most:
            raise ValueError(f"{name}={low, high}; expected two positive numbers, the smaller one first, up to {most}.")
    return augment


def _jitter_ranges(strengths: tuple[float, ...]) -> tuple[tuple[float, float] | None, ...]:
    """What the factors of brightness, contrast and saturation, and the turn of the hue, are drawn from."""
    if not strengths:
        return ()
    if len(strengths) not in (1, 3, 4) or min(strengths) < 0 or (len(strengths) == 4 and strengths[3] > 0.5):
        raise ValueError(
            f"color_jitter={strengths}; expected one number for brightness, contrast and saturation, one for each, or "
            "another one, at most 0.5, for hue; none of them negative."
        )
    factors = strengths * 3 if len(strengths) == 1 else strengths
    ranges = [(max(0.0, 1 - value), 1 + value) if value > 0 else None for value in factors[:3]]
    turn = factors[3] if len(factors) == 4 else 0
    return (*ranges, (-turn, turn) if turn > 0 else None)


def _pair(size: Any) -> tuple[int, int]:
    """One number, or height and width, as two."""
    if np.shape(size) not in ((), (2,)):
        raise ValueError(f"image size {size!r}; expected one number, or (height, width).")
    height, width = np.broadcast_to(size, 2).tolist()
    return operator.index(height), operator.index(width)

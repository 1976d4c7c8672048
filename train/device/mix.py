"""Mixing the images of a batch with each other, and erasing parts of them: on the device, inside the compiled step.

Random numbers are drawn apart from what is done with them, so that the latter can be compared with timm's for the same
numbers. Everything is a function of the key alone: the same on any mesh.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Integer, Num, PRNGKeyArray

from train.config import Mix
from train.device.normalize import Images, Inputs

ATTEMPTS = 10  # at a rectangle that fits

Labels = Integer[Array, "batch"] | Num[Array, "batch classes"]  # the latter of several labels an image
Targets = Float[Array, "batch classes"]  # add up to 1, unless there are several labels
Step = Integer[Array, ""] | int
Shares = Float[Array, "rows"]
Chosen = Bool[Array, "rows"]
Rectangles = Int32[Array, "rows 4"]  # top, bottom, left, right, the ends excluded
ManyRectangles = Int32[Array, "batch recount 4"]
Places = Int32[Array, "rows"]  # in pixels


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixing:
    """How the images of a batch are mixed. All arrays have one row for the batch, or one for each image."""

    lam: Shares  # of the image itself
    cut: Chosen  # cutmix instead of mixup
    box: Rectangles  # of cutmix


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Erasing:
    """What is erased from the images of a batch."""

    box: ManyRectangles  # empty ones erase nothing
    fill: Float[Array, "#batch #recount #height #width #channels"]  # what stands there instead


MixFn = Callable[[Images, Labels, PRNGKeyArray, Step], tuple[Inputs, Targets]]


def make_mix(
    mix: Mix, num_classes: int, *, smoothing: float = 0.0, off_step: int | None = None, several: bool = False
) -> MixFn | None:
    """Mixup and cutmix of a batch (timm `Mixup`); None if the options say that nothing is ever mixed.

    Each image is mixed with its mirror image in the order of the batch, the last with the first. Batches may be
    spread over devices: one permutation of them swaps their shares, and nothing is gathered. Images may have any range:
    mixing before normalising is the same and moves a quarter of the bytes if they are uint8.

    Args:
        mix: see there.
        num_classes: of the targets.
        smoothing: share of the targets that is spread evenly over all classes, also where nothing is mixed.
        off_step: step from which on nothing is mixed; None for never.
        several: labels are targets of each class already, smoothed, NaN where unknown.

    Raises:
        ValueError: for sides of rectangles in the wrong order.
    """
    if mix.cutmix_minmax and not mix.cutmix_minmax[0] < mix.cutmix_minmax[1]:
        raise ValueError(f"mix.cutmix_minmax={mix.cutmix_minmax}; expected two shares such as (0.2, 0.8).")
    if not (mix.mixup or mix.cutmix or mix.cutmix_minmax) or not mix.mixup_prob:
        return None

    def apply(images: Images, labels: Labels, key: PRNGKeyArray, step: Step) -> tuple[Inputs, Targets]:
        batch, height, width, _ = images.shape
        if batch % 2:
            raise ValueError(f"a batch of {batch} images cannot be mixed in pairs; take an even data.batch_size.")
        mixing = draw_mixing(key, mix, batch, height, width)
        if off_step is not None:
            on = step < off_step
            mixing = dataclasses.replace(mixing, lam=jnp.where(on, mixing.lam, 1), cut=mixing.cut & on)
        if several:
            return apply_mixing(mixing, images, labels, several=True)
        targets = jax.nn.one_hot(labels, num_classes, dtype=mixing.lam.dtype)
        return apply_mixing(mixing, images, targets * (1 - smoothing) + smoothing / num_classes)

    return apply


def make_targets(num_classes: int, smoothing: float, dtype: Any) -> Callable[[Any], Targets]:
    """From several labels an image, int8 `(batch, classes)`, to targets: moved towards a half by the smoothing.

    -1, unknown, becomes NaN; so do classes of the model that the data set does not have.
    """

    def targets(labels: Num[Array, "batch classes"]) -> Float[Array, "batch outputs"]:
        labels = jnp.pad(labels, [(0, 0), (0, num_classes - labels.shape[1])], constant_values=-1)
        known = jnp.where(labels < 0, jnp.nan, labels.astype(dtype))
        return known * (1 - smoothing) + 0.5 * smoothing

    return targets


def make_erase(mix: Mix) -> Callable[[Inputs, PRNGKeyArray], Inputs] | None:
    """Random erasing of normalised images (timm `RandomErasing`); None if nothing is ever erased.

    Up to `recount` rectangles of an image, together 2 % to a third of its area, with aspect ratios from 0.3 to 1 / 0.3.
    """
    if not mix.reprob:
        return None
    return lambda images, key: apply_erasing(draw_erasing(key, mix, images.shape, images.dtype), images)


def draw_mixing(key: PRNGKeyArray, mix: Mix, batch: int, height: int, width: int) -> Mixing:
    """How to mix a batch, drawn at random; the areas of rectangles are in `lam` already."""
    rows = {"batch": 1, "pair": batch // 2, "elem": batch}[mix.mixup_mode]
    keys = jax.random.split(key)
    on, switch, *place = jax.random.uniform(keys[0], (6, rows))  # at once: each call takes long to compile
    cutmix = 1.0 if mix.cutmix_minmax else mix.cutmix  # with minmax the share says no more than whether to mix
    cut = (switch < mix.mixup_switch_prob) | (not mix.mixup) if cutmix else jnp.zeros(rows, bool)
    alpha = jnp.where(cut, cutmix, mix.mixup)
    on = on < mix.mixup_prob
    lam, cut = jnp.where(on, jax.random.beta(keys[1], alpha, alpha, (rows,)), 1), cut & on
    if mix.cutmix_minmax:
        low, high = mix.cutmix_minmax
        h = _below(int(height * high) - int(height * low), place[0]) + int(height * low)
        w = _below(int(width * high) - int(width * low), place[1]) + int(width * low)
        top, left = _below(height - h + 1, place[2]), _below(width - w + 1, place[3])
        box = jnp.stack([top, top + h, left, left + w], -1)
    else:
        box = cutmix_box(lam, _below(height, place[0]), _below(width, place[1]), height, width)
    mixing = Mixing(corrected(lam, cut, box, height, width), cut, box)
    if mix.mixup_mode == "pair":
        mixing = jax.tree.map(lambda a: jnp.concatenate([a, a[::-1]]), mixing)
    return mixing


def _below(end: Int32[Array, "*shape"] | int, chance: Float[Array, "*shape"]) -> Int32[Array, "*shape"]:
    """An integer from 0 to end - 1 for each number in [0, 1)."""
    return jnp.floor(chance * end).astype(jnp.int32)


def cutmix_box(lam: Shares, y: Places, x: Places, height: int, width: int) -> Rectangles:
    """Rectangles of 1 - lam of the area around the pixels (y, x), clipped to the image (timm `rand_bbox`)."""
    ratio = jnp.sqrt(1 - lam)
    h, w = (height * ratio).astype(jnp.int32), (width * ratio).astype(jnp.int32)
    rows, columns = jnp.stack([y - h // 2, y + (h + 1) // 2], -1), jnp.stack([x - w // 2, x + (w + 1) // 2], -1)
    return jnp.concatenate([rows.clip(0, height), columns.clip(0, width)], -1)


def corrected(lam: Shares, cut: Chosen, box: Rectangles, height: int, width: int) -> Shares:
    """The shares of the images themselves: with cutmix, what their rectangles leave (timm `correct_lam`)."""
    top, bottom, left, right = jnp.moveaxis(box, -1, 0)
    area = ((bottom - top) * (right - left)).astype(lam.dtype)
    return jnp.where(cut, 1 - area / (height * width), lam)


def apply_mixing(mixing: Mixing, images: Images, targets: Targets, *, several: bool = False) -> tuple[Inputs, Targets]:
    """Images and targets, each mixed with its mirror image in the order of the batch.

    Of `several` labels an image, one that is unknown (NaN) in either is unknown, unless that one has no share.
    """
    lam, cut = mixing.lam[:, None, None], mixing.cut[:, None, None]
    own = jnp.where(cut, ~inside(mixing.box, *images.shape[1:3]), lam)[..., None].astype(lam.dtype)
    share, other = mixing.lam[:, None], targets[::-1]
    mixed = targets * share + other * (1 - share)
    if several:
        mixed = jnp.where(share == 1, targets, jnp.where(share == 0, other, mixed))
    return images * own + images[::-1] * (1 - own), mixed


def draw_erasing(key: PRNGKeyArray, mix: Mix, shape: tuple[int, ...], dtype: Any) -> Erasing:
    """What to erase from images of a shape, drawn at random."""
    batch, height, width, channels = shape
    keys = jax.random.split(key)
    chances = jax.random.uniform(keys[0], (batch, 2 + mix.recount * (2 + 2 * ATTEMPTS)))
    on, count, place, area, aspect = jnp.split(chances, np.cumsum([1, 1, 2 * mix.recount, ATTEMPTS * mix.recount]), -1)
    tries = batch, mix.recount, ATTEMPTS
    box = erase_boxes(
        count=jnp.where(on < mix.reprob, 1 + _below(mix.recount, count), 0),
        area=0.02 + (1 / 3 - 0.02) * area.reshape(tries),
        aspect=jnp.exp(math.log(0.3) * (1 - 2 * aspect.reshape(tries))),
        place=place.reshape(batch, mix.recount, 2),
        height=height,
        width=width,
    )
    if mix.remode == "pixel":
        fill = jax.random.normal(keys[1], (batch, 1, height, width, channels), dtype)
    elif mix.remode == "rand":
        fill = jax.random.normal(keys[1], (batch, mix.recount, 1, 1, channels), dtype)
    else:
        fill = jnp.zeros((1, 1, 1, 1, 1), dtype)
    return Erasing(box, fill)


def erase_boxes(
    count: Int32[Array, "batch 1"],
    area: Float[Array, "batch recount attempts"],
    aspect: Float[Array, "batch recount attempts"],
    place: Float[Array, "batch recount 2"],
    height: int,
    width: int,
) -> ManyRectangles:
    """Rectangles to erase; those after the first `count`, and those that never fit, are empty.

    Args:
        count: how many rectangles there are.
        area: of all rectangles of an image as a share of it; the first that fits counts.
        aspect: height over width, likewise.
        place: from 0, top and left, to 1, bottom and right.
        height: of the images in pixels.
        width: likewise.
    """
    pixels = area * (height * width) / jnp.maximum(count, 1)[..., None]
    h, w = jnp.round(jnp.sqrt(pixels * aspect)), jnp.round(jnp.sqrt(pixels / aspect))
    fits = (h < height) & (w < width)
    first = fits.argmax(-1, keepdims=True)
    on = fits.any(-1) & (jnp.arange(area.shape[1]) < count)
    h, w = (jnp.where(on, jnp.take_along_axis(s, first, -1)[..., 0], 0).astype(jnp.int32) for s in (h, w))
    top, left = _below(height - h + 1, place[..., 0]), _below(width - w + 1, place[..., 1])
    return jnp.stack([top, top + h, left, left + w], -1)


def apply_erasing(erasing: Erasing, images: Inputs) -> Inputs:
    """Images with rectangles filled, the later over the earlier."""
    for index in range(erasing.box.shape[1]):
        erased = inside(erasing.box[:, index], *images.shape[1:3])[..., None]
        fill = erasing.fill[:, min(index, erasing.fill.shape[1] - 1)]
        images = jnp.where(erased, fill, images)
    return images


def inside(box: Rectangles, height: int, width: int) -> Bool[Array, "rows {height} {width}"]:
    """Which pixels are inside of the rectangles."""
    top, bottom, left, right = jnp.moveaxis(box[..., None], -2, 0)
    y, x = jnp.arange(height), jnp.arange(width)
    return ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None]

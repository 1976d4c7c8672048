"""RandAugment on the device, for hosts that cannot decode and augment fast enough.

All operations are computed for all images and one is kept of each, as a compiled function must. Levels are within one
of Pillow's, which moves pixels in float64; in float64 they are the same.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, PRNGKeyArray, UInt8
from PIL import Image

from nfjax.augment.policies import LEVELS, Policy, RandAugment

Images = UInt8[Array, "batch height width channels"]
Levels = Float[Array, "batch height width channels"]
Values = Float[Array, "batch"]
Indices = Int[Array, "batch"]
Flags = Bool[Array, "batch"]
Table = dict[str, tuple[str, Callable[[Values, Values], Values]]]


def _signed(value: Values, chance: Values) -> Values:
    return jnp.where(chance > 0.5, -value, value)


def _increasing(x: Values, u: Values) -> Values:
    return jnp.maximum(0.1, 1 + _signed(0.9 * x, u))


# What is done, and the argument as in `nfjax.augment.ops.OPS`: x is the share of the full magnitude, u random.
TABLE: Table = {
    "AutoContrast": ("autocontrast", lambda x, u: x),
    "Equalize": ("equalize", lambda x, u: x),
    "Invert": ("solarize", lambda x, u: 0 * x),
    "Rotate": ("rotate", lambda x, u: _signed(30 * x, u)),
    "Posterize": ("posterize", lambda x, u: jnp.floor(4 * x)),
    "PosterizeIncreasing": ("posterize", lambda x, u: 4 - jnp.floor(4 * x)),
    "Solarize": ("solarize", lambda x, u: jnp.floor(256 * x)),
    "SolarizeIncreasing": ("solarize", lambda x, u: 256 - jnp.floor(256 * x)),
    "SolarizeAdd": ("solarize_add", lambda x, u: jnp.minimum(128, jnp.floor(110 * x))),
    "Color": ("color", lambda x, u: 0.1 + 1.8 * x),
    "ColorIncreasing": ("color", _increasing),
    "Contrast": ("contrast", lambda x, u: 0.1 + 1.8 * x),
    "ContrastIncreasing": ("contrast", _increasing),
    "Brightness": ("brightness", lambda x, u: 0.1 + 1.8 * x),
    "BrightnessIncreasing": ("brightness", _increasing),
    "Sharpness": ("sharpness", lambda x, u: 0.1 + 1.8 * x),
    "SharpnessIncreasing": ("sharpness", _increasing),
    "ShearX": ("shear_x", lambda x, u: _signed(0.3 * x, u)),
    "ShearY": ("shear_y", lambda x, u: _signed(0.3 * x, u)),
    "TranslateXRel": ("translate_x", lambda x, u: _signed(0.45 * x, u)),
    "TranslateYRel": ("translate_y", lambda x, u: _signed(0.45 * x, u)),
}
NEIGHBOURS = (-1, 0, 1, 2)
KINDS = sorted({kind for kind, _ in TABLE.values()})


def make_rand_augment(policy: Policy) -> Callable[[Images, PRNGKeyArray], Images]:
    """RandAugment of a batch.

    Raises:
        ValueError: for another policy, or one with operations that are not here.
    """
    filters = {Image.Resampling.BILINEAR, Image.Resampling.BICUBIC}
    if (
        not isinstance(policy, RandAugment)
        or not {step.name for step in policy.steps} <= set(TABLE)
        or not set(policy.settings.resample) <= filters
    ):
        raise ValueError(
            f"{type(policy).__name__}: on the device there is RandAugment, bilinear or bicubic, without Desaturate and "
            "GaussianBlur, as in 'rand-m9-mstd0.5-inc1'; leave other policies to the host."
        )
    settings, count, layers = policy.settings, len(policy.steps), policy.num_layers

    def apply(images: Images, key: PRNGKeyArray) -> Images:
        keys, shape = jax.random.split(key, 3), (layers, len(images))
        on, sign, choice, resample = jax.random.uniform(keys[0], (4, *shape))
        index = jnp.floor(count * choice).astype(jnp.int32)
        if policy.weights is not None:  # without repetition
            scores = jnp.log(jnp.array(policy.weights)) + jax.random.gumbel(keys[1], (len(images), count))
            index = jax.lax.top_k(scores, layers)[1].T
        magnitude = jnp.full(shape, float(policy.steps[0].magnitude))
        if settings.magnitude_std == np.inf:
            magnitude = magnitude * jax.random.uniform(keys[2], shape)
        elif settings.magnitude_std > 0:
            magnitude += settings.magnitude_std * jax.random.normal(keys[2], shape)
        x = magnitude.clip(0, settings.magnitude_max) / LEVELS
        bicubic = jnp.floor(len(settings.resample) * resample).astype(jnp.int32)
        bicubic = jnp.array([filter == Image.Resampling.BICUBIC for filter in settings.resample])[bicubic]
        names = [step.name for step in policy.steps]
        for layer in range(layers):
            kind, value = arguments(names, index[layer], x[layer], sign[layer])
            changed = change(images, kind, value, bicubic[layer], settings.fill)
            images = jnp.where((on[layer] < policy.steps[0].prob)[:, None, None, None], changed, images)
        return images

    return apply


def arguments(names: list[str], index: Indices, x: Values, u: Values) -> tuple[Indices, Values]:
    """Which of `KINDS` the operation `names[index]` of each image is, and its argument."""
    kinds = jnp.array([KINDS.index(TABLE[name][0]) for name in names])
    values = jnp.stack([TABLE[name][1](x, u) for name in names])
    return kinds[index], jnp.take_along_axis(values, index[None], 0)[0]


def change(images: Images, kind: Indices, value: Values, bicubic: Flags, fill: int | tuple[int, ...]) -> Images:
    """One operation for each image.

    Args:
        value: the argument of the operation.
        bicubic: interpolate with cubics; otherwise linearly.
        fill: levels of what comes in from outside.
    """
    matrices = _matrices(kind, value, *images.shape[1:3])
    kind, value = kind[:, None, None, None], value[:, None, None, None]
    x = images.astype(value.dtype)
    grey = _grey(images)
    degenerates = {
        "color": grey,
        "contrast": jnp.round(grey.mean((1, 2, 3), keepdims=True, dtype=value.dtype)),
        "brightness": jnp.zeros_like(grey),
        "sharpness": _smooth(images),
    }
    found = {name: x + (1 - value) * (other - x) for name, other in degenerates.items()}
    found["posterize"] = jnp.floor(x / 2 ** (8 - value)) * 2 ** (8 - value)
    found["solarize"] = jnp.where(x < value, x, 255 - x)
    found["solarize_add"] = jnp.where(x < 128, x + value, x)
    found["autocontrast"] = _autocontrast(x)
    found["equalize"] = _equalize(images)
    conditions = [kind == KINDS.index(name) for name in found]
    result = jnp.select(conditions, [v.astype(x.dtype) for v in found.values()], x)
    moved = [KINDS.index(name) for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")]
    result = jnp.where(jnp.isin(kind, jnp.array(moved)), _sample(x, matrices, bicubic, fill), result)
    return jnp.floor(result.clip(0, 255)).astype(jnp.uint8)


def _grey(images: Images) -> Int[Array, "batch height width 1"]:
    """Luminance (Pillow's conversion to "L")."""
    if images.shape[-1] == 1:
        return images.astype(jnp.int32)
    return (images.astype(jnp.int32) @ jnp.array([19595, 38470, 7471]) + 0x8000)[..., None] >> 16


def _smooth(images: Images) -> Int[Array, "batch height width channels"]:
    """3x3 neighbours, the centre five times, averaged; the border stays (Pillow's SMOOTH)."""
    x = images.astype(jnp.int32)
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * x[:, 1:-1, 1:-1]
    return x.at[:, 1:-1, 1:-1].set((2 * total + 13) // 26)


def _autocontrast(x: Levels) -> Levels:
    low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    scale = 255 / jnp.maximum(high - low, 1)
    return jnp.where(high > low, x * scale - low * scale, x)


def _equalize(images: Images) -> Int[Array, "batch height width channels"]:
    """Levels replaced by their rank, channel by channel (Pillow's `ImageOps.equalize`)."""

    def channel(levels: Int32[Array, "height width"]) -> Int[Array, "height width"]:
        counts = jnp.zeros(256, jnp.int32).at[levels].add(1)
        step = (levels.size - counts[levels.max()]) // 255
        table = (step // 2 + counts.cumsum() - counts) // jnp.maximum(step, 1)
        return jnp.where(step > 0, table, jnp.arange(256))[levels]

    return jax.vmap(jax.vmap(channel, 2, 2))(images.astype(jnp.int32))


def _matrices(kind: Indices, value: Values, height: int, width: int) -> Float[Array, "batch 2 3"]:
    """Where each pixel comes from, in pixels."""
    one, zero = jnp.ones_like(value), jnp.zeros_like(value)
    sine, cosine = jnp.sin(jnp.radians(value)), jnp.cos(jnp.radians(value))
    x, y = width / 2, height / 2
    rows = {
        "rotate": (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y),
        "shear_x": (one, value, zero, zero, one, zero),
        "shear_y": (one, zero, zero, value, one, zero),
        "translate_x": (one, zero, value * width, zero, one, zero),
        "translate_y": (one, zero, zero, zero, one, value * height),
    }
    conditions = [(kind == KINDS.index(name))[:, None] for name in rows]
    return jnp.select(conditions, [jnp.stack(row, -1) for row in rows.values()], 0.0).reshape(-1, 2, 3)


def _sample(x: Levels, matrices: Float[Array, "batch 2 3"], bicubic: Flags, fill: int | tuple[int, ...]) -> Levels:
    """Images at the places of their pixels under affine maps."""
    batch, height, width, channels = x.shape
    column, row, one = jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5, jnp.ones(1))
    grid = jnp.stack([column, row, one])[..., 0].astype(x.dtype)
    # By a matrix product, because that is computed once: were it part of the fused computations below, each of them
    # might round it to another side of a pixel, and the neighbours of one place be weighted by the share of the other.
    across, down = jnp.einsum("nij,jhw->inhw", matrices, grid, precision="highest")
    outside = (across < 0) | (across >= width) | (down < 0) | (down >= height)
    left, top = jnp.floor(across - 0.5), jnp.floor(down - 0.5)
    share_x, share_y = (d[..., None] for d in (across - 0.5 - left, down - 0.5 - top))
    flat, bicubic = x.reshape(batch, height * width, channels), bicubic[:, None, None, None]

    def pixels(i: int, j: int) -> Levels:
        """The pixel i columns right of and j rows below each place; beyond the border the nearest one."""
        place_x = (left.astype(jnp.int32) + i).clip(0, width - 1)
        place_y = (top.astype(jnp.int32) + j).clip(0, height - 1)
        place = (place_y * width + place_x).reshape(batch, -1, 1)
        return jnp.take_along_axis(flat, place, 1).reshape(x.shape)

    rows = [_interpolate([pixels(i, j) for i in NEIGHBOURS], share_x, bicubic) for j in NEIGHBOURS]
    return jnp.where(outside[..., None], jnp.array(fill, x.dtype), _interpolate(rows, share_y, bicubic))


def _interpolate(
    values: list[Levels], d: Float[Array, "batch height width 1"], bicubic: Bool[Array, "batch 1 1 1"]
) -> Levels:
    """Between four values in a row, a share `d` beyond the second; the cubic is Pillow's, with a = -1."""
    a, b, c, e = values
    cubic = b + d * (c - a + d * (2 * (a - b) + c - e + d * (b - a - c + e)))  # exact where all are equal
    return jnp.where(bicubic, cubic, b + (c - b) * d)

"""What was published or counted beforehand about the models: accuracies by timm, sizes and costs by `nfjax.profile`.

Both are small tables in `nfjax/data/`, which say where they come from.
"""

import dataclasses
import functools

from nfjax.models.base import Size
from nfjax.models.data_config import DataConfig
from nfjax.models.known import table
from nfjax.models.registry import find


@dataclasses.dataclass(frozen=True)
class Published:
    """timm's validation of one set of weights on ImageNet-1k's 50,000 images, in percent.

    `img_size` is the side of the images in pixels, `crop_pct` the share of the resized image that the crop keeps;
    `real_top1` and `real_top5` are by the reassessed labels (arXiv 2006.07159).
    """

    img_size: int
    crop_pct: float
    interpolation: str
    top1: float
    top5: float
    real_top1: float
    real_top5: float


@dataclasses.dataclass(frozen=True)
class Counts:
    """What `nfjax.profile` counts for one image of `img_size` (height, width)."""

    img_size: Size
    params: int
    macs: int
    activations: int


def published(name: str) -> tuple[Published, ...]:
    """timm's results of `architecture.tag` (an architecture means its default tag), by growing image size.

    Empty where timm published none: weights without ImageNet-1k's classes, and some recent ones. Source: timm's
    results-imagenet.csv and results-imagenet-real.csv.

    Raises:
        nfjax.UnknownModelError: no such name; the closest are suggested.
    """
    return _results().get(find(name)[1].name, ())


def counts(data: DataConfig) -> tuple[Counts, ...]:
    """Size and cost of a registered model at its training and its test size; nothing is built."""
    return tuple(_counts()[data.architecture, data.num_classes, size] for size in sizes(data))


def sizes(data: DataConfig) -> list[Size]:
    """Height and width of the images that weights were trained for, then of those that they are best tested with."""
    return list(dict.fromkeys(size[1:] for size in (data.input_size, data.test_input_size) if size))


@functools.cache
def _results() -> dict[str, tuple[Published, ...]]:
    found: dict[str, list[Published]] = {}
    for row in table("results.csv"):
        model, img_size, crop_pct, interpolation, *percents = row
        result = Published(int(img_size), float(crop_pct), interpolation, *map(float, percents))
        found.setdefault(model, []).append(result)
    return {model: tuple(sorted(rows, key=lambda row: row.img_size)) for model, rows in found.items()}


@functools.cache
def _counts() -> dict[tuple[str, int, Size], Counts]:
    found = {}
    for architecture, num_classes, sides, *numbers in table("counts.csv"):
        height, _, width = sides.partition("x")
        size = int(height), int(width or height)
        found[architecture, int(num_classes), size] = Counts(size, *map(int, numbers))
    return found

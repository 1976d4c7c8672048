"""ImageNet's reassessed labels (ReaL, arXiv 2006.07159): several classes may be right for an image, or none."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\b")


def read_labels(file: Path, keys: Iterable[str]) -> list[list[int]]:
    """The classes of ImageNet-1k that are right for each image.

    Args:
        file: real.json of google-research/reassessed-imagenet: a list of classes for each validation image in turn.
        keys: names of the images, with ILSVRC2012_val_00000001 and so on in them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such list, or an image is not in it.
    """
    if not file.is_file():
        raise FileNotFoundError(f"--real: there is no file {file} (working directory: {Path.cwd()}).")
    try:
        labels = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"--real={file}: {error}; expected real.json, a list of lists of classes.") from None
    rows = labels if isinstance(labels, list) else [None]
    if not all(isinstance(row, list) and all(isinstance(n, int) and 0 <= n < 1000 for n in row) for row in rows):
        raise ValueError(f"--real={file}: expected real.json, a list of lists of classes from 0 to 999.")
    return [labels[_number(key, len(labels)) - 1] for key in keys]


def scores(classes: np.ndarray, labels: Sequence[Sequence[int]], places: np.ndarray) -> dict[str, Any]:
    """Top-1 and top-5 by the reassessed labels, in percent; images for which no class is right are left out.

    Source: timm `RealLabelsImagenet`, which asks for all 50,000 images where this takes any.

    Args:
        classes: `(images, k)`, the most probable outputs first.
        labels: of each image, from `read_labels`.
        places: the output for each class of ImageNet-1k.
    """
    counted = top1 = top5 = 0
    for best, right in zip(classes, labels, strict=True):
        if len(right):
            hits = np.isin(best, places[list(right)])
            counted, top1, top5 = counted + 1, top1 + int(hits[0]), top5 + int(hits[:5].any())
    if not counted:
        raise ValueError("--real: of none of these images a reassessed label is known.")
    percent = {name: round(100 * hits / counted, 4) for name, hits in (("real_top1", top1), ("real_top5", top5))}
    return percent | {"real_count": counted}


def _number(key: str, count: int) -> int:
    match = _NUMBER.search(key)
    if match is None:
        raise ValueError(f"--real: {key} is not named like ImageNet's validation images, ILSVRC2012_val_00000001.JPEG.")
    number = int(match[1])
    if not 1 <= number <= count:
        raise ValueError(f"--real: {key} has no labels; the file has those of images 1 to {count}.")
    return number

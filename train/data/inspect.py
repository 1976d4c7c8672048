"""What is in a data set: classes, sizes, broken files, images in both splits, and how training sees them."""

import dataclasses
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from nfjax.images import ImageError, formats
from port.atomic import replaced, replacing, require_writable
from port.text import counted, cut, file_size, one_line, plural, printable
from train.data.dataset import Dataset
from train.data.decode import decode
from train.data.pipeline import Split
from train.data.sources.base import Source, brief, label_at

CLASSES = 40  # with more, only the smallest and the largest are listed
BLOCK = 256  # images that are looked at together
MARGIN = 4  # of a contact sheet, in pixels
LETTERS, ABOVE = 10, 4  # pixels of the headings' letters, for larger images more, and above them
COLUMN = 6.4  # letters at least: as wide as the heading of one
LETTER = 0.65  # of their height is their width, on average; wide ones have some more


@dataclasses.dataclass(frozen=True)
class Look:
    """What one image turned out to be."""

    key: str
    label: int | np.ndarray
    hash: bytes  # of its file
    bytes: int  # how many it has
    kind: str  # file format and mode of the pixels, such as "JPEG RGB"
    size: tuple[int, int] | None  # width and height in pixels; None if it cannot be decoded
    error: str = ""  # why it cannot be


def look_at(source: Source, index: int) -> Look:
    """Read and decode one image."""
    try:
        example = source[index]
    except OSError as error:
        labels = source.labels()
        return Look(source.key(index), -1 if labels is None else label_at(labels, index), b"", 0, "", None, str(error))
    key, label, data = example["key"], example["label"], example["image"]
    content = data if isinstance(data, bytes) else data.tobytes()
    kind, hashed = "array", hashlib.sha256(content).digest()
    try:
        height, width = decode(data, key).shape[:2]
        if isinstance(data, bytes):
            with Image.open(io.BytesIO(data), formats=formats()) as image:
                kind = f"{image.format} {image.mode}"
    except (ImageError, OSError) as error:
        return Look(key, label, hashed, len(content), "", None, str(error))
    return Look(key, label, hashed, len(content), kind, (width, height))


def look_through(source: Source, limit: int | None = None) -> Iterator[Look]:
    """Look at all images of a source, or at `limit` of them, evenly spread."""
    count = len(source)
    indices = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(indices), BLOCK):
            yield from pool.map(lambda index: look_at(source, int(index)), indices[start : start + BLOCK])


def split_report(name: str, split: Split, looks: list[Look]) -> list[str]:
    """A split in lines of text."""
    source, good = split.source, [look for look in looks if look.size]
    height, width, channels = split.shape
    seen = "" if len(looks) == len(source) else f", of which {len(looks)} {'was' if len(looks) == 1 else 'were'} read"
    lines = [f"{name}: {counted(len(source), 'image')}{seen}; used as {width}x{height}x{channels}"]
    if good:
        sides = np.array([look.size for look in good])
        small, middle, large = (np.percentile(sides, share, axis=0).astype(int) for share in (0, 50, 100))
        lines.append(f"  width {small[0]} to {large[0]}, median {middle[0]}")
        lines.append(f"  height {small[1]} to {large[1]}, median {middle[1]}")
        if enlarged := int((sides < (width, height)).any(axis=1).sum()):
            lines.append(f"  {enlarged} {_be(enlarged)} smaller than {width}x{height}")
        kinds = Counter(look.kind for look in good).most_common()
        size = file_size(sum(look.bytes for look in looks))
        lines.append(f"  {', '.join(f'{count} {kind}' for kind, count in kinds)}; {size}")
    copies = len(good) - len({look.hash for look in good})
    lines += (
        [f"  {copies} {_be(copies)} {'a copy of another' if copies == 1 else 'copies of others'}"] if copies else []
    )
    return lines + [one_line(f"  BROKEN {look.key}: {look.error}") for look in looks if not look.size]


def classes(splits: Mapping[str, Split], looks: Mapping[str, list[Look]]) -> list[str]:
    """How many images of each class the splits have; of many classes only the extremes."""
    counts = []
    for name, split in splits.items():
        labels = split.source.labels()
        found = [look.label for look in looks[name]] if labels is None else labels.tolist()
        if split.source.several and labels is not None:
            found = np.nonzero(labels == 1)[1].tolist()
        counts.append(Counter(found))
    names = list(map(one_line, next(iter(splits.values())).source.class_names))
    order = sorted(range(len(names)), key=lambda label: counts[0][label])
    shown = range(len(names)) if len(names) <= CLASSES else [*order[: CLASSES // 2], *order[-CLASSES // 2 :]]
    width = max(len("class"), *(len(names[label]) for label in shown))
    lines = [f"{'class':{width}}" + "".join(f"{name:>10}" for name in splits)]
    lines += [f"{names[label]:{width}}" + "".join(f"{count[label]:10}" for count in counts) for label in shown]
    if len(names) > CLASSES:
        between = len(names) - len(shown)
        lines.append(f"{counted(between, 'class')} in between {_be(between)} left out.")
    return lines


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


def in_both(train: list[Look], test: list[Look]) -> list[str]:
    """Names of test images whose very files are among those for training."""
    known = {look.hash for look in train if look.size}
    return [look.key for look in test if look.size and look.hash in known]


def contact_sheet(dataset: Dataset, *, rows: int = 8, columns: int = 8, seed: int = 0) -> Image.Image:
    """Training images as they are, as they would be tested, and as training sees them, a row each.

    Classes take turns; `columns` are random versions of an image.
    """
    split, height, width = dataset.train, *dataset.train.shape[:2]
    letters = max(LETTERS, width // 13)  # else nobody could read them where the sheet is shown smaller
    above, step = letters + ABOVE, max(width, int(COLUMN * letters)) + MARGIN
    tested = dataclasses.replace(dataset.test, source=split.source)
    sheet = Image.new("RGB", ((columns + 2) * step, above + rows * (height + above + MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(("whole", "as tested", "as training changes it")):
        draw.text((column * step + 2, 0), title, "gray", font_size=letters)
    for row, index in enumerate(_varied(split.source, rows, seed)):
        example = split.source[index]
        whole = Image.fromarray(decode(example["image"], example["key"], split.mode))
        whole.thumbnail((width, height))
        reads = [tested.read(index, np.random.default_rng(0))]
        reads += [split.read(index, np.random.default_rng((seed, index, column))) for column in range(columns)]
        tiles = [whole, *(Image.fromarray(read["image"].squeeze()) for read in reads)]
        top = above + row * (height + above + MARGIN)
        heading = one_line(f"{_named(split.source, example['label'])}   {example['key']}")
        draw.text((2, top), cut(heading, int(sheet.width / (LETTER * letters))), "black", font_size=letters)
        for column, tile in enumerate(tiles):
            tile.thumbnail((width, height))
            sheet.paste(tile, (column * step, top + above))
    return sheet


def _named(source: Source, label: int | np.ndarray) -> str:
    """The class of an image, or all that it has."""
    labels = np.flatnonzero(label == 1).tolist() if isinstance(label, np.ndarray) else [label]
    return ", ".join(source.class_names[label] for label in labels) or "no label"


def _varied(source: Source, count: int, seed: int) -> list[int]:
    """Indices of images that can be read, of as many classes as there are."""
    found: dict[str, list[int]] = {}
    for index in np.random.default_rng(seed).permutation(len(source))[: max(64, 8 * count)].tolist():
        look = look_at(source, index)
        if look.size:
            found.setdefault(_named(source, look.label), []).append(index)
    turns = [own[turn] for turn in range(count) for own in found.values() if turn < len(own)]
    return turns[:count]


def inspect(dataset: Dataset, out: Path, limit: int | None = None) -> bool:
    """Print what is in a data set, and save its contact sheet.

    Returns:
        Whether all images that were read are sound, and none of the test images is among those for training.
    """
    out = require_writable(out, (".png", ".jpg", ".jpeg", ".webp"))
    splits = {"train": dataset.train, "test": dataset.test}
    looks = {name: list(look_through(split.source, limit)) for name, split in splits.items()}
    print(printable("\n".join([*dataset.notes, *classes(splits, looks)])))
    for name, split in splits.items():
        print(printable("\n".join(split_report(name, split, looks[name]))))
    leaked = in_both(looks["train"], looks["test"])
    if leaked:
        both = f"{counted(len(leaked), 'test image')} {_be(len(leaked))} also {plural(len(leaked), 'training image')}"
        print(one_line(f"LEAKED: {both}: {brief(leaked, 10)}"))
    again = replaced(out)
    with replacing(out) as partial:
        contact_sheet(dataset).save(partial)
    print(f"contact sheet: {out}{again}: each image whole, as tested, and as training changes it")
    return not leaked and all(look.size for of_split in looks.values() for look in of_split)

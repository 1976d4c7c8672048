"""What the commands that read images share: which files, which model, and a stream of batches through it."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

import nfjax
from nfjax import cache
from nfjax.images import Mode, image_suffixes, passed_over, walk
from nfjax.onnx.reading import OnnxModel, load_onnx
from nfjax.support.early import STDIN, Place, find
from nfjax.tasks.batches import outputs
from nfjax.tasks.given import read_image, standard_input
from port.paths import is_remote
from port.stores import Store
from port.text import counted, one_line

SMALL = 448  # pixels of the longer side of a picture that is drawn
PACKED = (".parquet", ".tar")  # files with many images in them, which `nfjax.many` reads


def load_model(args: argparse.Namespace, **options: Any) -> tuple[nfjax.ImageModel, Any]:
    """The model that the options name, and the transform that its weights expect."""
    if (size := img_size_of(args)) is not None:
        options["img_size"] = size
    cache.enable()
    model = nfjax.load(args.model, args.weights, weights_key=args.weights_key, **options)
    return model, nfjax.create_transform(model, use_test_size=args.test_size)


def load_onnx_model(args: argparse.Namespace) -> tuple[OnnxModel, Any]:
    """The ONNX file that the options name, and the transform that it expects."""
    given = ("--weights", args.weights != "pretrained"), ("--img-size", args.img_size), ("--test-size", args.test_size)
    for option in [name for name, there in (*given, ("--weights-key", args.weights_key)) if there]:
        raise ValueError(f"{args.model} is as it was written; leave out {option}.")
    model = load_onnx(args.model)
    return model, nfjax.create_transform(model.data_config)


def img_size_of(args: argparse.Namespace) -> tuple[int, int] | None:
    """Height and width that --img-size asks for: a side, two sides, or HxW."""
    if args.img_size is None:
        return None
    sides = [side for value in args.img_size for side in value]
    if len(sides) > 2:
        raise ValueError(f"--img-size takes a side, or height and width; found {sides}.")
    return sides[0], sides[-1]


def find_images(patterns: Sequence[str]) -> list[Place]:
    """The images that files, folders, shell patterns and addresses stand for, in the order given, folders sorted.

    Says on stderr how many other files in folders were passed over.

    Raises:
        FileNotFoundError: for a name or pattern that stands for nothing.
    """
    return list(dict.fromkeys(each_image(patterns)))


def each_image(patterns: Sequence[str]) -> Iterator[Place]:
    """`find_images` one by one: those that two patterns stand for come twice."""
    passed: Counter[str] = Counter()
    for pattern in patterns:
        is_empty = True
        for path in find(pattern):
            for file in _files(path, passed):
                is_empty = False
                yield file
        if is_empty:
            there = f" It has {passed_over(passed)}." if passed else ""
            if packed := [ending for ending in PACKED if passed[ending]]:
                inside = f"{pattern.rstrip('/')}/**/*{packed[0]}"
                there += f" For the images in those give '{inside}', and a folder as --output."
            raise FileNotFoundError(f"{pattern} is a folder without images ({', '.join(image_suffixes())}).{there}")
    if passed:
        print(one_line(f"passed over in folders: {passed_over(passed)}"), file=sys.stderr)


def _files(path: Place, passed: Counter[str]) -> Iterator[Place]:
    if isinstance(path, str):
        return iter([path]) if not is_remote(path) or _is_image(path) else _in_store(path, passed)
    if not path.is_dir():
        return iter([path])
    return (path / name for name, _ in walk(path, passed))


def _in_store(folder: str, passed: Counter[str]) -> Iterator[str]:
    store = Store(folder)
    for name in store.files():
        if any(part.startswith(".") for part in name.split("/")):
            passed["hidden"] += 1
        elif _is_image(name):
            yield f"{store.address}/{name}"
        else:
            passed[os.path.splitext(name)[1].lower() or "without an ending"] += 1


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_suffixes()


def read_place(place: Place, mode: Mode = "RGB", *, exif: bool = False) -> Image.Image:
    """The image that a command was given."""
    return read_image(standard_input() if place == STDIN else place, mode, exif=exif)


class Images:
    """Runs a model over images in batches; what cannot be read or is not finite is reported and skipped.

    Args:
        shown: of which a small copy is kept, to be drawn: an image from the web is fetched once.
    """

    def __init__(
        self,
        files: Sequence[Place],
        transform: Any,
        batch_size: int,
        *,
        exif: bool = False,
        shown: Collection[Place] = (),
    ):
        require_batch_size(batch_size)
        self.files, self.transform, self.exif = list(files), transform, exif
        self.batch_size = batch_size
        self.failed: list[tuple[Place, str]] = []  # skipped files, and why
        self.small: dict[Place, Image.Image | None] = dict.fromkeys(shown)

    def run(self, model: nfjax.ImageModel | OnnxModel) -> Iterator[tuple[Place, np.ndarray]]:
        """Yield every readable file with the model's float32 output for it."""
        for file, output in outputs(model, self.files, self._read, self.batch_size):
            if np.isfinite(output).all():
                yield file, output
            else:
                self.failed.append((file, "the model's output for it is not finite"))

    def _read(self, file: Place) -> np.ndarray | None:
        try:
            image = read_place(file, self.transform.mode, exif=self.exif)
            array: np.ndarray = self.transform(image)
        except (OSError, ValueError) as error:
            self.failed.append((file, str(error)))
            return None
        if file in self.small:
            self.small[file] = small = image.convert("RGB")
            small.thumbnail((SMALL, SMALL))
        return array

    def report(self) -> int:
        """Say which files failed; the exit status of the command."""
        return report(self.failed, len(self.files))


def report(failed: Sequence[tuple[object, str]], count: int) -> int:
    """Say which of so many images failed, and why; the exit status of a command."""
    for name, reason in failed:
        print(one_line(f"skipped {name}: {reason}"), file=sys.stderr)
    if failed:
        were = "was" if len(failed) == 1 else "were"
        print(f"{len(failed)} of {counted(count, 'image')} {were} skipped.", file=sys.stderr)
    return 1 if failed else 0


def require_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"--batch-size={batch_size}; expected at least 1.")

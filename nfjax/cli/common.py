"""What the commands that read images share: which files, which model, and a stream of batches through it."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import nfjax
from nfjax import cache
from nfjax.early import STDIN, Place, find
from nfjax.given import read_image, standard_input
from nfjax.images import Mode, image_suffixes, passed_over, walk
from nfjax.meter import Meter
from port.text import counted, one_line

SMALL = 448  # pixels of the longer side of a picture that is drawn


def load_model(args: argparse.Namespace, **options: Any) -> tuple[nfjax.ImageModel, Any]:
    """The model that the options name, and the transform that its weights expect."""
    if (size := img_size_of(args)) is not None:
        options["img_size"] = size
    cache.enable()
    model = nfjax.load(args.model, args.weights, weights_key=args.weights_key, **options)
    return model, nfjax.create_transform(model, use_test_size=args.test_size)


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
    found: list[Place] = []
    passed: Counter[str] = Counter()
    for pattern in patterns:
        files = [file for path in find(pattern) for file in _files(path, passed)]
        if not files:
            there = f" It has {passed_over(passed)}." if passed else ""
            raise FileNotFoundError(f"{pattern} is a folder without images ({', '.join(image_suffixes())}).{there}")
        found += files
    if passed:
        print(one_line(f"passed over in folders: {passed_over(passed)}"), file=sys.stderr)
    return list(dict.fromkeys(found))


def _files(path: Place, passed: Counter[str]) -> list[Place]:
    if isinstance(path, str) or not path.is_dir():
        return [path]
    return [path / name for name, _ in walk(path, passed)]


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
        if batch_size < 1:
            raise ValueError(f"--batch-size={batch_size}; expected at least 1.")
        self.files, self.transform, self.exif = list(files), transform, exif
        self.batch_size = min(batch_size, len(self.files))
        self.failed: list[tuple[Place, str]] = []  # skipped files, and why
        self.small: dict[Place, Image.Image | None] = dict.fromkeys(shown)

    def run(self, model: nfjax.ImageModel) -> Iterator[tuple[Place, np.ndarray]]:
        """Yield every readable file with the model's float32 output for it."""
        compiled: Callable[[Any], Any] | None = None
        meter = Meter("images", len(self.files), model=model.name)
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool, meter:
            for start in range(0, len(self.files), self.batch_size):
                files = self.files[start : start + self.batch_size]
                loaded = [(f, x) for f, x in zip(files, pool.map(self._read, files), strict=True) if x is not None]
                if loaded:
                    batch = np.stack([x for _, x in loaded])
                    # Always the same shape, so that nothing is compiled twice.
                    padded = np.zeros((self.batch_size, *batch.shape[1:]), np.float32)
                    padded[: len(batch)] = batch
                    if compiled is None:
                        compiled = nfjax.compile(model, jnp.asarray(padded))
                    outputs = jax.device_get(compiled(jnp.asarray(padded)))
                    for (file, _), output in zip(loaded, outputs, strict=False):
                        if np.isfinite(output).all():
                            yield file, np.asarray(output, np.float32)
                        else:
                            self.failed.append((file, "the model's output for it is not finite"))
                meter.advance(len(files))

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
        for file, reason in self.failed:
            print(one_line(f"skipped {file}: {reason}"), file=sys.stderr)
        if self.failed:
            were = "was" if len(self.failed) == 1 else "were"
            print(f"{len(self.failed)} of {counted(len(self.files), 'image')} {were} skipped.", file=sys.stderr)
        return 1 if self.failed else 0

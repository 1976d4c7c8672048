"""Parts computed one after the other, by this process among others."""

import errno
import itertools
import json
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nfjax.infer import compile
from nfjax.many.folder import Folder
from nfjax.many.inputs import Inputs, Item
from nfjax.models.base import ImageModel
from nfjax.support.meter import Meter
from nfjax.tasks.given import Named, read_image
from nfjax.transforms import EvalTransform
from port.text import encodable

AGAIN = 0.5  # seconds until a process that has nothing to do looks again
LOOK = 5.0  # seconds until all parts are counted again, or more where counting takes long
# Errors of the machine, not of an image: the process ends, and the image is not reported as unreadable.
OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ENOSPC)


class Job(NamedTuple):
    """What is computed.

    Attributes:
        write: writes the file of a part, from the names of its images and the model's outputs `(images, outputs)`.
    """

    inputs: Inputs
    model: ImageModel
    transform: EvalTransform
    exif: bool
    batch_size: int
    part_size: int
    write: Callable[[list[str], np.ndarray, Path], object]

    @property
    def parts(self) -> int:
        return -(-len(self.inputs) // self.part_size)

    def images(self, parts: set[int]) -> int:
        """How many images parts have together."""
        missing = self.parts * self.part_size - len(self.inputs)  # in the last one
        return len(parts) * self.part_size - (missing if self.parts - 1 in parts else 0)


def work(job: Job, folder: Folder) -> int:
    """Compute parts until all are there; how many this process has written.

    Every batch has the same shape and, whoever computes it, the same images in the same rows, so that a part has the
    same bytes. At most two batches of images are in memory, and the outputs of one part.
    """
    progress = _Progress(job, folder)
    if len(progress.finished) == job.parts:
        folder.clear()
        return 0
    written = 0
    with folder.present(), ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool, progress.meter:
        computer = _Computer(job, pool)
        first = random.SystemRandom().randrange(job.parts)  # so that processes are not in each other's way
        while left := [part for part in range(job.parts) if part not in progress.finished]:
            before = written
            for part in sorted(left, key=lambda part: (part < first, part)):
                if part not in progress.finished and folder.claim(part):
                    written += computer.part(part, folder, progress.advance)
                    progress.finish(part)
            progress.look()
            if written == before and len(progress.finished) < job.parts:
                progress.advance(0)
                time.sleep(AGAIN)
    folder.clear()
    return written


class _Progress:
    """How far all processes are together.

    Attributes:
        finished: the parts that are known to be there.
    """

    def __init__(self, job: Job, folder: Folder):
        self._job, self._folder, self._own = job, folder, 0
        self.finished: set[int] = set()
        self.look()
        self._shown = job.images(self.finished)
        self.meter = Meter("images of all processes", len(job.inputs), self._shown, model=job.model.name)

    def look(self) -> None:
        """Count all parts."""
        began = time.monotonic()
        self.finished |= self._folder.finished()
        now = time.monotonic()
        self._next = now + max(LOOK, 20 * (now - began))  # a store gives names by the thousand

    def advance(self, count: int) -> None:
        """So many images more, of a part that is not finished."""
        self._own += count
        if time.monotonic() >= self._next:
            self.look()
        known = min(self._job.images(self.finished) + self._own, len(self._job.inputs))
        if known > self._shown:
            self.meter.advance(known - self._shown)
            self._shown = known

    def finish(self, part: int) -> None:
        """The images of `advance` are in a part that is finished."""
        self.finished.add(part)
        self._own = 0


class _Computer:
    """The model, compiled once."""

    def __init__(self, job: Job, pool: ThreadPoolExecutor):
        self._job, self._pool = job, pool
        self._call: Callable[[Any], Any] | None = None

    def part(self, part: int, folder: Folder, advance: Callable[[int], None]) -> bool:
        """Compute and write a part; whether it was not there yet."""
        job, start = self._job, part * self._job.part_size
        names: list[str] = []
        found: list[np.ndarray] = []
        skipped: list[dict[str, str]] = []
        for batch in self._batches(start, start + job.images({part})):
            images = [future.result() for _, future in batch]
            outputs = self._outputs(images)
            for row, ((name, _), image) in enumerate(zip(batch, images, strict=True)):
                if isinstance(image, str):
                    skipped.append({"file": name, "reason": encodable(image)})
                elif not np.isfinite(outputs[row]).all():
                    skipped.append({"file": name, "reason": "the model's output for it is not finite"})
                else:
                    names.append(name)
                    found.append(outputs[row])
            advance(len(batch))
        width = job.model.num_classes or job.model.head_hidden_size
        matrix = np.stack(found) if found else np.zeros((0, width), np.float32)
        report = "".join(f"{json.dumps(row)}\n" for row in skipped)
        return folder.publish(part, lambda file: job.write(names, matrix, file), report)

    def _batches(self, start: int, stop: int) -> Iterator[list[tuple[str, Future[np.ndarray | str]]]]:
        """Batches of images, the next of which is read while one is computed."""
        ahead: deque[list[tuple[str, Future[np.ndarray | str]]]] = deque()
        items = self._job.inputs.items(start, stop)
        while some := list(itertools.islice(items, self._job.batch_size)):
            ahead.append([(encodable(item.name), self._pool.submit(self._read, item)) for item in some])
            if len(ahead) > 1:
                yield ahead.popleft()
        yield from ahead

    def _read(self, item: Item) -> np.ndarray | str:
        """An image as the model takes it, or why there is none."""
        content = Named(item.content, item.name) if isinstance(item.content, bytes) else item.content
        try:
            image = read_image(content, self._job.transform.mode, exif=self._job.exif)
            array: np.ndarray = self._job.transform(image)
        except FileNotFoundError:
            return "there is no such file"
        except (OSError, ValueError) as error:
            for cause in (error, error.__cause__):
                if isinstance(cause, MemoryError) or getattr(cause, "errno", None) in OURS:
                    raise
            return str(error)
        return array

    def _outputs(self, images: list[np.ndarray | str]) -> np.ndarray:
        """The model's outputs, float32; rows without an image are of no meaning."""
        shape = next((image.shape for image in images if isinstance(image, np.ndarray)), None)
        if shape is None:
            return np.zeros((len(images), 0), np.float32)
        batch = np.zeros((self._job.batch_size, *shape), np.float32)
        for row, image in enumerate(images):
            if isinstance(image, np.ndarray):
                batch[row] = image
        if self._call is None:
            self._call = compile(self._job.model, jnp.asarray(batch))
        return np.asarray(jax.device_get(self._call(jnp.asarray(batch))), np.float32)

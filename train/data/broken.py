"""Images that cannot be read: which they are, and how many are too many."""

import os
import queue
from concurrent.futures import Future
from pathlib import Path

from nfjax.images import ImageError, Mode
from port.text import one_line
from train.data.decode import decode
from train.data.prefetch import Tasks, start_threads
from train.data.sources.base import Source, brief

REPORT = "broken_images.txt"
PART = 256  # images that a thread opens before it tells


def require_images(source: Source, stall_seconds: float = 600.0) -> None:
    """Open all images of a source, without decoding them: a missing one should not end a run at its first evaluation.

    Raises:
        ImageError: names those that cannot be opened.
        TimeoutError: nothing came for so many seconds, as where a disk on the network has gone.
    """

    def fault(index: int) -> str:
        try:
            source.look(index)
        except (ValueError, OSError) as error:
            return f"{source.key(index)} ({error})"
        return ""

    def faults_of(start: int) -> list[str]:
        return list(filter(None, map(fault, range(start, min(start + PART, len(source))))))

    tasks: Tasks = queue.SimpleQueue()
    parts: list[Future[list[str]]] = []
    for start in range(0, len(source), PART):
        parts.append(Future())
        tasks.put((start, parts[-1]))
    count = min(len(parts), (os.cpu_count() or 1) + 4, 32)  # most of the time they wait for the disk
    for _ in start_threads(faults_of, tasks, count):
        tasks.put(None)
    faults = []
    for part in parts:
        try:
            faults += part.result(timeout=stall_seconds)
        except TimeoutError:
            raise TimeoutError(
                f"no test images could be opened for {stall_seconds:g} seconds: the disk or the network does not "
                "answer. See to it, or set data.stall_seconds."
            ) from None
    if faults:
        raise ImageError(
            f"{len(faults)} of {len(source)} test images cannot be read: {brief(faults)}. Repair or remove them."
        )


class BrokenImages:
    """The images of a source that turned out to be broken.

    Args:
        limit: share of the source's images that may be broken.
        report: file that receives a line for each, name and reason; those that it has already count.
    """

    def __init__(self, source: Source, mode: Mode, limit: float, report: Path | None):
        self._source, self._mode, self._limit, self._report = source, mode, limit, report
        self.keys: list[str] = []
        if report is not None and report.exists():
            self.keys = [line.partition("\t")[0] for line in report.read_text("utf-8").split("\n")[:-1]]

    def add(self, index: int) -> None:
        """Take note of an image.

        Raises:
            ImageError: these are too many now.
        """
        key = one_line(self._source.key(index))  # a line of the report is an image, whatever its name
        if key in self.keys:
            return
        self.keys.append(key)
        if self._report is not None:
            with self._report.open("a", encoding="utf-8") as file:
                file.write(f"{key}\t{one_line(self._reason(index, key))}\n")
        if len(self.keys) > self._limit * len(self._source):
            where = f" All of them are in {self._report}." if self._report else ""
            raise ImageError(
                f"{len(self.keys)} of {len(self._source)} training images cannot be read: {brief(self.keys)}.{where} "
                f"Repair or remove them, or allow a larger share than data.max_broken={self._limit}."
            )

    def _reason(self, index: int, key: str) -> str:
        try:
            decode(self._source[index]["image"], key, self._mode)
        except (ImageError, OSError) as error:
            return " ".join(str(error).split())
        return "it could be read at another time"

"""Progress of long work: a bar on a terminal, elsewhere a line every few seconds."""

import time
from collections.abc import Callable
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LINES = 10.0  # seconds between lines where there is no terminal


class Meter:
    """A context manager that shows, in process 0, images done, images per second and the time that is left.

    Args:
        name: of the work.
        total: images.
        start: images done before.
        console: standard error unless given.
        clock: seconds from any origin.
    """

    def __init__(
        self,
        name: str,
        total: int,
        start: int = 0,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._name, self._total, self._done, self._clock = name, total, start, clock
        self._console = console or Console(stderr=True)
        self._shown = jax.process_index() == 0
        self._bar: Progress | None = None
        if self._shown and self._console.is_terminal:
            self._bar = bar(self._console, transient=True)
            self._task = self._bar.add_task(name, total=total, completed=start, note="compiling")
        # When the first batch, which compiles, was done, and how much was done then.
        self._since: tuple[float, int] | None = None
        self._printed = clock()

    def __enter__(self) -> "Meter":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def images_per_second(self) -> float | None:
        """Without the first batch; None before the second."""
        if self._since is None or self._done == self._since[1]:
            return None
        return (self._done - self._since[1]) / max(self._clock() - self._since[0], 1e-9)

    def advance(self, count: int) -> None:
        """`count` more images are done."""
        self._done += count
        if self._since is None:
            self._since = self._clock(), self._done
        speed = self.images_per_second
        note = "" if speed is None else f"{speed:.4g} images/s ETA {duration((self._total - self._done) / speed)}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, note=note)
        elif self._shown and note and self._clock() - self._printed >= LINES and self._done < self._total:
            self._printed = self._clock()
            line = f"{self._name}: {self._done}/{self._total} {note}"
            self._console.print(line, soft_wrap=True, markup=False, emoji=False, highlight=False)


def bar(console: Console, width: int | None = 40, **options: Any) -> Progress:
    """A progress bar between a name and the count that is done with a note, the field `note` of its tasks."""
    before, behind = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    return Progress(before, BarColumn(width), MofNCompleteColumn(), behind, console=console, **options)


def duration(seconds: float) -> str:
    """1:02:03, or 2 days 1:02:03."""
    days, rest = divmod(round(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    text = f"{hours}:{rest // 60:02}:{rest % 60:02}"
    return f"{days} {'day' if days == 1 else 'days'} {text}" if days else text

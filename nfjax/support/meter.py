"""Progress of long work: a bar on a terminal, elsewhere a line every few seconds."""

import threading
import time
from collections.abc import Callable
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from port.text import counted, plural, printable

LINES = 10.0  # seconds between lines where there is no terminal


def print_line(console: Console, text: str) -> None:
    """A line as it is: rich would break it at 80 columns where there is no terminal, and read [..] as markup."""
    console.print(printable(text), soft_wrap=True, markup=False, emoji=False, highlight=False)


class Wait:
    """A context manager that says, in process 0, what is about to happen, and now and then that it still compiles.

    Args:
        what: is done, such as "running test_vit over 1 image".
        console: standard error unless given.
    """

    def __init__(self, what: str, console: Console | None = None):
        self._what, self._console = what, console or Console(stderr=True)
        self._thread: threading.Thread | None = None
        self._done = threading.Event()

    def __enter__(self) -> "Wait":
        if jax.process_index() == 0:
            count = jax.device_count()
            devices = f"{count} {jax.default_backend()} {plural(count, 'device')}"
            print_line(self._console, f"{self._what} on {devices}; compiling")
            self._thread = threading.Thread(target=self._tell, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self._done.set()
            self._thread.join()
            self._thread = None

    def _tell(self) -> None:
        began = time.perf_counter()
        while not self._done.wait(LINES):
            print_line(self._console, f"still compiling, {duration(time.perf_counter() - began)}")


class Meter:
    """A context manager that shows, in process 0, images done, images per second and the time that is left.

    Args:
        name: of the work.
        total: images.
        start: images done before.
        model: name of what runs over them.
        console: standard error unless given.
        clock: seconds from any origin.
    """

    def __init__(
        self,
        name: str,
        total: int,
        start: int = 0,
        *,
        model: str,
        console: Console | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._name, self._total, self._done, self._clock = name, total, start, clock
        self._console = console or Console(stderr=True)
        self._shown = jax.process_index() == 0
        self._wait = Wait(f"running {model} over {counted(total - start, 'image')}", self._console)
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
        elif self._done < self._total:
            self._wait.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._wait.__exit__()
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
            self._wait.__exit__()
            self._since = self._clock(), self._done
        speed = self.images_per_second
        note = "" if speed is None else f"{speed:.4g} images/s ETA {duration((self._total - self._done) / speed)}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, note=note)
        elif self._shown and note and self._clock() - self._printed >= LINES and self._done < self._total:
            self._printed = self._clock()
            print_line(self._console, f"{self._name}: {self._done}/{self._total} {note}")


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

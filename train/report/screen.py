"""Where a run speaks: on standard output, as long as somebody reads it, and in WORKDIR/log.txt."""

import contextlib
import datetime
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jax
from rich.console import Console

from nfjax.support.meter import print_line
from port.text import printable

FILE = "log.txt"


@contextlib.contextmanager
def expendable(what: str | Path, say: Callable[[str], Any]) -> Iterator[None]:
    """Around writing what a run can do without: where it cannot be written, as on a full disk, that is only told."""
    try:
        yield
    except OSError as error:
        say(f"{what} is not written: {error.strerror or error}. The run goes on without it.")


class Screen:
    """Lines of process 0; the other processes say nothing.

    Args:
        workdir: whose log.txt gets the lines too, each with the time.
        told: what is done to a text before it is shown.
        lost: called once, when nobody reads standard output any more: `| head` has ended, or the terminal is closed.
    """

    def __init__(self, workdir: Path, lost: Callable[[], None], told: Callable[[str], str] = str):
        self._told = told
        self._path, self._lost, self._there = workdir / FILE, lost, True
        self.console = Console(file=cast(Any, self))

    def print(self, text: str) -> None:
        """A line of its own, above a bar of `console`."""
        if jax.process_index() == 0:
            self.log(text)
            print_line(self.console, self._told(text))

    def log(self, text: str) -> None:
        """A line in the file alone."""
        if jax.process_index() == 0:
            now = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:  # no reason to stop
                file.write("".join(f"{now} {line}\n" for line in printable(self._told(text)).split("\n")))

    # What `Console` asks of a file. It would end the process where nobody reads.

    @property
    def encoding(self) -> str:
        return sys.stdout.encoding

    def isatty(self) -> bool:
        return sys.stdout.isatty()

    def fileno(self) -> int:
        return sys.stdout.fileno()

    def write(self, text: str) -> int:
        self._try(lambda: sys.stdout.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda: sys.stdout.flush())

    def _try(self, act: Callable[[], Any]) -> None:
        if self._there:
            try:
                act()
            except OSError:
                self._there = False
                self._lost()

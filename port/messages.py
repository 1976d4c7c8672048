"""What every command says in the same way: a name that may have been meant, what to install, a mistake in one line."""

import contextlib
import contextvars
import difflib
import importlib
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from port import interrupts
from port.text import printable

PYTHON, COMMAND = "{}={}", "--{} {}"
SPELLING = contextvars.ContextVar("SPELLING", default=PYTHON)  # of an option and its value

MISTAKE = 2  # exit status of a command that could not do what it was asked


def nearest(name: str, known: Iterable[str], *, n: int = 2, cutoff: float = 0.6) -> list[str]:
    """Names that may have been meant by `name`, the most similar first."""
    return difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str], *, n: int = 2) -> str:
    """` Did you mean a or b?`, or nothing where no known name is similar."""
    close = nearest(name, known, n=n)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def hint(name: str, known: Iterable[str], otherwise: str = "", **options: Any) -> str:
    """The nearest of the known names; where none is similar, `otherwise`, or all of them."""
    close = nearest(name, known, **options)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return otherwise or f"known: {', '.join(known)}."


def require_name(what: str, found: object, known: Iterable[str]) -> None:
    """Refuse a name that is not known, of an "option" or `what` else: a ValueError with the closest, or with all."""
    names = list(known)
    if found not in names:
        raise ValueError(f"unknown {what} {found!r}; {hint(str(found), names)}")


def option(name: str, value: str | None) -> str:
    """An option as the user would give it: `weights=FILE`, or in a command `--weights FILE`; None is `none` there."""
    spelling = SPELLING.get()
    name = name.replace("_", "-") if spelling == COMMAND else name
    return spelling.format(name, "none" if value is None and spelling != PYTHON else value)


def exit_status(command: Callable[[], int], *, extra: str = "", prog: str = "this", spelling: str = COMMAND) -> int:
    """What `command()` returns: 0 for done, 1 for done and found something wrong; after a user's mistake, `MISTAKE`.

    A mistake is told in one line. Where a package is missing, that says to install `nfjax[EXTRA]`. `prog` are the words
    that the command was called by, and `spelling` is how its options are given.
    """
    before = SPELLING.set(spelling)
    try:
        return _exit_status(command, extra, prog)
    finally:
        SPELLING.reset(before)


def _exit_status(command: Callable[[], int], extra: str, prog: str) -> int:
    with _as_program() if interrupts.is_program() else contextlib.nullcontext():
        try:
            try:
                return command()
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # whoever stopped reading is noticed here, not at exit
        except KeyboardInterrupt:
            return interrupts.INTERRUPTED
        except (ValueError, OSError, ImportError) as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads(sys.stdout):  # `| head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor shall Python's last flush fail
                return 0
            package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
            if extra and package not in ("", "nfjax", "port", "train"):
                error = ImportError(f"{prog} needs {package}: pip install 'nfjax[{extra}]'.")
            print(f"error: {printable(error)}", file=sys.stderr)
            return MISTAKE


@contextlib.contextmanager
def _as_program() -> Iterator[None]:
    """What concerns the whole process: Ctrl-C, and a shell that has closed the output, `>&-`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 # for as long as the process lives
    with interrupts.ends_at_once():
        yield


def _nobody_reads(stream: Any) -> bool:
    """Whether what is written to a stream is lost: a pipe or a terminal whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no file
        return False


def require(module: str, purpose: str, extra: str = "cli") -> Any:
    """A module that not everyone has installed, or an ImportError that says how to get it.

    Args:
        purpose: what needs it, a plural: "pictures".
        extra: of nfjax, that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{purpose} need {package}, which is not installed: pip install 'nfjax[{extra}]'.") from error

"""Paths as people give them."""

import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from port.text import cut, one_line


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that was given as text or as a `pathlib.Path`; ~ and ~name at its start are home folders."""
    with contextlib.suppress(RuntimeError):  # there is no such user: then it is a name like any other
        return Path(path).expanduser()
    return Path(path)


def require_path(path: str | os.PathLike[str]) -> Path:
    """The same of a path that is not empty: "" would be the folder where one happens to be.

    Raises:
        ValueError: it is empty.
    """
    if not os.fspath(path):
        raise ValueError("the path is empty, as from a variable that is not set; '.' is the working directory.")
    return user_path(path)


def no_file(path: str | os.PathLike[str]) -> FileNotFoundError:
    """The error that there is no such file."""
    return FileNotFoundError(f"there is no file {_shown(path)} (working directory: {Path.cwd()}).")


def no_folder(path: Path) -> FileNotFoundError:
    """The error that there is no such folder."""
    return FileNotFoundError(f"there is no folder {_shown(path)} (working directory: {Path.cwd()}).")


def require_folder(path: Path) -> None:
    """A FileNotFoundError unless there is such a folder."""
    if not path.is_dir():
        raise no_folder(path)


def no_weights(path: Path) -> FileNotFoundError:
    """The error that there are no weights where they were said to be."""
    return FileNotFoundError(f"no weights at {_shown(path)}: there is no such file.")


def _shown(path: str | os.PathLike[str]) -> str:
    """A path in one line of bearable length."""
    return cut(one_line(os.fspath(path)), 1000)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading; a pipe or a device, which may never end or never answer, is refused at once.

    Raises:
        OSError: it is no regular file, or cannot be opened.
    """
    # Without O_NONBLOCK, opening a pipe waits for someone who writes to it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no regular file.")
    return os.fdopen(descriptor, "rb")

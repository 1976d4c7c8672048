"""Paths as people give them."""

import argparse
import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from port.text import cut, one_line

# Object stores, by the beginning of their addresses: the package that each needs, and nfjax's extra that brings it.
SCHEMES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "memory": ("fsspec", "train")}


class RemoteError(ValueError, argparse.ArgumentTypeError):
    """An address in an object store where none is taken; argparse shows its message."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address in an object store, as s3://BUCKET/NAME; see `port.stores`."""
    return isinstance(path, str) and path.partition("://")[0].lower() in SCHEMES and "://" in path


def user_place(path: str) -> Path | str:
    """A path that was given as text, where an address in an object store, which stays text, is taken too."""
    return path if is_remote(path) else user_path(path)


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that was given as text or as a `pathlib.Path`; ~ and ~name at its start are home folders.

    Raises:
        RemoteError: it is an address in an object store, which is not taken here.
    """
    text = os.fspath(path)
    scheme = text.partition(":/")[0].lower()
    if scheme in SCHEMES and text.startswith(f"{scheme}:/"):
        told = "is in an object store, which is not taken here: give a path of this machine"
        if not is_remote(path):  # pathlib has made one slash of two
            told = "is an address in an object store: give it as text"
        raise RemoteError(f"{_shown(path)} {told}.")
    path = text.removeprefix("file://")
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


def no_weights(path: str | os.PathLike[str]) -> FileNotFoundError:
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

"""Paths as people give them."""

import contextlib
import os
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that was given as text or as a `pathlib.Path`; ~ and ~name at its start are home folders."""
    with contextlib.suppress(RuntimeError):  # there is no such user: then it is a name like any other
        return Path(path).expanduser()
    return Path(path)

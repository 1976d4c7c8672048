"""Files that are there whole or not at all."""

import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from port.paths import user_path

_partial: set[Path] = set()  # what is being written


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write that then replaces `path`, whose folder is made if needed.

    Readers of `path` see the old file or the whole new one. If writing fails, the old one stays. A link stays a link;
    what is no file, as /dev/stdout, is written itself. Permissions are those of any new file, whoever writes it.

    >>> with replacing("config.json") as partial:
    ...     partial.write_text("{}")
    """
    path = Path(os.path.realpath(user_path(path)))
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    _make_folder(path)
    partial = _beside(path)
    _partial.add(partial)
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        if partial.stat().st_mode != mode:  # safetensors writes another file, which nobody else may read
            partial.chmod(mode)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
        _partial.discard(partial)


def _make_folder(path: Path) -> None:
    """Make the folder of a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{path} cannot be written: {error.filename} is no folder.") from None
    except OSError as error:
        raise type(error)(f"{path} cannot be written: {error.strerror} ({error.filename}).") from None


def _beside(path: Path) -> Path:
    """What `path` is called until it is whole; the suffix still says what it is."""
    return path.with_name(f".partial-{secrets.token_hex(4)}-{path.name}")


def replaced(path: Path) -> str:
    """What is added to a file's name where it is told that it was written: " (replaced)", or nothing if it is new.

    To be asked before it is written.
    """
    return " (replaced)" if path.is_file() else ""


def remove_partial() -> None:
    """Remove what is being written: for a process that ends at once."""
    for partial in list(_partial):
        partial.unlink(missing_ok=True)


def require_writable(path: str | os.PathLike[str], endings: Collection[str] = ()) -> Path:
    """The file `path`, before the work that goes into it; its folder is made.

    Args:
        endings: those that its name may have; empty for any.

    Raises:
        ValueError: another ending.
        OSError: it is a folder, or cannot be written.
    """
    path = user_path(path)
    if endings and path.suffix.lower() not in endings:
        *others, last = endings
        raise ValueError(f"{path}: expected a file name ending in {', '.join(others)}{' or ' if others else ''}{last}.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file.")
    _make_folder(path)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written: no permission.")
    if path.is_file() or not path.exists():
        partial = _beside(Path(os.path.realpath(path)))
        try:
            partial.touch()
            partial.unlink()
        except OSError as error:  # as in /proc, where permissions tell nothing
            raise type(error)(f"{path} cannot be written: {error.strerror}.") from None
    return path

"""Where parts are kept: a folder that all processes see, or an address in an object store."""

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from port.stores import Store

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems without hard links
Write = Callable[[Path], object]  # writes the file that it is given


class Place(Protocol):
    """Files by name, with "/"; a file appears whole or not at all."""

    def make(self, folder: str) -> None:
        """A folder, and those above it."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """Those in a folder; none if there is no such folder."""
        ...

    def exists(self, name: str) -> bool: ...

    def text(self, name: str) -> str | None:
        """The content of a file; None if there is none."""
        ...

    def create(self, name: str, write: Write) -> bool:
        """Write a file, unless there is one of this name: then False."""
        ...

    def replace(self, name: str, text: str) -> None:
        """Write a file, whether there is one or not."""
        ...

    def touch(self, name: str) -> None:
        """Make a file that is there as new as one that is written now.

        Raises:
            FileNotFoundError: it is not there any more.
        """
        ...

    def modified(self, name: str) -> float:
        """When a file was written, by the clock that all processes share.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def remove(self, name: str) -> None:
        """A file or a folder, if there is one."""
        ...


class Disk:
    """A folder of this machine, or one that it sees.

    Args:
        work: the folder in it where files are until they are whole.
    """

    def __init__(self, path: Path, work: str):
        self._path, self._work = path, path / work
        self._token = secrets.token_hex(6)

    def make(self, folder: str) -> None:
        (self._path / folder).mkdir(parents=True, exist_ok=True)

    def names(self, folder: str = "") -> list[str]:
        try:
            return os.listdir(self._path / folder)
        except FileNotFoundError:
            return []

    def exists(self, name: str) -> bool:
        return (self._path / name).exists()

    def text(self, name: str) -> str | None:
        try:
            return (self._path / name).read_text("utf-8")
        except FileNotFoundError:
            return None

    def create(self, name: str, write: Write) -> bool:
        file = self._path / name
        self._work.mkdir(exist_ok=True)
        temporary = self._temporary(name)
        try:
            write(temporary)
            with temporary.open("rb") as opened:
                os.fsync(opened.fileno())
            return _appears(temporary, file)
        except FileNotFoundError:
            if file.exists():  # another process was sooner, and the last one has cleared up
                return False
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def replace(self, name: str, text: str) -> None:
        temporary = self._temporary(name)
        try:
            temporary.write_text(text, "utf-8")
            os.replace(temporary, self._path / name)
        finally:
            temporary.unlink(missing_ok=True)

    def touch(self, name: str) -> None:
        os.utime(self._path / name)

    def modified(self, name: str) -> float:
        return (self._path / name).stat().st_mtime

    def remove(self, name: str) -> None:
        path = self._path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def _temporary(self, name: str) -> Path:
        return self._work / f"{self._token}-{name.replace('/', '-')}"


class Bucket:
    """An address in an object store, where a file appears when it has been sent, and a store says who was first."""

    def __init__(self, address: str):
        self._store = Store(address)

    def make(self, folder: str) -> None:
        """There are no folders."""

    def names(self, folder: str = "") -> list[str]:
        return self._store.names(folder)

    def exists(self, name: str) -> bool:
        return self._store.exists(name)

    def text(self, name: str) -> str | None:
        try:
            return self._store.read(name).decode()
        except FileNotFoundError:
            return None

    def create(self, name: str, write: Write) -> bool:
        with tempfile.TemporaryDirectory(prefix="nfjax-part-") as folder:
            temporary = Path(folder, Path(name).name)
            write(temporary)
            data = temporary.read_bytes()
        return self._store.create(name, data) or self._store.read(name) == data  # sent twice, and heard but once

    def replace(self, name: str, text: str) -> None:
        self._store.write(name, text.encode())

    def touch(self, name: str) -> None:
        self._store.write(name, self._store.read(name))

    def modified(self, name: str) -> float:
        return self._store.modified(name)

    def remove(self, name: str) -> None:
        for file in self._store.files(name) or [name]:
            with contextlib.suppress(OSError):
                self._store.remove(file)


def _appears(temporary: Path, file: Path) -> bool:
    """Give a finished file its name, unless there is one of this name."""
    try:
        os.link(temporary, file)
    except FileExistsError:
        return temporary.stat().st_nlink == 2  # over a network it may have worked before it was tried again
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if file.exists():
            return False
        os.rename(temporary, file)
    return True

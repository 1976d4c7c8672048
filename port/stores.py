"""Object stores: files at s3://, gs:// and memory:// addresses, through fsspec.

Credentials, endpoints and whatever else there is to set come from the environment, as s3fs and gcsfs take them. What a
command reads is copied to this machine (`readable`), but images and shards, which are read where they are (`Store`).
"""

import atexit
import contextlib
import functools
import io
import os
import posixpath
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from port.paths import SCHEMES, is_remote, user_path
from port.text import cut, one_line

WAITS = (0.5, 2.0, 8.0)  # seconds before something is tried again
# What is the same however often it is tried.
FINAL = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
)
# Without botocore's own retries, which would be within those of s3fs and these: minutes until a failure is told.
OPTIONS: dict[str, dict[str, Any]] = {"s3": {"config_kwargs": {"retries": {"total_max_attempts": 1}}}}
HOPELESS = re.compile("credential|forbidden|accessdenied|invalidaccesskey|signaturedoesnotmatch|nosuchbucket", re.I)
T = TypeVar("T")


class Store:
    """The files whose addresses begin with one; their names are relative to it, with "/".

    What fails is tried four times, where that may help, and is then an OSError that names the address and the cause.

    Raises:
        ImportError: the package for this kind of store is not installed.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        self._fs = _file_system(self.address.partition("://")[0].lower())
        self._root = str(self._fs._strip_protocol(self.address))

    def read(self, name: str = "") -> bytes:
        """The content of a file."""
        data: bytes = self._try(name, lambda: self._fs.cat_file(self._path(name)))
        return data

    def write(self, name: str, data: bytes) -> None:
        """A file, whole or not at all; one that is there is replaced."""
        self._try(name, lambda: self._fs.pipe_file(self._path(name), data))

    def create(self, name: str, data: bytes) -> bool:
        """`write`, unless there is one of this name: then False."""
        try:
            self._try(name, lambda: self._fs.pipe_file(self._path(name), data, mode="create"))
        except FileExistsError:
            return False
        return True

    def put(self, name: str, file: Path) -> None:
        """`write`, from a file of this machine."""
        self._try(name, lambda: self._fs.put_file(str(file), self._path(name)))

    def get(self, name: str, file: Path) -> None:
        """Copy a file to this machine."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._try(name, lambda: self._fs.get_file(self._path(name), str(file)))

    def remove(self, name: str) -> None:
        """Without a file of this name, nothing happens."""
        with contextlib.suppress(FileNotFoundError):
            self._try(name, lambda: self._fs.rm_file(self._path(name)))

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file, or a folder that has files."""
        return bool(self._try(name, lambda: self._fs.exists(self._path(name))))

    def modified(self, name: str) -> float:
        """When a file was written, in seconds, by the store's clock."""
        return float(self._try(name, lambda: self._fs.modified(self._path(name))).timestamp())

    def names(self, folder: str = "") -> list[str]:
        """Those of the files and folders in a folder, not within these."""
        return sorted(posixpath.basename(path.rstrip("/")) for path in self._listed(folder, 1))

    def files(self, folder: str = "") -> dict[str, int]:
        """All files in a folder and within: their names and sizes in bytes, sorted."""
        root = self._path("")
        return {path.removeprefix(root).lstrip("/"): int(i["size"]) for path, i in sorted(self._listed(folder).items())}

    def matching(self) -> list[str]:
        """The addresses that the store's own, a shell pattern, stands for, sorted."""
        scheme = self.address.partition("://")[0]
        found = self._try("", lambda: self._fs.glob(self._path("")))
        return [f"{scheme}://{path.lstrip('/')}" for path in sorted(found)]

    def open(self) -> BinaryIO:
        """The file of the store's own address, of which what is asked for is fetched, a megabyte at a time."""
        size = int(self._try("", lambda: self._fs.size(self._path(""))))
        return io.BufferedReader(_Ranges(self, size), 1 << 20)

    def part(self, start: int, stop: int) -> bytes:
        """Bytes of the file of the store's own address; there must be so many."""
        data: bytes = self._try("", lambda: self._fs.cat_file(self._path(""), start=start, end=stop))
        return data

    def _listed(self, folder: str, depth: int | None = None) -> Mapping[str, Any]:
        path = self._path(folder)
        found = self._try(folder, lambda: self._fs.find(path, maxdepth=depth, withdirs=depth is not None, detail=True))
        return {name: info for name, info in found.items() if name.strip("/") != path.strip("/")}

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _try(self, name: str, act: Callable[[], T]) -> T:
        address = f"{self.address}/{name}" if name else self.address
        for wait in (*WAITS, None):
            try:
                return act()
            except FINAL as error:
                raise type(error)(_told(address, error)) from error
            except Exception as error:  # of whatever library is below, not all of them OSErrors
                if wait is None or HOPELESS.search(f"{type(error).__name__} {error}"):
                    raise OSError(_told(address, error)) from error
                time.sleep(wait)
        raise AssertionError


class _Ranges(io.RawIOBase):
    """A file in a store, as Python reads files."""

    def __init__(self, store: Store, size: int):
        self._store, self._size, self._place = store, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        stop = min(self._place + len(buffer), self._size)
        data = self._store.part(self._place, stop) if self._place < stop else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _told(address: str, error: Exception) -> str:
    reason = cut(one_line(str(error)), 200) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        reason = "there is no such file or bucket"
    elif isinstance(error, PermissionError):
        reason = f"no permission ({reason})"
    return f"{cut(one_line(address), 500)}: {reason}"


def _file_system(scheme: str) -> Any:
    import fsspec  # huggingface_hub has it

    package, extra = SCHEMES[scheme]
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False, **OPTIONS.get(scheme, {}))  # others write there, too
    except ImportError as error:
        told = f"{scheme}:// addresses need {package}, which is not installed: pip install 'nfjax[{extra}]'."
        raise ImportError(told) from error


def readable(path: str | os.PathLike[str]) -> Path:
    """A path to read from, as people give it: of an address in an object store a copy on this machine.

    A folder is copied with all that is in it. The copies are removed when the process ends.

    Raises:
        OSError: it cannot be fetched, or there is nothing.
    """
    return _copy(os.fspath(path)) if is_remote(path) else user_path(path)


def open_place(place: Path | str) -> BinaryIO:
    """A file, of this machine or in an object store, opened for reading."""
    return place.open("rb") if isinstance(place, Path) else Store(place).open()


@functools.cache
def _copy(address: str) -> Path:
    store = Store(address)
    place = Path(tempfile.mkdtemp(dir=_copies())) / posixpath.basename(store.address)
    files = store.files()
    for name in files:
        store.get(name, place / name)
    if not files:
        store.get("", place)
    return place


@functools.cache
def _copies() -> Path:
    folder = tempfile.mkdtemp(prefix="nfjax-copies-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)

"""A work folder in an object store: trained with on this machine, and sent there with each checkpoint.

Stores know neither appending nor renaming, which a run needs. So its folder lies on this machine, in a temporary
folder, and the store has what it was when the last checkpoint was sealed. There a checkpoint counts once it has its
description.json, which is sent last.
"""

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from port.paths import is_remote
from port.stores import Store

OWNER = ".owner"  # who trains there: a later start takes the folder over, and the one before must not write any more
SEAL = re.compile(r"checkpoints/(\d+)/description\.json")
PASSING = re.compile(r"\.|.*/\.|checkpoints/\d+\.")  # begins of names: hidden, being written or being deleted
AT_ONCE = 8  # files
SMALL = 1 << 24  # bytes up to which a file, which may grow meanwhile, is read before it is sent


class Mirror:
    """A folder of this machine, and where it is sent.

    Attributes:
        say: hears where something could not be sent.
    """

    def __init__(self, address: str, folder: Path):
        self.address, self.folder = address.rstrip("/"), folder
        self.say: Callable[[str], Any] = print
        self._store, self._token = Store(address), secrets.token_hex(8)
        self._sent: dict[str, tuple[int, int]] = {}  # what the store has, as it was here: size and time

    def fetch(self) -> None:
        """Everything that is there; checkpoints of which a part is missing are left out."""
        self._store.write(OWNER, self._token.encode())
        there = [name for name in self._store.files() if name != OWNER]
        sealed = {match[1] for name in there if (match := SEAL.fullmatch(name))}

        def get(name: str) -> None:
            self._sent[name] = (0, 0)
            if not (step := re.match(r"checkpoints/(\d+)/", name)) or step[1] in sealed:
                self._store.get(name, self.folder / name)
                self._sent[name] = _state(self.folder / name)

        self.folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(get, there))

    def send(self) -> None:
        """Make the store as the folder is.

        Raises:
            OSError: it cannot be done, or another process has begun to train there.
        """
        if (owner := self._store.read(OWNER).decode()) != self._token:
            raise PermissionError(f"{self.address}: another process, {owner}, has begun to train there; this one ends.")
        here = {name: _state(self.folder / name) for name in self._names()}
        new = [name for name in here if self._sent.get(name) != here[name]]

        def put(name: str) -> None:
            file = self.folder / name
            if here[name][0] > SMALL:
                self._store.put(name, file)
            else:
                self._store.write(name, file.read_bytes())
            self._sent[name] = here[name]

        def remove(name: str) -> None:
            self._store.remove(name)
            del self._sent[name]

        old = [name for name in self._sent if name not in here]
        with ThreadPoolExecutor(AT_ONCE) as pool:  # what a checkpoint consists of is there while its seal is
            for act, names, seals in ((put, new, False), (put, new, True), (remove, old, True), (remove, old, False)):
                list(pool.map(act, [name for name in names if bool(SEAL.fullmatch(name)) is seals]))

    def try_to_send(self) -> None:
        """`send`; where that fails it is told, and the next time does it."""
        try:
            self.send()
        except PermissionError:
            raise
        except OSError as error:
            self.say(f"the last checkpoint is not sent yet: {error}. The run goes on; the next one is sent with it.")

    def told(self, text: str) -> str:
        """A message with the address in place of the folder."""
        return text.replace(str(self.folder), self.address)

    def _names(self) -> list[str]:
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        names = (path.relative_to(self.folder).as_posix() for path in files)
        return [name for name in names if not PASSING.match(name)]


@contextlib.contextmanager
def mirrored(workdir: Path | str) -> Iterator[Mirror | None]:
    """For an address in an object store, its mirror, which is sent at the end; None for a folder.

    Raises:
        ValueError: several processes train, which must share a folder.
        OSError: the store cannot be reached or written. What was not sent is then kept, and its place is named.
    """
    if isinstance(workdir, Path) or not is_remote(workdir):
        yield None
        return
    if jax.process_count() > 1:
        raise ValueError(
            f"--workdir={workdir}: several processes need a folder that all of them see. Mount the bucket (gcsfuse, "
            "mountpoint-s3), or take a shared file system."
        )
    place = Path(tempfile.mkdtemp(prefix="nfjax-work-"))
    mirror = Mirror(workdir, place / (workdir.rstrip("/").rpartition("/")[2] or "run"))
    kept = ""
    try:
        mirror.fetch()
        try:
            yield mirror
        finally:
            try:
                mirror.send()
            except PermissionError:
                raise
            except OSError as error:
                kept = f"{error}. What was not sent is in {place}: copy it there, and the same command goes on."
                raise OSError(kept) from error
    except Exception as error:
        if str(error) != kept:
            error.args = tuple(mirror.told(part) if isinstance(part, str) else part for part in error.args)
        raise
    finally:
        if not kept:
            shutil.rmtree(place, ignore_errors=True)


def _state(file: Path) -> tuple[int, int]:
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns

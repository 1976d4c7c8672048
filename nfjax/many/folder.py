"""The folder that processes share: who computes which part, and parts that are there whole, once.

    plan.json            what is computed; whoever comes with another plan is refused
    part-00000.parquet   finished parts
    skipped/             the images that could not be read, with the reasons: a file for each part that has such
    .work/               while it goes on: a file for each process, claims, and parts that are being written

A claim only saves work: a part computed twice has the same bytes, and the first one stays. So nothing here must be
exact about who is dead, and no lock is needed.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from port.text import read_json

PART = re.compile(r"part-(\d+)\.parquet")
PLAN, SKIPPED, WORK = "plan.json", "skipped", ".work"
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems without hard links
MACHINE = "machine"  # the entry of a plan that may differ


class Folder:
    """Parts, numbered from 0, of a folder.

    Args:
        patience: seconds after which a process that has shown no sign of life is taken for dead. One of this machine
            is known to be dead at once.

    Raises:
        OSError: it cannot be made or written.
        FileExistsError: it holds something else.
    """

    def __init__(self, path: Path, parts: int, patience: float):
        self.path, self.parts, self.patience = path, parts, patience
        self._work, self._token = path / WORK, secrets.token_hex(6)
        self._me = self._work / f"process-{self._token}"
        with self._told():
            (path / SKIPPED).mkdir(parents=True, exist_ok=True)
            others = [name for name in os.listdir(path) if name != SKIPPED and not name.startswith(".")]
        if others and PLAN not in others:
            raise FileExistsError(f"{path} holds other things, as {others[0]}; expected a new folder, or one of nfjax.")

    def agree(self, plan: Mapping[str, Any]) -> str:
        """Be the first to say what is computed, or see that it is the same.

        Returns:
            What is different about the machine; empty for nothing.

        Raises:
            ValueError: something else is computed there.
        """
        with self._told():
            self._publish(PLAN, lambda file: file.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8"))
        found = read_json(self.path / PLAN, dict, "Choose another folder.")
        ours = json.loads(json.dumps(plan))
        unequal = [key for key in {**ours, **found} if found.get(key) != ours.get(key)]
        told = [f"{key} is {found.get(key)} there and {ours.get(key)} here" for key in unequal if key != MACHINE]
        if told:
            raise ValueError(f"{self.path} is for something else: {'; '.join(told)}. Choose another folder.")
        return f"{found.get(MACHINE)} there and {ours.get(MACHINE)} here" if unequal else ""

    def name(self, part: int) -> str:
        """The file of a part, without its ending."""
        return f"part-{part:0{max(5, len(str(self.parts - 1)))}}"

    def finished(self) -> set[int]:
        """The parts that are there."""
        names = (entry.name for entry in os.scandir(self.path))
        found = {int(match[1]) for name in names if (match := PART.fullmatch(name))}
        return {part for part in found if part < self.parts}

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        """While it lasts, this process shows that it lives."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(min(self.patience / 4, 10.0)):
                with contextlib.suppress(OSError):  # as while the last process of all clears up
                    os.utime(self._me)

        with self._told():
            self._work.mkdir(exist_ok=True)
            self._me.write_text(json.dumps(_myself()))
        thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._me.unlink(missing_ok=True)

    def claim(self, part: int) -> bool:
        """Whether this process is to compute a part: it is not there, and nobody who lives has claimed it."""
        file = self._work / self.name(part)
        if self._file(part).exists():
            return False
        owner = _text(file)
        if owner is not None and self._lives(owner):
            return False
        with self._told():
            claim = self._temporary(file.name)
            try:
                claim.write_text(self._token)
                if owner is not None:
                    os.replace(claim, file)
                elif not _appears(claim, file):
                    return False
            except FileNotFoundError:  # the last process of all has cleared up
                return False
            finally:
                claim.unlink(missing_ok=True)
        return _text(file) == self._token  # of two that replaced a dead one's claim, the later has it

    def publish(self, part: int, write: Callable[[Path], object], skipped: str) -> bool:
        """Write a part; whether it was not there yet.

        Args:
            write: writes the file that it is given.
            skipped: the text of the report; empty for none.
        """
        name = self.name(part)
        with self._told():
            if skipped:
                report = f"{SKIPPED}/{name}.jsonl"
                self._publish(report, lambda file: file.write_text(skipped, encoding="utf-8"))
            is_new = self._publish(self._file(part).name, write)
            (self._work / name).unlink(missing_ok=True)
        return is_new

    def skipped(self) -> Iterator[tuple[str, str]]:
        """The images that were skipped, in their order, and why."""
        for file in sorted((self.path / SKIPPED).glob("*.jsonl")):
            with file.open(encoding="utf-8") as lines:
                for line in lines:
                    row = json.loads(line)
                    yield row["file"], row["reason"]

    def clear(self) -> None:
        """Remove what is not needed any more when all parts are there."""
        shutil.rmtree(self._work, ignore_errors=True)

    def _file(self, part: int) -> Path:
        return self.path / f"{self.name(part)}.parquet"

    def _temporary(self, name: str) -> Path:
        return self._work / f"{self._token}-{name.replace('/', '-')}"

    def _publish(self, name: str, write: Callable[[Path], object]) -> bool:
        """Write a file that is then there whole, unless there is one."""
        if (self.path / name).exists():
            return False
        self._work.mkdir(exist_ok=True)
        temporary = self._temporary(name)
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            return _appears(temporary, self.path / name)
        except FileNotFoundError:
            if (self.path / name).exists():  # another process was sooner, and the last one has cleared up
                return False
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def _lives(self, token: str) -> bool:
        """Whether the process of a token may still be at work."""
        file = self._work / f"process-{token}"
        try:
            os.utime(self._me)  # by the clock of the file system, which all share
            silent = self._me.stat().st_mtime - file.stat().st_mtime
            return token == self._token or (silent < self.patience and not _ended(_text(file)))
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """An error of the system as a sentence."""
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(
                f"{self.path} cannot be written: {reason}. What is there stays; the same command goes on from it."
            ) from error


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


def _text(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "place": _place(), "pid": os.getpid(), "began": _began(os.getpid())}


def _place() -> str:
    """Where a process number means one process: this start of this machine, and this container."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _began(pid: int) -> str | None:
    """When a process began, in the kernel's words; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _ended(process: str | None) -> bool:
    """Whether a process, as it wrote itself down, surely has ended: it was one of this machine."""
    try:
        known = json.loads(process or "")
        return bool(known["place"]) and known["place"] == _place() and _began(known["pid"]) != known["began"]
    except (ValueError, KeyError, TypeError):  # it is just being written
        return False

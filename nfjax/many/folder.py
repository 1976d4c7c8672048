"""The folder that processes share: who computes which part, and parts that are there whole, once.

    plan.json            what is computed; whoever comes with another plan is refused
    part-00000.parquet   finished parts
    skipped/             the images that could not be read, with the reasons: a file for each part that has such
    .work/               while it goes on: a file for each process, claims, and parts that are being written

A claim only saves work: a part computed twice has the same bytes, and the first one stays. So nothing here must be
exact about who is dead, and no lock is needed.
"""

import contextlib
import json
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nfjax.many.places import Bucket, Disk, Place
from port.text import one_line

PART = re.compile(r"part-(\d+)\.parquet")
PLAN, SKIPPED, WORK = "plan.json", "skipped", ".work"
MACHINE = "machine"  # the entry of a plan that may differ


class Folder:
    """Parts, numbered from 0, of a folder, or of an address in an object store.

    Args:
        patience: seconds after which a process that has shown no sign of life is taken for dead. One of this machine
            is known to be dead at once.

    Raises:
        OSError: it cannot be made or written.
        FileExistsError: it holds something else.
    """

    def __init__(self, path: Path | str, parts: int, patience: float):
        self.path, self.parts, self.patience = path, parts, patience
        self._place: Place = Bucket(path) if isinstance(path, str) else Disk(path, WORK)
        self._token = secrets.token_hex(6)
        self._me = f"{WORK}/process-{self._token}"
        with self._told():
            self._place.make(SKIPPED)
            others = [name for name in self._place.names() if name != SKIPPED and not name.startswith(".")]
        if others and PLAN not in others:
            raise FileExistsError(f"{path} holds other things, as {others[0]}; expected a new folder, or one of nfjax.")

    def agree(self, plan: Mapping[str, Any]) -> str:
        """Be the first to say what is computed, or see that it is the same.

        Returns:
            What is different about the machine; empty for nothing.

        Raises:
            ValueError: something else is computed there.
        """
        text = json.dumps(plan, indent=2) + "\n"
        with self._told():
            self._place.create(PLAN, lambda file: file.write_text(text, encoding="utf-8"))
            found = _object(self._place.text(PLAN) or "", f"{self.path}/{PLAN}")
        ours = json.loads(text)
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
        with self._told():
            names = self._place.names()
        found = {int(match[1]) for name in names if (match := PART.fullmatch(name))}
        return {part for part in found if part < self.parts}

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        """While it lasts, this process shows that it lives."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(min(self.patience / 4, 10.0)):
                with contextlib.suppress(OSError):  # as while the last process of all clears up
                    self._place.touch(self._me)

        with self._told():
            self._place.make(WORK)
            self._place.create(self._me, lambda file: file.write_text(json.dumps(_myself())))
        thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._place.remove(self._me)

    def claim(self, part: int) -> bool:
        """Whether this process is to compute a part: it is not there, and nobody who lives has claimed it."""
        claim = f"{WORK}/{self.name(part)}"
        with self._told():
            if self._place.exists(self._file(part)):
                return False
            owner = self._place.text(claim)
            if owner is not None and self._lives(owner):
                return False
            try:
                if owner is not None:
                    self._place.replace(claim, self._token)
                elif not self._place.create(claim, lambda file: file.write_text(self._token)):
                    return False
            except FileNotFoundError:  # the last process of all has cleared up
                return False
            return self._place.text(claim) == self._token  # of two that replaced a dead one's, the later has it

    def publish(self, part: int, write: Callable[[Path], object], skipped: str) -> bool:
        """Write a part; whether it was not there yet.

        Args:
            write: writes the file that it is given.
            skipped: the text of the report; empty for none.
        """
        name = self.name(part)
        with self._told():
            if skipped:
                self._publish(f"{SKIPPED}/{name}.jsonl", lambda file: file.write_text(skipped, encoding="utf-8"))
            is_new = self._publish(self._file(part), write)
            self._place.remove(f"{WORK}/{name}")
        return is_new

    def skipped(self) -> Iterator[tuple[str, str]]:
        """The images that were skipped, in their order, and why."""
        for name in sorted(self._place.names(SKIPPED)):
            for line in (self._place.text(f"{SKIPPED}/{name}") or "").splitlines():
                row = json.loads(line)
                yield row["file"], row["reason"]

    def clear(self) -> None:
        """Remove what is not needed any more when all parts are there."""
        self._place.remove(WORK)

    def _file(self, part: int) -> str:
        return f"{self.name(part)}.parquet"

    def _publish(self, name: str, write: Callable[[Path], object]) -> bool:
        return not self._place.exists(name) and self._place.create(name, write)

    def _lives(self, token: str) -> bool:
        """Whether the process of a token may still be at work."""
        process = f"{WORK}/process-{token}"
        try:
            self._place.touch(self._me)  # by the clock of the file system, which all share
            silent = self._place.modified(self._me) - self._place.modified(process)
            return token == self._token or (silent < self.patience and not _ended(self._place.text(process)))
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


def _object(text: str, name: str) -> dict[str, Any]:
    """What a JSON file of ours holds."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged ({error}). Choose another folder.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name} is damaged (found {one_line(repr(found))[:40]}). Choose another folder.")
    return found


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

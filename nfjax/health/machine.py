"""Processors, memory and folders."""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from nfjax.health.check import Check, Status
from nfjax.support.clusters import is_cluster
from port.stores import Store
from port.text import file_size

GB = 10**9
LITTLE_MEMORY, LITTLE_SPACE, NO_SPACE = 4 * GB, 20 * GB, GB
FULL = (errno.ENOSPC, errno.EDQUOT)
SKEW = 2.0  # seconds between two clocks
SHARED = ("nfs", "lustre", "gpfs", "ceph", "beegfs", "cifs", "smb", "glusterfs", "9p", "afs", "fuse", "wekafs", "panfs")
CGROUP = Path("/sys/fs/cgroup")


def cores() -> Iterator[Check]:
    """Those that the process sees, and those that it may use."""
    there = os.cpu_count() or 1
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    told = f"{seen} of {there}"
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    if quota.isdecimal() and int(quota) < seen * int(period or 100_000):
        allowed = int(quota) / int(period or 100_000)
        todo = "Ask the scheduler for more, or start with `taskset` on as many as it allows."
        yield Check("cores", "warning", f"{told}, but the container may use the time of {allowed:g} only", todo)
    else:
        yield Check("cores", "ok", told)


def memory() -> Iterator[Check]:
    """What is free of the machine and of the container, and whether it comes in huge pages."""
    lines = dict(line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines() if ":" in line)
    if not lines:
        return
    kilobytes = {name: int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable") if name in lines}
    total, free = (kilobytes.get(name, 0) * 1024 for name in ("MemTotal", "MemAvailable"))
    told, limit = f"{file_size(free)} free of {file_size(total)}", _read(CGROUP / "memory.max")
    if limit.isdecimal():
        used = _read(CGROUP / "memory.current")
        free = min(free, int(limit) - int(used or 0))
        told += f"; the container may have {file_size(int(limit))}"
    if free < LITTLE_MEMORY:
        yield Check("memory", "warning", told, "Close other programs or ask for more: a process may be killed for it.")
    else:
        yield Check("memory", "ok", told)
    if huge := _read(Path("/sys/kernel/mm/transparent_hugepage/enabled")):
        chosen = huge.partition("[")[2].partition("]")[0]
        todo = "Training on the CPU is slower: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
        yield Check("huge pages", "warning" if chosen == "never" else "ok", chosen, todo if chosen == "never" else "")


def folder(path: Path | str, environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether the work folder can be made and written, its space, whether others see it, and its clock."""
    if isinstance(path, str):
        yield from _stored(path)
        return
    if path.exists() and not path.is_dir():
        todo = "Choose another folder, or move that away."
        yield Check("work folder", "problem", f"{path} is there, and is no folder", todo)
        return
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    probe = path / f".doctor-{secrets.token_hex(4)}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        before = time.time()
        with probe.open("w") as file:
            file.write("x")
            file.flush()
            os.fsync(file.fileno())
        after, seen = time.time(), probe.stat().st_mtime
    except OSError as error:
        todo = "Choose another folder, or have its permissions changed."
        if error.errno in FULL:
            todo = "Remove what is not needed there, or choose another folder."
        yield Check("work folder", "problem", f"{path} cannot be written: {error.strerror or error}", todo)
        return
    finally:
        probe.unlink(missing_ok=True) if path.is_dir() else None
        for parent in missing:
            parent.rmdir() if parent.is_dir() and not any(parent.iterdir()) else None
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    kind = _file_system(there)
    if any(name in kind for name in SHARED) or not is_cluster(environment):
        yield Check("work folder", "ok", f"{path} can be written ({kind or 'unknown file system'})")
    else:
        todo = "All processes need the same one: take a shared file system."
        told = f"{path} can be written, but {kind or 'its file system'} is this machine's own, as it seems"
        yield Check("work folder", "warning", told, todo)
    free = shutil.disk_usage(there).free
    status: Status = "problem" if free < NO_SPACE else "warning" if free < LITTLE_SPACE else "ok"
    todo = "" if status == "ok" else "Checkpoints need room: remove some, or take another folder."
    yield Check("free space", status, f"{file_size(free)} in {there}", todo)
    skew = max(before - seen, seen - after, 0.0)
    if skew > SKEW:
        yield Check("clock", "warning", f"{skew:.1f} s away from the clock of {there}", "Have both set by NTP.")
    else:
        yield Check("clock", "ok", f"within {max(skew, 0.1):.1f} s of the clock of {there}")


def _stored(address: str) -> Iterator[Check]:
    """The same of an address in an object store."""
    probe = f".doctor-{secrets.token_hex(4)}"
    try:
        store = Store(address)
        before = time.time()
        store.write(probe, b"x")
        after, seen = time.time(), store.modified(probe)
        store.remove(probe)
    except (OSError, ImportError) as error:
        todo = "Credentials and endpoints come from the environment, as s3fs and gcsfs take them."
        todo = "" if isinstance(error, ImportError) else todo
        yield Check("work folder", "problem", f"{address} cannot be written: {str(error).rstrip('.')}", todo)
        return
    yield Check("work folder", "ok", f"{address} can be written")
    skew = max(before - 1 - seen, seen - after, 0.0)  # stores tell whole seconds
    status: Status = "warning" if skew > SKEW else "ok"
    todo = "Have both set by NTP: requests with another time are refused." if skew > SKEW else ""
    yield Check("clock", status, f"within {max(skew, 1.0):.1f} s of the clock of {address}", todo)


def _file_system(path: Path) -> str:
    """The kind of file system that a folder is on."""
    best, kind = "", ""
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        first, _, second = line.partition(" - ")
        point = first.split()[4].replace("\\040", " ")
        inside = path.resolve().is_relative_to(point)
        if inside and len(point) >= len(best):
            best, kind = point, second.split()[0]
    return kind


def _read(file: Path) -> str:
    """The text of a file of the kernel; empty where there is none."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""

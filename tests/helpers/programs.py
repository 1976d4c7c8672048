"""Compiled programs, kept between runs of the tests: `$NFJAX_TEST_CACHE`, by default `~/.cache/nfjax/tests`.

A run works on a folder of its own, which starts with hard links to all that is kept. What it compiles is added to the
kept ones at its end. So runs at the same time do not meet, and a run that is killed leaves nothing half written.
JAX names the programs by what they are made of: versions, options, the program itself. `NFJAX_TEST_CACHE= pytest`
starts from nothing and keeps nothing.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

LIMIT = 2 * 2**30  # bytes; those that were not read for the longest time go first
DAY = 24 * 60 * 60


def kept() -> Path | None:
    """The folder of kept programs of this kind of processor: machine code for another one would not run."""
    root = os.environ.get("NFJAX_TEST_CACHE")
    if root is None:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nfjax" / "tests"
    elif not root:
        return None
    kind = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind += "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    folder = Path(root) / f"programs-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to
        return None
    return folder


def take(store: Path | None) -> Path:
    """A folder for this run, with the kept programs in it."""
    if store is None:
        return Path(tempfile.mkdtemp(prefix="nfjax-tests-"))
    for old in store.parent.glob("run-*"):  # of runs that were killed
        if time.time() - old.stat().st_mtime > DAY:
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=store.parent))
    for file in store.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another run has just removed it
            os.link(file, folder / file.name)
    return folder


def give_back(folder: Path, store: Path | None) -> None:
    """Keep what is new in the folder of this run, and remove the folder."""
    if store is not None:
        for file in folder.glob("*-cache"):
            if not (store / file.name).exists() and is_whole(file):
                with contextlib.suppress(FileExistsError):  # another run has just added it
                    os.link(file, store / file.name)
        prune(store, LIMIT)
    shutil.rmtree(folder, ignore_errors=True)


def is_whole(file: Path) -> bool:
    """Whether all was written: some tests kill the processes that they start."""
    from jax._src.compilation_cache import decompress_executable

    try:
        decompress_executable(file.read_bytes())
    except Exception:
        return False
    return True


def prune(store: Path, limit: int) -> None:
    files = [(file, file.stat()) for file in store.iterdir()]
    total = sum(stat.st_size for _, stat in files)
    for file, stat in sorted(files, key=lambda pair: pair[1].st_atime):
        if total <= limit:
            break
        file.unlink(missing_ok=True)
        total -= stat.st_size

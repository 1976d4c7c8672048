"""What Python's audit hook sees while something is loaded: sockets, processes, files written or opened elsewhere."""

import contextlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

STARTS = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "pty.", "ctypes.dlopen")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink", "shutil.")
# Where libraries are, and what the system says of itself. /dev/fd/5 is a file that is open.
PARTS = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, str(Path(__file__).parents[2])}
PARTS |= {"/proc", "/sys", "/usr", "/lib", "/dev/fd", "/dev/null", "/dev/urandom"}
_watching: tuple[list[str], tuple[str, ...] | None] | None = None


def _hook(event: str, args: tuple) -> None:
    if _watching is None:
        return
    seen, folders = _watching
    if event.startswith(STARTS + CHANGES):
        seen.append(f"{event} {args!r:.200}")
    elif event == "open":
        path, mode, flags = args
        if any(letter in (mode or "") for letter in "wax+") or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.append(f"{event} {path!r} for writing")
        elif folders is not None and not isinstance(path, int) and not _is_within(path, folders):
            seen.append(f"{event} {path!r}, which is elsewhere")


def _is_within(path: str | bytes | os.PathLike, folders: tuple[str, ...]) -> bool:
    absolute = os.path.abspath(os.fsdecode(path))
    return any(absolute == folder or absolute.startswith(f"{folder}{os.sep}") for folder in folders)


sys.addaudithook(_hook)  # it cannot be taken back


@contextlib.contextmanager
def watched(folder: Path | None = None) -> Iterator[list[str]]:
    """A list of what is done meanwhile, which grows.

    Args:
        folder: the only one from which files may be read, beside those of the system and of libraries.
    """
    global _watching
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    _watching = seen, _ = [], None if folder is None else (str(folder), *PARTS)
    try:
        yield seen
    finally:
        _watching, sys.dont_write_bytecode = None, writes_bytecode

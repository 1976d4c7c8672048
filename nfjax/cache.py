"""JAX's persistent compilation cache, on by default: what one process has compiled, the next one loads.

Importing nfjax changes nothing of JAX; `nfjax.compile` and the command lines call `enable`.
"""

import functools
import logging
import os
import re
import stat
from pathlib import Path
from typing import Any

import filelock
import jax

from port.paths import user_path

logger = logging.getLogger("nfjax")

SWITCH, OFF = "NFJAX_CACHE", "0"
SIZE = "jax_compilation_cache_max_size"
OPTIONS = {
    SIZE: 2**30,  # bytes; what was used longest ago makes room
    # Smaller programs are not worth their files: each new entry looks at all others.
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}
LOCK, ENTRY, STAMP = ".lockfile", "-cache", "-atime"  # of jax._src.lru_cache; a stamp is written after its entry
NAME = re.compile(rf".+-[0-9a-f]{{64}}{ENTRY}")  # of an entry: the program's name and a hash
# Marks a folder that nothing was in but what is ours: of another one nothing is removed.
TAG = "CACHEDIR.TAG"
TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# Programs that nfjax has compiled; the folder can be removed. For tags see https://bford.info/cachedir/
"""
PATIENCE = 10.0  # seconds until another process must have given up the lock, as in jax


@functools.cache
def enable() -> Path | None:
    """Turn the cache on, unless the user has decided otherwise; the first call decides for the process.

    The environment variable NFJAX_CACHE is "0" for no cache, or its folder; the default is `nfjax/jax` in
    XDG_CACHE_HOME or ~/.cache. JAX's own settings win: if JAX_COMPILATION_CACHE_DIR or `jax.config` names a folder or
    turns the cache off, nothing is changed, and `OPTIONS` that the environment sets stay. JAX's keys contain the
    program, the versions, the flags and the processor's features, so that different machines can share a folder.

    Returns:
        The folder, or None if nothing was turned on; if a folder cannot be written, with a warning.
    """
    config: Any = jax.config  # its attributes are made at run time
    choice = os.environ.get(SWITCH, "")
    if choice == OFF or config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return None
    folder = Path(choice or f"{_caches()}/nfjax/jax")
    options = {option: value for option, value in OPTIONS.items() if option.upper() not in os.environ}
    try:
        folder = user_path(folder).absolute()
        _prepare(folder, stamped=options.get(SIZE, config.jax_compilation_cache_max_size) != -1 and _stamps())
    # RuntimeError: a user without a home, or (NotImplementedError is one) a file system without locks.
    except (OSError, RuntimeError) as error:
        logger.warning(
            f"compiled programs are not kept for the next process, because {folder} cannot be used ({error}); set "
            f"{SWITCH} to a folder that can be written, or to 0."
        )
        return None
    for option, value in options.items():
        jax.config.update(option, value)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def folder_for(what: str) -> Path | None:
    """Where something else than programs is kept: `nfjax/WHAT` in the user's cache; None if NFJAX_CACHE is "0".

    Beside the programs, if NFJAX_CACHE is a folder. It need not exist.
    """
    choice = os.environ.get(SWITCH, "")
    return None if choice == OFF else user_path(Path(choice or f"{_caches()}/nfjax", what)).absolute()


def _caches() -> str:
    return os.environ.get("XDG_CACHE_HOME") or "~/.cache"


def _stamps() -> bool:
    """Whether the jax that is installed has the names above. Of another one nothing is removed: it may need it."""
    try:
        from jax._src.lru_cache import _ATIME_SUFFIX, _CACHE_SUFFIX
    except ImportError:
        return False
    return (_CACHE_SUFFIX, _ATIME_SUFFIX) == (ENTRY, STAMP)


def _prepare(folder: Path, stamped: bool) -> None:
    """Make the folder, for this user alone since programs in it will be run, and remove unfinished entries.

    Where entries are `stamped`, a finished one has a stamp; jax writes none where the cache has no maximal size. A
    folder that was there with something in it is used, but nothing in it is removed.

    Raises:
        OSError: it cannot be made or written; or it is another user's, and everybody's to write.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_mode & stat.S_IWOTH and status.st_uid != getattr(os, "geteuid", int)():
        raise PermissionError("another user's, which everybody can write to: programs in it would be run")
    tag = folder / TAG
    with filelock.FileLock(folder / LOCK, timeout=PATIENCE):
        if os.listdir(folder) == [LOCK]:
            tag.write_text(TAG_TEXT)
        ours = tag.is_file() and tag.read_bytes() == TAG_TEXT.encode()
        # A killed process leaves an entry that JAX would neither read nor replace, but warn of.
        for entry in folder.glob(f"*{ENTRY}") if stamped and ours else ():
            stamp = entry.with_name(entry.name.removesuffix(ENTRY) + STAMP)
            if NAME.fullmatch(entry.name) and entry.is_file() and not stamp.exists():
                entry.unlink()

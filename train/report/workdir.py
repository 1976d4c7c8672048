"""The folder of a run: whose it is, that only one process at a time trains in it, and what it was made with."""

import contextlib
import dataclasses
import datetime
import errno
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from port.atomic import replacing
from port.text import read_json
from train.config import Config
from train.machine.processes import by_first_process
from train.report.sinks import flat

# Fields that may change when a run goes on: where it is computed and what is kept of it, not what it computes.
FREE_FIELDS = (
    r"mesh\..*|log\..*|checkpoint\.(every_epochs|keep_last|keep_best)|data\.(cache|workers|stall_seconds|max_broken)"
)
REMEDY = "Bring it back, or remove it if you know what it held; or choose another --workdir."
ENVIRONMENT = "environment.json"
PACKAGES = ("nfjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Make the folder, and keep other processes from training in it.

    The lock is the kernel's and ends with the process, however that ends; its file, .lock, goes with it but where the
    process is killed. Process 0 holds it for all.

    Raises:
        OSError: the folder cannot be made or written to, or a process trains in it; names that process.
    """
    with contextlib.ExitStack() as stack:
        by_first_process(lambda: stack.enter_context(_locked(workdir)))
        yield


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    import fcntl

    path = workdir / ".lock"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise type(error)(
            f"--workdir={workdir} cannot be written to ({error.strerror}); expected a folder, or a place for one."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise BlockingIOError(
                f"{workdir} is in use: process {file.read().strip() or 'unknown'} trains there. Wait for its end, stop "
                "it, or choose another --workdir."
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            warnings.warn(f"{workdir} cannot be locked; see to it that only one run uses it.", stacklevel=2)
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            raise BlockingIOError(f"{workdir}: another process has trained there until now. Try again.")
        try:
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is locked: whoever has opened it by now sees that it is gone


def claim(workdir: Path, config: dict[str, Any]) -> None:
    """Write the run's config beside it as config.json, or require that the run already there had the same one.

    Fields that `FREE_FIELDS` matches may differ; the file then has the latest.

    Raises:
        ValueError: naming each field that differs, because continuing would be neither run.
    """
    by_first_process(lambda: _claim(workdir, config))


def _claim(workdir: Path, config: dict[str, Any]) -> None:
    path = workdir / "config.json"
    if path.exists():
        # As they would be read back: lists for tuples. A run of an older version had what is the default now.
        default, now = (flat(json.loads(json.dumps(c))) for c in (dataclasses.asdict(Config()), config))
        before = {key: default.get(key) for key in now} | flat(read_json(path, dict, REMEDY))
        # Whose learning rate knows of no end can be prolonged.
        free = FREE_FIELDS + ("|epochs" if now.get("schedule.name") == "constant" else "")
        changed = [
            f"  {key}: {before.get(key)!r} there, {now.get(key)!r} here"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not re.fullmatch(free, key)
        ]
        if changed and _has_begun(workdir):
            raise ValueError(
                f"{workdir} holds a run with another config:\n" + "\n".join(changed) + "\nGive the config it had, or "
                f"start a new run: another --workdir and, to begin with its weights, --config.model.weights={workdir}. "
                f"Or with all of its state: --config.model.resume_run={workdir}."
            )
    _write(path, config)


def _has_begun(workdir: Path) -> bool:
    """Has the run there done anything that another config could not have done?"""
    metrics = workdir / "metrics.jsonl"
    return (metrics.exists() and metrics.stat().st_size > 0) or any((workdir / "checkpoints").glob("*"))


def require_space(workdir: Path, needed: int) -> None:
    """Raise an OSError unless there is room for the checkpoints, before time is spent on what could not be kept.

    Args:
        needed: bytes of all checkpoints that are ever there together: one more than stay, while it is written. What
            checkpoints/ already takes counts as free.
    """

    def check() -> None:
        used = sum(file.stat().st_size for file in (workdir / "checkpoints").rglob("*") if file.is_file())
        free = shutil.disk_usage(workdir).free + used
        if free < needed:
            raise OSError(
                f"the checkpoints of this run take up to {needed / 2**30:.2f} GiB, but {workdir} has room for "
                f"{free / 2**30:.2f} GiB. Free some space, keep fewer (checkpoint.keep_last, checkpoint.keep_best), or "
                "choose another --workdir."
            )

    by_first_process(check)


def record_environment(workdir: Path, steps_per_epoch: int) -> None:
    """Append to environment.json what this start of the run is made with: versions, devices, command, time."""
    start = environment() | {"steps_per_epoch": steps_per_epoch}
    by_first_process(lambda: _write(workdir / ENVIRONMENT, [*_starts(workdir), start]))


def steps_per_epoch(workdir: Path) -> int | None:
    """Of a run's last start; None where that is not known."""
    with contextlib.suppress(OSError, ValueError):
        found = [start.get("steps_per_epoch") for start in _starts(workdir)[-1:]]
        return next((steps for steps in found if isinstance(steps, int) and steps > 0), None)
    return None


def other_devices(workdir: Path) -> str:
    """What to tell where the start before had devices of another kind; nothing if there was none, or of the same."""
    kinds = [
        " and ".join(start["devices"]) for start in _starts(workdir)[-2:] if isinstance(start.get("devices"), dict)
    ]
    if len(set(kinds)) < 2:
        return ""
    return f"this run had {kinds[0]} before, and goes on with {kinds[1]}: its bits will not be those of one on either."


def _starts(workdir: Path) -> list[dict[str, Any]]:
    path = workdir / ENVIRONMENT
    return [start for start in read_json(path, list, REMEDY) if isinstance(start, dict)] if path.exists() else []


def environment() -> dict[str, Any]:
    """What a run depends on besides its config; neither the machine nor its user is named."""
    kinds = [device.device_kind for device in jax.devices()]
    return {
        "start": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "devices": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "processes": jax.process_count(),
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("JAX_", "XLA_", "LIBTPU_"))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the source that runs, "-dirty" if it was changed since; None outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _write(path: Path, content: Any) -> None:
    """As JSON, the file whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")

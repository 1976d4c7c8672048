"""One checkpoint on disk: what it consists of, how it is written, and how it is read and verified.

`WORKDIR/checkpoints/STEP` holds params, ema, opt_state and rest (step, key, schedule), each a flat `{path: array}` that
Orbax wrote, and description.json, which seals them. It is written under another name and then renamed, so a folder
whose name is a number was complete once.
"""

import contextlib
import dataclasses
import errno
import functools
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from port.text import one_line
from train.checkpoints.base import load_base
from train.checkpoints.checksums import checksums
from train.checkpoints.description import DamagedError, Description, leaves, sealed, sha256, unsealed
from train.optim.lora import merged
from train.optim.parameters import BESIDE

GROUPS = ("params", "ema", "opt_state")  # what else there is in a state is small, and goes into "rest"
SMALL = 2**20  # bytes up to which a file has a hash
# What the system says where a file is not what was saved: it is gone, or a folder. All else is no fault of the file.
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}

# What a thread of Orbax fails of is raised where it is waited for; its log would tell it a dozen times over.
logging.getLogger("absl").addFilter(lambda record: "_SignalingThread" not in str(record.msg))


class UnreadableError(OSError):
    """A checkpoint may be what was saved, but cannot be read now: no permission, or a disk that does not answer."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around whatever reads the file or folder: failures of the system that say nothing of it are told as such."""
    try:
        yield
    except Exception as error:  # of the libraries below, too
        if number := _system_error(error):
            named = getattr(error, "filename", None) or path
            raise UnreadableError(
                f"{named} cannot be read: {os.strerror(number)}. That is no damage, and nothing was changed; once it "
                "can be read, the same command goes on."
            ) from error
        raise


def _system_error(error: BaseException) -> int | None:
    """The number of the system's error that an exception is, or is because of; None for none, or `ABSENT` ones."""
    found: BaseException | None = error
    while found is not None:
        told = re.search(r"os_error_code='(\d+)'", str(found))  # as tensorstore says it, in a ValueError
        number = int(told[1]) if told else found.errno if isinstance(found, OSError) else None
        if number is not None:
            return None if number in ABSENT else number
        found = found.__cause__ or found.__context__
    return None


def folder_of(workdir: Path, step: int) -> Path:
    return workdir.absolute() / "checkpoints" / str(step)


def steps(workdir: Path) -> list[int]:
    """The steps of all complete checkpoints of a run, ascending; damaged ones count.

    Raises:
        UnreadableError: there are checkpoints, but their folder cannot be read.
    """
    folder = workdir / "checkpoints"
    try:
        with reading(folder):
            return sorted(int(name) for name in os.listdir(folder) if name.isdecimal())
    except OSError as error:
        if error.errno in ABSENT:
            return []
        raise


def require_steps(run: Path, wanted: Sequence[int] = ()) -> list[int]:
    """The steps of all complete checkpoints of a run, ascending.

    Raises:
        FileNotFoundError: there are none, or not all that are wanted.
    """
    known = steps(run)
    if not known:
        raise FileNotFoundError(f"{run} holds no checkpoints; expected the --workdir of a run that has saved one.")
    absent = sorted(set(wanted) - set(known))
    if absent:
        raise FileNotFoundError(
            f"{run} has no checkpoint of step {', '.join(map(str, absent))}, but of {', '.join(map(str, known))}."
        )
    return known


def best_first(metrics: Mapping[int, Mapping[str, float]], metric: str) -> list[int]:
    """Steps from best to worst, of equal ones the later first; those without the metric are left out.

    Of "loss" less is better, of other metrics more.
    """
    scores = {step: values.get(metric, math.nan) * (-1 if metric == "loss" else 1) for step, values in metrics.items()}
    known = [step for step, score in scores.items() if not math.isnan(score)]
    return sorted(known, key=lambda step: (scores[step], step), reverse=True)


def write_async(workdir: Path, step: int, flat: Mapping[str, jax.Array | np.ndarray]) -> ocp.AsyncResponse[None]:
    """Start writing arrays. Those on devices may be donated at once; `result()` waits, and raises what went wrong."""
    _told_once()
    with _context():
        return ocp.save_checkpointables_async(_unsealed(workdir, step), _groups(flat))


@functools.cache
def _told_once() -> None:
    """Of several files that cannot be written, Orbax waits for the first one; silence the thousand others."""
    before = sys.unraisablehook

    def told(unraisable: "sys.UnraisableHookArgs") -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and "Event loop is closed" in str(unraisable.exc_value)):
            before(unraisable)

    sys.unraisablehook = told
    logging.getLogger("asyncio").addFilter(
        lambda record: not (record.exc_info and "os_error_code=" in str(record.exc_info[1]))
    )
    warnings.filterwarnings("ignore", r"coroutine '.*' was never awaited", RuntimeWarning)


def seal(workdir: Path, described: Description) -> None:
    """Make a checkpoint of what was written; process 0 calls this."""
    folder = _unsealed(workdir, described.step)
    described = dataclasses.replace(described, files=_files(folder))
    (folder / "description.json").write_text(sealed(described))
    folder.rename(folder_of(workdir, described.step))


def read_description(workdir: Path, step: int) -> Description:
    """A checkpoint's description.

    Raises:
        DamagedError: it is missing, or not what was written.
        UnreadableError: it cannot be read.
    """
    path = folder_of(workdir, step) / "description.json"
    try:
        with reading(path):
            content = path.read_text("utf-8")
    except UnreadableError:
        raise
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path.name} cannot be read ({error!r})") from error
    return unsealed(content, step)


def require_files(workdir: Path, described: Description) -> None:
    """Raise a DamagedError unless the files have the sizes that they had, and the small ones the contents.

    One that cannot be read is an UnreadableError. This comes before `read_arrays`, because the threads that read a
    damaged file print pages of tracebacks.
    """
    found = _files(folder_of(workdir, described.step))
    for name, expected in described.files.items():
        size, content = found.get(name, (None, None))
        if size is None:
            raise DamagedError(f"{one_line(name)} is missing")
        if size != expected[0]:
            raise DamagedError(f"{one_line(name)} has {size} bytes instead of {expected[0]}")
        if content != expected[1]:
            raise DamagedError(f"{one_line(name)} is not what was written")


def read_arrays(workdir: Path, step: int, targets: Mapping[str, Any]) -> dict[str, Any]:
    """Some arrays of a checkpoint; `verify_arrays` them.

    Args:
        targets: what the arrays are like, by path in the state: a ShapeDtypeStruct with a sharding for a jax array, a
            numpy array for a numpy array.

    Raises:
        DamagedError: they cannot be read, or are not like the targets.
        UnreadableError: the system does not let them be read.
    """
    try:
        with reading(folder_of(workdir, step)), _context():
            groups = ocp.load_checkpointables(folder_of(workdir, step), _groups(targets))
    except UnreadableError:
        raise
    except Exception as error:  # whatever the libraries below make of damaged files
        raise DamagedError(f"it cannot be read: {' '.join(str(error).split())[:300] or repr(error)}") from error
    found = {name if group == "rest" else f"{group}/{name}": a for group in groups for name, a in groups[group].items()}
    for name, target in targets.items():
        if not math.prod(target.shape):
            empty = np.zeros(target.shape, target.dtype)
            found[name] = empty if isinstance(target, np.ndarray) else jax.device_put(empty, target.sharding)
    require_same(leaves(targets), leaves(found))
    return found


def verify_arrays(described: Description, found: Mapping[str, Any]) -> None:
    """Raise a DamagedError unless the arrays are those that were saved; all processes call this."""
    require_same({name: described.checksums[name] for name in found}, checksums(found))


def require_same(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if wrong:
        named = one_line(", ".join(wrong[:4])) + ", ..." * (len(wrong) > 4)
        raise DamagedError(f"{len(wrong)} of {len(expected)} arrays are not what was saved: {named}")


def load_weights(run: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """The weights to evaluate, `{parameter path: array}`: the moving average where there is one.

    Args:
        step: None for the newest good checkpoint.

    Raises:
        FileNotFoundError: there is no checkpoint, or none of that step.
        DamagedError: it is damaged, or all are.
        UnreadableError: it cannot be read, or one that is newer than all good ones.
    """
    known = require_steps(run, () if step is None else [step])
    reasons = []
    for candidate in reversed(known) if step is None else [step]:
        try:
            return _load_weights(run, candidate)
        except DamagedError as error:
            reasons.append(f"  {candidate}: {error}")
    raise DamagedError(f"{run} has no good checkpoint to load weights from:\n" + "\n".join(reasons))


def _load_weights(run: Path, step: int) -> dict[str, np.ndarray]:
    described = read_description(run, step)
    groups = {name.split("/")[0] for name in described.leaves}
    prefix = "ema/" if "ema" in groups else "params/"
    found = {name.removeprefix(prefix): array for name, array in load_arrays(run, step, prefix).items()}
    found = {path: array for path, array in found.items() if not path.startswith(BESIDE)}
    scale = described.meta.get("lora_scale")
    return found if scale is None else merged(load_base(run) | found, scale)


def load_arrays(run: Path, step: int, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a checkpoint whose paths in the state begin with `prefix`, by path."""
    described = read_description(run, step)
    require_files(run, described)
    found = read_arrays(run, step, described.blanks(prefix))
    verify_arrays(described, found)
    return found


def flatten(state: Any) -> dict[str, Any]:
    """The leaves of a state by path, e.g. "opt_state/0/trace/stem/conv1/kernel"."""
    pairs = jax.tree_util.tree_flatten_with_path(state)[0]
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}
    if len(flat) != len(pairs):
        raise ValueError("two leaves of the training state have the same path; rename one of them.")
    return flat


def _groups(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What Orbax is given; it refuses empty groups and empty arrays."""
    groups: dict[str, dict[str, Any]] = {}
    for name, leaf in flat.items():
        if not math.prod(leaf.shape):
            continue
        group, _, rest = name.partition("/")
        group, rest = (group, rest) if group in GROUPS else ("rest", name)
        groups.setdefault(group, {})[rest] = leaf
    return groups


def _unsealed(workdir: Path, step: int) -> Path:
    return folder_of(workdir, step).with_suffix(".unsealed")


def _files(folder: Path) -> dict[str, list[Any]]:
    # Large files hold arrays, which have checksums of their own; they are opened, to see whether that can be done.
    found: dict[str, list[Any]] = {}
    with reading(folder):
        for place, _, names in os.walk(folder, onerror=_raise):
            for path in (Path(place, name) for name in names):
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    content = sha256(file.read()) if size <= SMALL else None
                found[str(path.relative_to(folder))] = [size, content]
    return dict(sorted(found.items()))


def _raise(error: OSError) -> None:
    if error.errno not in ABSENT:
        raise error


def _context() -> ocp.Context:
    context = ocp.Context()
    context.array_options.saving.use_compression = False  # of trained weights it saves 8 % space, and takes 40 % time
    # Made in the background, a folder that cannot be made would be waited for by other threads, for minutes.
    context.async_options.create_directories_asynchronously = False
    return context

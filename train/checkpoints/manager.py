"""The checkpoints of a run: written while training goes on, verified before they are trusted.

A damaged checkpoint is put aside for an older one, and the run says so. What never happens: starting over silently,
going on from wrong values, or losing the last good checkpoint to a write that failed.
"""

import contextlib
import errno
import functools
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train import config
from train.checkpoints.checksums import checksums, prepare
from train.checkpoints.description import DamagedError, Description, leaves
from train.checkpoints.files import (
    UnreadableError,
    best_first,
    flatten,
    folder_of,
    read_arrays,
    read_description,
    reading,
    require_files,
    seal,
    steps,
    verify_arrays,
    write_async,
)
from train.machine.processes import from_first_process, together
from train.optim.state import State

FAULTS = (DamagedError, UnreadableError)  # of a checkpoint on disk
PARTIAL = r"\d+\..+"  # names of what is being written or deleted
GOES_ON = "Once the cause is gone, the same command goes on from there."


class Checkpoints:
    """The checkpoints in WORKDIR/checkpoints.

    Use it as a context manager: leaving waits for the last write. Several processes make the same calls, on a file
    system that they share.

    Args:
        sealed: is called, in a thread, when there is a new one.
    """

    def __init__(self, workdir: Path, config: config.Checkpoint, sealed: Callable[[], None] = lambda: None):
        self._sealed = sealed
        self._workdir, self._folder, self._config = workdir, workdir / "checkpoints", config
        self._metrics: dict[int, dict[str, float]] = {}
        self._latest: int | None = None  # step of the last state saved or restored
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        if jax.process_index() == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            with reading(self._folder):
                self._remove_partial()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, exception: BaseException | None, trace: Any) -> None:
        try:
            self.wait()
        except OSError as error:
            if exception is None or isinstance(exception, OSError):  # then this one says which checkpoint is good
                raise
            exception.add_note(str(error))  # what went wrong first is what matters
        finally:
            self._thread.shutdown()

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Around what writes other files of the run: where a disk is full or broken, the last good step is told."""
        try:
            yield
        except OSError as error:
            if error.errno is None or not isinstance(error.strerror, str) or isinstance(error, BrokenPipeError):
                raise  # it has its own message
            self.wait()  # which fails with a message of its own
            raise OSError(f"{error.filename or self._workdir}: {error.strerror}; {self._good()}. {GOES_ON}") from error

    def _good(self) -> str:
        return (
            "there is no checkpoint yet"
            if self.newest is None
            else f"the last checkpoint is that of step {self.newest}"
        )

    def last_good(self) -> str:
        """A sentence: which checkpoint is the last good one, or why the one that was being written is not."""
        try:
            self.wait()
        except OSError as error:
            return str(error)
        newest = self.newest
        return "There is no checkpoint yet." if newest is None else f"The last good checkpoint is step {newest}."

    @property
    def newest(self) -> int | None:
        """The step of the newest complete checkpoint; None if there is none."""
        return max(steps(self._workdir), default=None)

    def save(self, state: State, meta: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """Start writing the state; the next training step may donate it at once.

        Waits for the write before. The state that was saved or restored last is not written again.

        Args:
            meta: anything that JSON can hold.
            metrics: of an evaluation of this state; without, it is not kept as one of the best.

        Raises:
            OSError: this write, or the one before, failed: no space, no permission, ...
        """
        self.wait()
        if metrics is not None and self._config.metric not in metrics:
            raise ValueError(f"checkpoint.metric={self._config.metric!r} is not one of {', '.join(metrics)}.")
        with jax.transfer_guard("allow"):
            step = int(state.step)
            if step == self._latest:
                return
            flat = flatten(state)
            if jax.process_count() == 1:
                self._require_space(step, flat)
            described = Description(step, meta, metrics or {}, leaves(flat), checksums(flat))
            start: Callable[[], Any]
            if jax.process_count() == 1:
                # Orbax would fetch the arrays one by one while the loop waits: they are copied here, in one go, and all
                # the rest is left to the thread. Several processes must call Orbax between the same two steps.
                copies = {name: np.array(array) for name, array in flat.items()}
                start = functools.partial(write_async, self._workdir, step, copies)
            else:
                start = self._start(step, flat)
        self._latest, self._metrics[step] = step, described.metrics
        self._writing = self._thread.submit(self._finish, start, described)

    def restore(self, like: State, report: Callable[[str], None]) -> tuple[State, dict[str, Any]] | None:
        """The newest good state and its meta; None if there is no checkpoint at all.

        Damaged checkpoints that are newer are moved to WORKDIR/checkpoints_damaged, once a good one is found; `report`
        is told of each.

        Raises:
            ValueError: a checkpoint is intact, but of another model or optimiser; names the differences.
            DamagedError: there are checkpoints, but no good one.
            UnreadableError: one that may be good cannot be read; nothing is moved.
        """
        self.wait()
        damaged: dict[int, str] = {}
        for step in from_first_process(steps(self._workdir)[::-1]):
            with jax.transfer_guard("allow"):
                try:
                    found = self._restore(step, like)
                except DamagedError as error:
                    damaged[step] = str(error)
                    continue
            for bad, why in damaged.items():
                place = self._put_aside(bad)
                report(f"the checkpoint of step {bad} is damaged: {why}. It is now {place}; going on from step {step}.")
            self._latest = step
            return found
        if damaged:
            reasons = "\n".join(f"  {step}: {reason}" for step, reason in damaged.items())
            raise DamagedError(
                f"{self._folder} holds no good checkpoint:\n{reasons}\nNothing was changed. If the files cannot be "
                "brought back, remove that folder to start the run from its beginning, or choose another --workdir."
            )
        # While the first steps are computed, so that the first checkpoint need not wait for it.
        self._writing = self._thread.submit(prepare, flatten(like))
        return None

    def _restore(self, step: int, like: State) -> tuple[State, dict[str, Any]]:
        """The checkpoint of a step; what it raises, it raises on all processes."""
        targets = flatten(like)
        described = together(lambda: read_description(self._workdir, step), FAULTS)
        require_same_run(described.leaves, leaves(targets), folder_of(self._workdir, step))
        together(lambda: require_files(self._workdir, described), FAULTS)
        structs = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for name, a in targets.items()}
        found = together(lambda: read_arrays(self._workdir, step, structs), FAULTS)
        verify_arrays(described, found)
        state: State = jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in targets])
        return state, described.meta

    def _put_aside(self, step: int) -> Path:
        folder = self._workdir / "checkpoints_damaged"
        names = itertools.chain([str(step)], (f"{step}.{attempt}" for attempt in itertools.count(1)))
        place = next(folder / name for name in names if not (folder / name).exists())
        from_first_process([])  # all have looked for a free name before one takes it
        if jax.process_index() == 0:
            folder.mkdir(exist_ok=True)
            (self._folder / str(step)).rename(place)
        from_first_process([])
        return place

    def wait(self) -> None:
        """Until the write that is going on, if any, has ended; raises if it failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _start(self, step: int, flat: Mapping[str, jax.Array]) -> Callable[[], Any]:
        """Start a write now; the result gives what there is to wait for."""
        try:
            response = write_async(self._workdir, step, flat)
        except Exception as error:
            raise self._failed(step, error) from error
        return lambda: response

    def _finish(self, start: Callable[[], Any], described: Description) -> None:
        """In the thread: the end of a write, then the removal of what it supersedes."""
        try:
            start().result()
            if jax.process_index() == 0:
                seal(self._workdir, described)
        except Exception as error:
            raise self._failed(described.step, error) from error
        if jax.process_index() == 0:
            for old in self._superseded():
                # Renamed first: deleting is not atomic, and what is half deleted must not look like a checkpoint.
                (self._folder / str(old)).rename(self._folder / f"{old}.deleted")
            self._remove_partial()
            self._sealed()

    def _superseded(self) -> list[int]:
        """Steps that are neither among the newest nor among the best."""
        there, unknown = steps(self._workdir), set()
        for step in there:
            if step not in self._metrics:  # written before this start
                try:
                    self._metrics[step] = read_description(self._workdir, step).metrics
                except DamagedError:
                    self._metrics[step] = {}
                except UnreadableError:
                    unknown.add(step)  # it may be the best, and stays
        known = {step: self._metrics[step] for step in there if step not in unknown}
        kept = unknown.union(best_first(known, self._config.metric)[: self._config.keep_best])
        return [step for step in there[: -self._config.keep_last] if step not in kept]

    def _require_space(self, step: int, flat: Mapping[str, jax.Array]) -> None:
        """Orbax notices a full disk late, and leaves what it has written of the checkpoint."""
        if sum(array.nbytes for array in flat.values()) > shutil.disk_usage(self._folder).free:
            raise self._failed(step, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _remove_partial(self) -> None:
        """What a killed process was writing, STEP.unsealed..., or deleting, STEP.deleted."""
        for entry in self._folder.iterdir():
            if re.fullmatch(PARTIAL, entry.name):
                shutil.rmtree(entry, ignore_errors=True)

    def _failed(self, step: int, error: Exception) -> OSError:
        cause = " ".join(str(error).split())[:500]
        free = shutil.disk_usage(self._workdir).free / 2**20
        if jax.process_index() == 0 and self._folder.is_dir():
            for _ in range(20):  # Orbax's other threads may still be at it
                self._remove_partial()
                time.sleep(0.05)
                if not any(re.fullmatch(PARTIAL, entry.name) for entry in self._folder.iterdir()):
                    break
        good = "there is no older one" if self.newest is None else f"the last one is that of step {self.newest}"
        return OSError(
            f"the checkpoint of step {step} could not be written to {self._folder} ({free:.0f} MiB free); {good}. "
            f"{GOES_ON} The cause: {cause}"
        )


def require_same_run(there: Mapping[str, str], here: Mapping[str, str], path: Path) -> None:
    """Raise a ValueError where the leaves of two states differ, in name, shape or dtype."""
    differences = [
        f"  {name}: {there.get(name, 'nothing')} there, {here.get(name, 'nothing')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if differences:
        more = [f"  and {len(differences) - 20} more"] if len(differences) > 20 else []
        raise ValueError(
            "\n".join([f"{path} is intact, but of another model or optimiser:", *differences[:20], *more])
            + "\nGive the config that it was made with, or choose another --workdir."
        )

"""The processes of a run: how they find each other, and what they agree on; without effect when there is but one."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import jax
import numpy as np

from nfjax.support.clusters import is_cluster
from port import interrupts
from train.machine.timeouts import HEARTBEAT_TIMEOUT, INIT_TIMEOUT

T = TypeVar("T")
_LENGTH = 1024  # of exchanged texts in bytes


def initialize(
    distributed: str = "auto",
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    init_timeout: int = INIT_TIMEOUT,
    heartbeat_timeout: int = HEARTBEAT_TIMEOUT,
) -> None:
    """Join the other processes, before anything else touches a device.

    Args:
        distributed: "on" to ask JAX to find out where the others are (SLURM, TPU, GKE, Open MPI), "off" to stay alone,
            "auto" for "on" where the environment says that there are others.
        coordinator: address and port of the first process, where JAX cannot find it out.
        process_id: which of them this is, from 0.
        init_timeout: seconds until all must be there; else the process ends with a sentence and status 1.
        heartbeat_timeout: seconds without a sign of life until one is taken for dead, which ends the others.

    Raises:
        ValueError: if only some of the last three are given.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) != all(given):
        raise ValueError("--coordinator, --num_processes and --process_id go together: give all three or none.")
    if distributed == "off" or not (all(given) or distributed == "on" or is_cluster(os.environ)):
        return
    with _in_time(init_timeout, coordinator, num_processes, process_id):
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=init_timeout + 60,  # it would end the process with a stack trace
            heartbeat_timeout_seconds=heartbeat_timeout,
        )


@contextlib.contextmanager
def _in_time(seconds: int, coordinator: str | None, count: int | None, own: int | None) -> Iterator[None]:
    """End the process, with a sentence, if what is done in this block is not done in time: C++ waits there."""
    done = threading.Event()

    def watch() -> None:
        if done.wait(seconds):
            return
        missing = "some are missing"
        if own is not None and coordinator is not None:
            there = own == 0 or _listens(coordinator)
            missing = f"process 0 {'is there, others are not' if there else f'does not answer at {coordinator}'}"
            missing += f"; this is process {own} of {count}"
        interrupts.end(f"error: not all processes were there within {seconds} s (--init-timeout): {missing}.", status=1)

    threading.Thread(target=watch, daemon=True, name="initialization").start()
    try:
        yield
    finally:
        done.set()


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 3.0).close()
    except OSError:
        return False
    return True


def from_first_process(values: list[int]) -> list[int]:
    """The list of process 0, on all of them; they wait for each other."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(values))))
    padded = np.resize(np.array([*values, 0], np.int32), count)
    return [int(value) for value in multihost_utils.broadcast_one_to_all(padded)] if count else []


def from_any_process(text: str) -> str:
    """The first text that is not empty, on all processes; they wait for each other."""
    if jax.process_count() == 1:
        return text
    from jax.experimental import multihost_utils

    padded = np.frombuffer(text.encode()[:_LENGTH].ljust(_LENGTH), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return next(filter(None, (bytes(row).decode(errors="replace").strip() for row in rows)), "")


def together(
    act: Callable[[], T],
    failures: tuple[type[Exception], ...],
    elsewhere: Callable[[str], Exception] | None = None,
) -> T:
    """Do the same on all processes; if one fails, all raise, and none waits for it.

    Args:
        act: what to do.
        failures: what it may raise.
        elsewhere: makes what the others raise, from the text of the failure; by default that of `failures` which it is.
    """
    failure: Exception | None = None
    result = None
    try:
        result = act()
    except failures as error:
        failure = error
    kind = next((number for number, known in enumerate(failures) if isinstance(failure, known)), 0)
    told = from_any_process("" if failure is None else f"{kind} {str(failure) or type(failure).__name__}")
    if failure is not None:
        raise failure
    if told:
        number, _, reason = told.partition(" ")
        raise (elsewhere or failures[int(number)])(reason)
    return cast(T, result)


def by_first_process(act: Callable[[], None]) -> None:
    """Process 0 does it, and the others wait; if it fails, all raise: the others a ValueError with the same text."""
    together(act if jax.process_index() == 0 else lambda: None, (ValueError, OSError), ValueError)

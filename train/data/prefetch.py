"""Batches made ahead by threads or worker processes: failures and stalls are errors, and nothing outlives the run."""

import atexit
import gc
import itertools
import multiprocessing
import os
import queue
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import grain
import numpy as np
from absl import flags

Batch = dict[str, np.ndarray]
THREADS = 16  # more of them wait for Python's lock more than for data
STUCK_SECONDS = 5.0  # that the end of the process waits for reads that may never end


class Batches(Iterator[Batch]):
    """The batches of a Grain data set, the next of which are being made while one is used.

    Iterating raises TimeoutError if nothing comes for too long, ChildProcessError if a worker process died, and
    whatever reading or transforming an image raised; after an error the same error again: it never ends early. Worker
    processes end with `close`, when the object is no longer used, and when this process ends, however it does.

    Args:
        dataset: of batches, each with its number in the sequence as `step`, which is taken out.
        steps: the numbers that must come.
        workers: processes that make batches; 0 for threads of this process.
        check: sees every batch before it is given out, and may change it or raise.
    """

    def __init__(
        self,
        dataset: grain.MapDataset,
        steps: range,
        *,
        workers: int = 0,
        stall_seconds: float = 600.0,
        check: Callable[[Batch], Batch] = lambda batch: batch,
    ):
        self._steps, self._check = iter(steps), check
        self._workers, self._stall_seconds = workers, stall_seconds
        self._error: Exception | None = None
        self._queue: queue.Queue[Any] = queue.Queue(1)
        self._stop = threading.Event()
        # The thread must not know this object, or the object would never be given up.
        arguments = (_prefetched(dataset, workers), self._queue, self._stop, workers > 0)
        self._thread = threading.Thread(target=_fill, args=arguments, name="batches", daemon=True)
        _running[self._thread] = self._stop
        self._thread.start()
        weakref.finalize(self, self._stop.set)

    def close(self) -> None:
        """End the worker processes, and wait until they and their memory are gone."""
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        if self._error is None:
            step = next(self._steps, None)
            if step is None:
                self._stop.set()
                raise StopIteration
            try:
                return self._check(self._get(step))
            except Exception as error:
                self._error = error
        raise self._error

    def _get(self, step: int) -> Batch:
        try:
            found = self._queue.get(timeout=self._stall_seconds)
        except queue.Empty:
            who = f"{self._workers} worker processes" if self._workers else "the threads that make them"
            raise TimeoutError(
                f"no batch of images came for {self._stall_seconds:g} seconds. Either {who} wait for the disk or the "
                "network, or a batch takes longer: set data.stall_seconds."
            ) from None
        if isinstance(found, StopIteration):
            raise ChildProcessError(f"the images ended before step {step}; a worker process must have died.")
        if isinstance(found, RuntimeError) and "Worker process was terminated" in str(found):
            raise ChildProcessError(
                f"a worker process that reads images died: {found} If its exit code is -9, memory was short: use "
                "fewer data.workers."
            ) from found
        if isinstance(found, BaseException):
            raise found
        came = set(np.unique(found.pop("step")).tolist())
        if came != {step}:
            raise ChildProcessError(f"batch {step} is missing, {came} came instead; a worker process must have died.")
        return found


class _Threads(Iterable[Any]):
    """The elements of a data set, in order, made ahead by threads.

    The end of the process does not wait for them, as it does for those of an executor and so for Grain's own: a read
    from a disk that has gone never ends.
    """

    def __init__(self, dataset: grain.MapDataset):
        self._dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        count = min(THREADS, os.cpu_count() or 1)
        tasks: Tasks = queue.SimpleQueue()
        threads = start_threads(self._dataset.__getitem__, tasks, count)
        indices, ahead = iter(range(len(self._dataset))), deque[Future[Any]]()
        try:
            while True:
                for index in itertools.islice(indices, count + 1 - len(ahead)):
                    ahead.append(Future())
                    tasks.put((index, ahead[-1]))
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
            for _ in threads:
                tasks.put(None)
            for thread in threads:  # Python's end in the middle of a decoder would be a crash
                thread.join()


Tasks = queue.SimpleQueue[tuple[int, Future[Any]] | None]


def start_threads(function: Callable[[int], Any], tasks: Tasks, count: int) -> list[threading.Thread]:
    """Threads that call a function of a number, until they find None; the end of the process does not wait for them."""
    threads = [threading.Thread(target=_work, args=(function, tasks), name="images", daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def _work(function: Callable[[int], Any], tasks: Tasks) -> None:
    while (task := tasks.get()) is not None:
        index, future = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(index))
            except BaseException as error:
                future.set_exception(error)
        del task, future  # the last element is not kept until there is another


def _prefetched(dataset: grain.MapDataset, workers: int) -> Iterable[Any]:
    """The data set with its elements made ahead."""
    if not workers:
        return _Threads(dataset)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain hands its flags on to the workers, and absl lets nobody read them before
    one = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    return dataset.to_iter_dataset(one).mp_prefetch(options, worker_init_fn=_init_worker)


def _init_worker(index: int, count: int) -> None:
    """In a worker process: end with the parent, and only then or when it says so."""
    # Sent to all processes of a job, where the trainer still saves.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


_running: dict[threading.Thread, threading.Event] = {}


def _fill(dataset: Iterable[Any], batches: queue.Queue[Any], stop: threading.Event, shared: bool) -> None:
    """In a thread: move batches, or what went wrong, from a data set to a queue, and clear up."""
    iterator: Any = None
    found: Any = None
    while not (stop.is_set() or isinstance(found, BaseException)):
        try:
            iterator = iterator or iter(dataset)
            found = next(iterator)
            if shared:  # copies, because arrays in shared memory are better not left to whoever gets them
                found = {name: np.array(array) for name, array in found.items()}
        except BaseException as error:
            found = error
        while not stop.is_set():
            try:
                batches.put(found, timeout=0.1)
                break
            except queue.Full:
                pass
    stop.wait()
    if iterator is not None:
        iterator.close()
    del iterator
    gc.collect()  # Grain's objects know each other, and one of them its last batch
    del _running[threading.current_thread()]


@atexit.register
def _end() -> None:
    """Before Python ends: workers that still wait for the disk are not waited for."""
    end = time.monotonic() + STUCK_SECONDS
    for stop in list(_running.values()):
        stop.set()
    for thread in list(_running):
        thread.join(timeout=max(end - time.monotonic(), 0.0))
        if thread.is_alive():
            for process in multiprocessing.active_children():
                process.kill()

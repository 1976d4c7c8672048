"""What happens to worker processes when something dies, hangs or ends: an error, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from tests.helpers import data_run
from tests.helpers.data_run import blocks
from tests.helpers.photos import make_folder
from train.data.prefetch import Batches


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), train=6, val=2, size=48, classes=3)


def until(condition, seconds=30.0):
    """Whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def gone(processes):
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


def run(root, *arguments):
    command = [sys.executable, data_run.__file__, str(root), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture
def trainer(root):
    """A process that trains with two workers, those workers, and the start of the names of its shared memory."""
    process = run(root, "2")
    prefix = process.stdout.readline().strip()
    assert process.stdout.readline() == "reading\n", process.stderr.read()
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    assert blocks(prefix)  # or there would be nothing to leave behind
    yield process, children, workers, prefix
    for left in (*filter(psutil.Process.is_running, children), process):
        left.kill()
    process.communicate()


def test_nothing_outlives_a_killed_trainer(trainer):
    """Nor do the workers go before: Ctrl-C and a cluster's SIGTERM reach them too, and the trainer decides."""
    process, children, workers, prefix = trainer
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
        worker.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert all(worker.is_running() for worker in workers)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert until(lambda: gone(children))
    assert until(lambda: not blocks(prefix))


def test_a_killed_worker_is_an_error(trainer):
    process, children, workers, prefix = trainer
    workers[0].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ChildProcessError: a worker process that reads images died" in errors
    assert "exit code -9" in errors
    assert until(lambda: gone(children))
    assert until(lambda: not blocks(prefix))


def test_close_ends_workers_and_frees_their_memory(root):
    process = run(root, "1", "close")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    result = json.loads(output.splitlines()[-1])
    assert result.pop("before") > 0
    assert result == {"after": 0, "children": [], "kept": True}


class Slow:
    """Elements, one of which takes long."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, index):
        if index == 3:
            time.sleep(self.seconds)
        return {"image": np.zeros(4), "step": np.int64(index)}


def sequence(function, count=6):
    import grain

    return grain.MapDataset.range(count).map(function)


def test_a_stall_is_an_error_and_stays_one():
    batches = Batches(sequence(Slow(3)), range(6), stall_seconds=1)
    assert [next(batches)["image"].shape for _ in range(3)] == [(4,)] * 3
    for _ in range(2):
        with pytest.raises(TimeoutError, match=r"no batch of images came for 1 seconds.*data\.stall_seconds"):
            next(batches)


ABANDONED = """
import sys, threading
from nfjax.models.data_config import DataConfig
from train.config import Data
from train.data import load_dataset, train_batches
data = Data(name="folder", root=sys.argv[1], batch_size=8, image_size=64, workers=0)
batches = train_batches(load_dataset(data, DataConfig()).train, data, seed=0)
next(batches)
import atexit
from train.data import prefetch
atexit.unregister(prefetch._end)
def end():
    prefetch._end()
    print([thread.name for thread in threading.enumerate() if thread.name in ("batches", "images")])
atexit.register(end)
"""


def test_threads_end_before_python_does(root):
    """One in the middle of a decoder would end the process by a crash."""
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ABANDONED, str(root)]
    result = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")


STALLED = """
import sys, threading
from pathlib import Path
from nfjax.models.data_config import DataConfig
from port.messages import exit_status
from train.config import Data
from train.data import load_dataset, pipeline, train_batches
from train.report.workdir import locked

pipeline.decode = lambda *_: threading.Event().wait()  # as a disk that does not answer

def train():
    data = Data(name="folder", root=sys.argv[1], batch_size=8, image_size=64, workers=0, stall_seconds=1)
    with locked(Path(sys.argv[2])):
        next(train_batches(load_dataset(data, DataConfig()).train, data, seed=0))
    return 0

sys.exit(exit_status(train))
"""


def test_a_process_whose_reads_never_end_ends(root, tmp_path):
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", STALLED, str(root), str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables)
    try:
        assert process.stderr.readline().startswith("error: no batch of images came for 1 seconds.")
        _, rest = process.communicate(timeout=10)
    finally:
        process.kill()
    assert (process.returncode, rest) == (2, "")
    assert not (tmp_path / ".lock").exists()


def failing(index):
    if index == 3:
        raise KeyError("the transform is wrong")
    return {"image": np.zeros(4), "step": np.int64(index)}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_is_raised_and_stays(workers):
    batches = Batches(sequence(failing), range(6), workers=workers)
    for _ in range(3):
        next(batches)
    for _ in range(2):
        with pytest.raises(KeyError, match="the transform is wrong"):
            next(batches)
    batches.close()


def test_an_early_end_is_an_error():
    batches = Batches(sequence(Slow(0), count=4), range(6))
    for _ in range(4):
        next(batches)
    for _ in range(2):
        with pytest.raises(ChildProcessError, match="the images ended before step 4"):
            next(batches)


def test_a_missing_batch_is_an_error():
    batches = Batches(sequence(Slow(0))[::2], range(6))
    assert next(batches)["image"].shape == (4,)
    with pytest.raises(ChildProcessError, match=r"batch 1 is missing, \{2\} came instead"):
        next(batches)


def test_the_right_number_of_batches_ends_as_iterators_do():
    assert len(list(Batches(sequence(Slow(0)), range(6)))) == 6


def test_an_abandoned_stream_ends():
    from train.data import prefetch as stream

    batches = Batches(sequence(Slow(0)), range(6))
    next(batches)
    thread = batches._thread
    del batches
    assert until(lambda: not thread.is_alive(), 10)
    assert thread not in stream._running


def test_worker_processes_are_other_processes():
    """Batches come from other processes, or the tests above would show nothing."""
    batches = Batches(sequence(process_id), range(6), workers=1)
    assert {int(batch["image"][0]) for batch in batches} & {os.getpid()} == set()
    batches.close()


def process_id(index):
    return {"image": np.array([os.getpid()]), "step": np.int64(index)}

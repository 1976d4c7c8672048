"""A run of two processes, which are killed again and again: the same bits. `pytest -m slow`."""

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.checkpoints.files import load_arrays, steps

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("NFJAX_KILLS", "10"))
CONFIG = """
from train import config as c

def get_config():
    return c.Config(
        epochs={epochs}, model=c.Model("test_vit2", drop_rate=0.2),
        data=c.Data(batch_size=120, image_size=16, shift=1), augment=c.Augment(no_aug=True), optim=c.Optim(lr=0.05),
        ema=c.Ema(decay=0.9), checkpoint=c.Checkpoint(every_epochs=0.25), log=c.Log(every_steps=1, tensorboard=False),
    )
"""


@pytest.fixture
def start(tmp_path):
    """Starts both processes of a run."""
    running = []

    def start(workdir, epochs, *options):
        config = tmp_path / f"config{epochs}.py"
        config.write_text(CONFIG.format(epochs=epochs))
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "NFJAX_CACHE": str(tmp_path / "cache")}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        line = [sys.executable, "-m", "nfjax", "train", f"--config={config}", f"--workdir={workdir}"]
        line += [f"--coordinator={address}", "--num_processes=2", *options]
        with (tmp_path / f"{workdir.name}.txt").open("a") as log:
            both = [
                subprocess.Popen([*line, f"--process_id={i}"], env=environment, stdout=log, stderr=log) for i in (0, 1)
            ]
        running.extend(both)
        return both

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()


def until(ready, seconds=900):
    began = time.monotonic()
    while not ready():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


def have_ended(processes):
    return all(process.poll() is not None for process in processes)


def newest(workdir):
    return max(steps(workdir), default=0)


def test_the_same_bits(start, tmp_path):
    """One of the two is killed, at any moment; the other ends by itself, and both are started again."""
    whole, often = tmp_path / "whole", tmp_path / "often"
    first = start(whole, 4)
    until(lambda: have_ended(first))
    assert [process.returncode for process in first] == [0, 0], (tmp_path / "whole.txt").read_text()
    chance, took, soon = random.Random(0), [], ("--heartbeat-timeout=10", "--init-timeout=60")
    for kill in range(KILLS):
        both, reached = start(often, 4, *soon), newest(often)
        if kill % 4 != 3:  # else it is killed while it begins
            until(lambda both=both, reached=reached: newest(often) > reached or have_ended(both))
        time.sleep(chance.uniform(0, 1))
        assert not have_ended(both), (tmp_path / "often.txt").read_text()
        both[chance.randrange(2)].kill()
        took.append(until(lambda both=both: have_ended(both)))
        print(
            f"kill {kill + 1}: checkpoints {sorted(steps(often))}, the other ended after {took[-1]:.1f} s", flush=True
        )
    last = start(often, 4, *soon)
    until(lambda: have_ended(last))
    assert [process.returncode for process in last] == [0, 0], (tmp_path / "often.txt").read_text()
    assert (often / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert newest(often) == newest(whole)
    one, other = (load_arrays(folder, newest(folder)) for folder in (whole, often))
    assert {name: a.tobytes() for name, a in one.items()} == {name: a.tobytes() for name, a in other.items()}


@pytest.mark.parametrize("victim", [0, 1])
def test_the_other_ends_within_a_minute(start, tmp_path, victim):
    """By what is the default; with process 0 the coordinator dies."""
    both = start(tmp_path / "run", 400)
    until(lambda: newest(tmp_path / "run"))
    both[victim].kill()
    took = until(lambda: have_ended(both))
    print(f"without process {victim} the other ended after {took:.1f} s")
    assert took < 60

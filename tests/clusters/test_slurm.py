"""examples/slurm on a real SLURM: signals ahead of the limit, a lost process, scancel; the same bits. `pytest -m slow`.

It is Debian's slurm-wlm with munge, started by this test, of two nodes that are both this machine.
"""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.clusters.slurm import Slurm, missing
from train.checkpoints.files import load_arrays, steps

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=f"lacks {', '.join(missing())}")]
ROOT = Path(__file__).parents[2]
CONFIG = """
from train import config as c

def get_config():
    return c.Config(
        epochs={epochs}, model=c.Model("test_vit2", drop_rate=0.2),
        data=c.Data(batch_size=120, image_size=16, shift=1), augment=c.Augment(no_aug=True), optim=c.Optim(lr=0.05),
        checkpoint=c.Checkpoint(every_epochs=0.25), log=c.Log(every_steps=1, tensorboard=False),
    )
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    folder = cluster.folder / "bin"
    folder.mkdir()
    (folder / "nfjax").write_text(f'#!/bin/bash\nexec {sys.executable} -m nfjax "$@"\n')
    (folder / "nfjax").chmod(0o755)
    cluster.environment |= {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    yield cluster
    cluster.stop()


@pytest.fixture
def job(slurm, tmp_path):
    """The script as it is, but that there are no GPUs here, and few cores."""
    script = (ROOT / "examples" / "slurm" / "train.sbatch").read_text()
    lines = [line for line in script.splitlines() if "--gpus" not in line or not line.startswith("#SBATCH")]
    text = "\n".join(lines).replace("--cpus-per-task=32", "--cpus-per-task=1")
    (tmp_path / "train.sbatch").write_text(text + "\n")
    (tmp_path / "config.py").write_text(CONFIG.format(epochs=4))

    def start(workdir):
        command = [f"--chdir={tmp_path}", tmp_path / "train.sbatch", f"--config={tmp_path / 'config.py'}"]
        said = slurm.run("sbatch", "--parsable", *map(str, command), f"--workdir={workdir}")
        return int(said)

    return start


def until(ready, seconds=900):
    began = time.monotonic()
    while not ready():
        assert time.monotonic() - began < seconds
        time.sleep(0.1)
    return time.monotonic() - began


def trained_by(workdir):
    """The processes that train there, by number."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"--workdir={workdir}".encode() in words and b"python" in words[0] and b"train" in words:
                found.append(int(entry.name))
    return found


def test_the_same_bits(slurm, job, tmp_path):
    """Signalled ahead of its limit, robbed of a process, cancelled and begun again: the bits of a run left alone."""
    whole, often = tmp_path / "whole", tmp_path / "often"
    first = job(whole)
    until(lambda: slurm.state(first) not in ("PENDING", "RUNNING"))
    log = (tmp_path / f"nfjax-{first}.log").read_text()
    assert slurm.state(first) == "COMPLETED", log
    assert log.count("ok       cluster      SLURM: process") == 2  # of `srun nfjax doctor`

    second = job(often)

    def moves_on(after):
        until(lambda: max(steps(often), default=0) > after)

    moves_on(0)
    reached = max(steps(often))
    slurm.run("scancel", "--batch", "--signal=USR1", str(second))  # as --signal does, before the time is over
    took = [until(lambda: not trained_by(often))]
    assert max(steps(often)) >= reached
    moves_on(max(steps(often)))  # it was queued again
    victim = max(trained_by(often))
    reached = max(steps(often))
    os.kill(victim, signal.SIGKILL)
    took += [until(lambda: not trained_by(often))]
    moves_on(reached)
    slurm.run("scancel", str(second))
    took += [until(lambda: not trained_by(often))]
    until(lambda: slurm.state(second) not in ("RUNNING", "COMPLETING"))
    third = job(often)
    until(lambda: slurm.state(third) not in ("PENDING", "RUNNING"))
    log = (tmp_path / f"nfjax-{second}.log").read_text() + (tmp_path / f"nfjax-{third}.log").read_text()
    print(log, "ended after", took)
    assert slurm.state(third) == "COMPLETED", log
    assert (often / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert max(steps(often)) == max(steps(whole))
    one, other = (load_arrays(folder, max(steps(folder))) for folder in (whole, often))
    assert {name: a.tobytes() for name, a in one.items()} == {name: a.tobytes() for name, a in other.items()}


def test_the_others_end_when_a_process_dies(slurm, tmp_path):
    """Without --kill-on-bad-exit, after the silence that is the default."""
    (tmp_path / "config.py").write_text(CONFIG.format(epochs=400))
    workdir = tmp_path / "run"
    command = ["srun", "-N2", "-n2", "--kill-on-bad-exit=0", "nfjax", "train", f"--config={tmp_path / 'config.py'}"]
    slurm.start(*command, f"--workdir={workdir}")
    until(lambda: steps(workdir))
    os.kill(max(trained_by(workdir)), signal.SIGKILL)
    took = until(lambda: not trained_by(workdir))
    print("the other process ended after", took)
    assert took < 62  # and the first checks of a machine that has other work

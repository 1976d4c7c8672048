"""The scripts of examples/slurm, with srun, scancel and scontrol that write down what they are asked for."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "examples" / "slurm"
STUBS = {
    "srun": 'echo srun "$@" >> log\n[ "$1" = nfjax ] && exit 0\n[ -n "$STATUS" ] && exit "$STATUS"\n'
    'trap "exit 0" TERM\necho $$ > pid\nwhile :; do sleep 0.05; done\n',
    "scancel": 'echo scancel "$@" >> log\nkill -TERM "$(cat pid)"\n',
    "scontrol": 'echo scontrol "$@" >> log\n',
    "nfjax": 'echo nfjax "$@" >> log\necho $$ > pid\nexec sleep 60\n',
}


@pytest.fixture
def start(tmp_path):
    """Starts a script in a folder of stubs."""
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / name).chmod(0o755)

    def run(script, *arguments, **variables):
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"} | variables
        return subprocess.Popen(["bash", str(SCRIPTS / script), *arguments], cwd=tmp_path, env=environment)

    return run


def until_it_works(folder):
    for _ in range(200):
        if (folder / "pid").exists() and (folder / "pid").read_text().strip():
            return
        time.sleep(0.05)
    raise AssertionError("it has not begun")


TRAIN = "srun --kill-on-bad-exit=1 nfjax train --config=digits"


def test_a_run_is_saved_and_queued_again_before_its_time_is_over(start, tmp_path):
    process = start("train.sbatch", "--config=digits")
    until_it_works(tmp_path)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=30) == 0
    log = (tmp_path / "log").read_text().splitlines()
    assert log == ["srun nfjax doctor", TRAIN, "scancel --signal=TERM 7", "scontrol requeue 7"]


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"), [("134", "1", True), ("134", "20", False), ("2", "1", False), ("0", "1", False)]
)
def test_how_a_run_ends(status, restarts, requeued, start, tmp_path):
    process = start("train.sbatch", "--config=digits", STATUS=status, SLURM_RESTART_COUNT=restarts)
    assert process.wait(timeout=30) == int(status)
    assert (tmp_path / "log").read_text().splitlines() == [TRAIN, *(["scontrol requeue 7"] if requeued else [])]


def test_embedding_is_queued_again_before_its_time_is_over(start, tmp_path):
    process = start("embed.sbatch", "photos", "-o", "out")
    until_it_works(tmp_path)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=30) == 0
    log = (tmp_path / "log").read_text().splitlines()
    assert log == ["nfjax embed --batch-size 256 photos -o out", "scontrol requeue 7"]

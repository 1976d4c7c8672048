"""A run of two processes that branches: the bits of the run that it left, and one sentence where it cannot."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from train.checkpoints.files import load_arrays, steps

ROOT = Path(__file__).parents[3]
CONFIG = """
from train.config import Augment, Config, Data, Ema, Log, Mesh, Model, Optim, Schedule


def get_config() -> Config:
    return Config(
        epochs=2,
        model=Model("test_vit2", drop_rate=0.2, drop_path_rate=0.2),
        data=Data(batch_size=360, image_size=16, shift=1),
        augment=Augment(no_aug=True),
        optim=Optim("adamw", lr=0.01, clip_mode="agc", clip_grad=0.02, lookahead=0.5),
        schedule=Schedule("constant"),
        ema=Ema(decay=0.9),
        mesh=Mesh(fsdp=2),
        log=Log(every_steps=1, tensorboard=False),
    )
"""

CODE = """
import sys
from tests.helpers.shallow import shallow
from train.main import main
with shallow({"test_vit2": {"depth": 1}}):
    sys.exit(main(sys.argv[1:]))
"""


def train(folder, name, *own):
    """Status and output of each of two processes; `own` are the options of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    (folder / "config.py").write_text(CONFIG)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
    }
    command = [sys.executable, "-c", CODE, f"--config={folder / 'config.py'}", f"--workdir={folder / name}"]
    command += [f"--coordinator={address}", "--num_processes=2"]
    processes = [
        subprocess.Popen(
            [*command, f"--process_id={number}", *options],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, options in enumerate(own or ([], []))
    ]
    try:
        outputs = [process.communicate(timeout=800)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


@pytest.mark.slow
def test_two_processes_branch(tmp_path):
    found = train(tmp_path, "whole")
    assert [status for status, _ in found] == [0, 0], found
    assert steps(tmp_path / "whole") == [4, 8]
    branch = [f"--config.model.resume_run={tmp_path / 'whole' / 'checkpoints' / '4'}"]
    found = train(tmp_path, "branch", branch, branch)
    assert [status for status, _ in found] == [0, 0], found
    assert "branches from" in found[0][1]
    first, second = (load_arrays(tmp_path / name, 8) for name in ("whole", "branch"))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name].tobytes() != second[name].tobytes()] == []

    missing = [f"--config.model.resume_run={tmp_path / 'elsewhere'}"]
    for own in ((branch, missing), (missing, branch)):  # where not all of them see the folder
        for status, output in train(tmp_path, "none", *own):
            assert status == 2, output
            assert "Traceback" not in output
            assert "elsewhere holds no checkpoints" in output

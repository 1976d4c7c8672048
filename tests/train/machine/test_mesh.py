"""The same run on one device, on meshes of eight, and on two processes; and what devices tell each other meanwhile."""

import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nfjax.fast.backend import traced_for
from tests.helpers import mesh_run
from train import config as c
from train.cli.options import Options
from train.experiment import build
from train.machine.mesh import make_mesh
from train.machine.processes import initialize, is_cluster
from train.step import compile_train_step

WORKER = Path(mesh_run.__file__)
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def start(out, *options, **kwargs):
    command = [sys.executable, str(WORKER), str(out), *map(str, options)]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, **kwargs)


def result(out, *processes):
    for process in processes:
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
    with np.load(out) as file:
        return dict(file)


# The small transformer compiles in a fifth of the time of the small convolutional network.
MODELS = ["test_vit2", pytest.param("test_nfnet", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return request.param


@pytest.fixture(scope="module")
def one(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("mesh") / "one.npz"
    return result(out, start(out, f"--model={model}"))


def check(run, one, *, devices, processes, fsdp):
    assert (run["devices"], run["processes"]) == (devices, processes)
    assert len(run["losses"]) == 20
    losses = np.abs(run["losses"] / one["losses"] - 1).max()
    apart = {key: np.abs(run[key] - one[key]).max() / np.abs(one[key]).max() for key in one if "/" in key}
    print(f"losses within {losses:.1e}, parameters and moving average within {max(apart.values()):.1e}")
    assert losses <= 1e-12
    assert max(apart.values()) <= 1e-10, max(apart, key=apart.__getitem__)
    # Scalars and what four does not divide are everywhere.
    assert 1 / fsdp <= run["bytes"] / one["bytes"] <= 1.001 / fsdp


@pytest.mark.slow  # the two processes below have such a mesh, of fewer devices: these tell each other things by TCP
@pytest.mark.parametrize("fsdp", [1, 4])
def test_eight_devices_do_what_one_does(one, model, tmp_path, fsdp):
    """With dropout, stochastic depth and augmentation on: random choices do not depend on the mesh either."""
    run = result(tmp_path / "run.npz", start(tmp_path / "run.npz", f"--model={model}", "--devices=8", f"--fsdp={fsdp}"))
    check(run, one, devices=8, processes=1, fsdp=fsdp)


@pytest.mark.slow
@pytest.mark.parametrize("loss", mesh_run.LOSSES)
def test_several_labels_a_teacher_and_adapters_on_a_mesh(loss, tmp_path):
    """A device keeps a quarter of what is trained and of what stays beside adapters, and all of the teacher."""
    runs = []
    for devices, fsdp in ((1, 1), (8, 4)):
        out = tmp_path / f"{devices}.npz"
        options = f"--taught={loss}", f"--devices={devices}", f"--fsdp={fsdp}"
        runs.append(result(out, start(out, "--model=test_vit2", *options)))
    one, eight = runs
    assert len(one["losses"]) == 20
    losses = np.abs(eight["losses"] / one["losses"] - 1).max()
    apart = {key: np.abs(eight[key] - one[key]).max() / np.abs(one[key]).max() for key in one if "/" in key}
    print(f"{loss}: losses within {losses:.1e}, what is trained within {max(apart.values()):.1e}")
    assert losses <= 1e-12
    assert {key.rsplit("/", 1)[-1] for key in one if key.startswith("ema/")} == {"lora_a", "lora_b", "kernel", "bias"}
    assert max(apart.values()) <= 1e-10, max(apart, key=apart.__getitem__)


def test_two_processes_do_what_one_does(one, model, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    out = tmp_path / "run.npz"
    options = [f"--model={model}", "--devices=2", "--fsdp=2", f"--coordinator={address}"]
    run = result(out, *(start(out, *options, f"--process_id={i}") for i in range(2)))
    check(run, one, devices=4, processes=2, fsdp=2)


@pytest.mark.parametrize(
    ("name", "fsdp", "parts", "backend"),
    [("test_nfnet", 1, 1, "cpu"), ("test_nfnet", 2, 2, "cpu"), ("test_vit2", 2, 1, "gpu")]
    + [pytest.param("eca_nfnet_l0", fsdp, 1, "cpu", marks=pytest.mark.slow) for fsdp in (1, 2)],
)
def test_only_parameters_are_gathered(name, fsdp, parts, backend):
    """Images and activations stay where they are: grouped convolutions, for one, could gather the whole batch."""
    experiment = build(
        c.Config(
            model=c.Model(name=name, drop_rate=0.1, drop_path_rate=0.1),
            data=c.Data(batch_size=8, image_size=32),
            mix=c.Mix(mixup=0.8, cutmix=1.0, reprob=0.5),
            optim=c.Optim(clip_grad=0.01),
            grad_accum_steps=parts,
            mesh=c.Mesh(fsdp=fsdp),
        )
    )
    with traced_for(backend):
        text = compile_train_step(experiment).as_text()
    shapes = Counter(",".join(map(str, array.shape)) for array in experiment.params.values())
    gathered = Counter(re.findall(r"\[([\d,]*)\]\S* all-gather(?:-start)?\(", text))
    assert "all-reduce" in text or "reduce-scatter" in text  # of the gradients: the text is that of a mesh
    assert not re.search(r" all-to-all\(", text)
    if fsdp == 1:
        assert not gathered
    else:
        assert gathered
        assert set(gathered) <= set(shapes)
        assert gathered.total() <= 2 * shapes.total()  # each parameter once forward, once backward


def test_meshes_that_cannot_be_made():
    with pytest.raises(ValueError, match=r"mesh\.data=-1 times mesh\.fsdp=3 must be the number of devices, 2"):
        make_mesh(c.Mesh(fsdp=3))
    with pytest.raises(ValueError, match=r"mesh\.data=4 times"):
        make_mesh(c.Mesh(data=4))
    assert make_mesh(c.Mesh(fsdp=2)).shape == {"data": 1, "fsdp": 2}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, True),
    ],
)
def test_clusters_are_recognised(environment, expected):
    assert is_cluster(environment) is expected


def test_half_an_address_is_refused():
    with pytest.raises(ValueError, match="give all three or none"):
        initialize(coordinator="localhost:1")


@pytest.mark.parametrize(
    ("own", "said"),
    [(0, "process 0 is there, others are not; this is process 0 of 2"), (1, "process 0 does not answer at localhost:")],
)
def test_processes_that_do_not_come_are_told(own, said):
    """In a sentence, where jax ends the process with a stack trace of C++."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    code = f"from train.machine.processes import initialize; initialize('on', 'localhost:{port}', 2, {own}, 1, 50)"
    process = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("error: not all processes were there within 1 s (--init-timeout)")
    assert said in process.stderr


def test_timeouts_reach_jax(monkeypatch):
    given = {}
    monkeypatch.setattr("jax.distributed.initialize", lambda *_, **options: given.update(options))
    initialize("on")
    assert given["heartbeat_timeout_seconds"] <= 60  # of the others, after a process has died
    initialize(*Options(distributed="on", init_timeout=7, heartbeat_timeout=9).processes)
    assert given == {"initialization_timeout": 67, "heartbeat_timeout_seconds": 9}

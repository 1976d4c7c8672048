"""Checkpoints between meshes and processes, and under hundreds of damages."""

import os
import subprocess
import sys

import jax
import pytest

from tests.helpers.checkpoints import abstract, copy_run, make_state, put, restore, same
from train import config
from train.checkpoints.files import load_weights
from train.machine.mesh import make_mesh


def python(code, *arguments, **variables):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"} | variables
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    try:
        out, err = process.communicate(timeout=1800)
    finally:
        process.kill()
    assert process.returncode == 0, out + err
    return out


EIGHT = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 8)
from tests.helpers.checkpoints import *
from train import config
from train.checkpoints.manager import Checkpoints
from train.machine.mesh import make_mesh
mesh = make_mesh(config.Mesh(data=2, fsdp=4))
workdir = Path(sys.argv[1])
with Checkpoints(workdir, config.Checkpoint()) as checkpoints:
    state, _ = checkpoints.restore(abstract(put(make_state(0), mesh)), sys.exit)
    assert same(state, make_state(2))
    kernel = state.params["stem/conv1/kernel"].sharding
    assert len(kernel.device_set) == 8 and not kernel.is_fully_replicated
    checkpoints.save(put(make_state(3), mesh), {"devices": jax.device_count()})
"""


def test_other_device_counts(pristine, tmp_path):
    """From one device to data 2 x fsdp 4, and from there to two devices, to one, and to none in particular."""
    copy_run(pristine, tmp_path)
    finish(python(EIGHT, tmp_path))
    assert jax.device_count() == 2
    for mesh in (make_mesh(config.Mesh(fsdp=2)), make_mesh(config.Mesh(fsdp=1)), None):
        state, meta = restore(tmp_path, abstract(put(make_state(0), mesh)))
        assert same(state, make_state(3))
        assert meta == {"devices": 8}
    weights = load_weights(tmp_path)
    assert all(weights[path].tobytes() == array.tobytes() for path, array in make_state(3).ema.items())


TWO_PROCESSES = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from tests.helpers.checkpoints import *
from train import config
from train.checkpoints.manager import Checkpoints
from train.machine.mesh import make_mesh
mesh, workdir = make_mesh(config.Mesh(data=2, fsdp=4)), Path(sys.argv[3])

def place(state):
    place = lambda a, s: jax.make_array_from_callback(a.shape, s, lambda i: a[i])
    return jax.tree.map(place, state, shardings(mesh, state))

def same_here(state, host):
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(host), strict=True)
    return all(s.data.tobytes() == b[s.index].tobytes() for a, b in pairs for s in a.addressable_shards)

said = []
with Checkpoints(workdir, config.Checkpoint()) as checkpoints:
    found = checkpoints.restore(place(make_state(0)), said.append)
    if found is None:
        for step in (1, 2):
            checkpoints.save(place(make_state(step)), {"step": step})
    else:
        assert same_here(found[0], make_state(found[1]["step"]))
print(found and found[1]["step"], *said)
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    """They write, read and reject checkpoints together; one process reads what they wrote."""

    def run(port):
        processes = [python(TWO_PROCESSES, f"localhost:{port}", rank, tmp_path) for rank in (0, 1)]
        return [finish(process).splitlines()[-1] for process in processes]

    assert run(34610) == ["None", "None"]
    assert run(34611) == ["2", "2"]
    assert same(restore(tmp_path, put(make_state(0)))[0], make_state(2))
    (tmp_path / "checkpoints" / "2" / "params" / "manifest.ocdbt").unlink()
    for line in run(34612):
        assert line.startswith("1 the checkpoint of step 2 is damaged: params/manifest.ocdbt is missing.")


MANY = """
import collections, random, sys
from pathlib import Path
import jax
from absl import logging
from tests.helpers.checkpoints import *
from train import config
from train.checkpoints import files
from train.checkpoints.manager import Checkpoints
logging.set_verbosity(logging.FATAL)
files.SMALL = int(sys.argv[2])
workdir, pristine = Path(sys.argv[1]) / "run", Path(sys.argv[1]) / "pristine"
rng, states, count = random.Random(files.SMALL), {step: make_state(step) for step in (1, 2)}, collections.Counter()
with Checkpoints(pristine, config.Checkpoint()) as checkpoints:
    for step, state in states.items():
        checkpoints.save(put(state), {"step": step})
like = put(states[1])
for name in [file.relative_to(pristine) for file in files_of(pristine / "checkpoints" / "2")]:
    for kind in ("flip",) * int(sys.argv[3]) + DAMAGES:
        copy_run(pristine, workdir)
        changed, said = damage(workdir / name, kind, rng), []
        with Checkpoints(workdir, config.Checkpoint()) as checkpoints:
            state, meta = checkpoints.restore(like, said.append)
        assert same(state, states[meta["step"]]), (name, kind)
        assert (meta["step"] == 1) == bool(said) and (changed or not said), (name, kind, said)
        count[kind, changed, meta["step"]] += 1
print(dict(count))
"""


@pytest.mark.slow
@pytest.mark.parametrize("small", [0, 2**20])
def test_many_damages(small, tmp_path):
    """Hundreds of random ones; with `small` of 0 only Orbax and the checksums of arrays stand guard."""
    out = finish(python(MANY, tmp_path, small, 15))
    count = eval(out.splitlines()[-1])
    assert sum(count.values()) > 550
    assert not (small and count.get(("flip", True, 2)))

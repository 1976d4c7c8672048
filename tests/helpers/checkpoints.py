"""Training states to save, ways to damage what was saved, and bitwise comparison."""

import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train import config
from train.checkpoints.files import steps
from train.checkpoints.manager import Checkpoints
from train.machine.mesh import state_shardings
from train.optim.parameters import FSDP_AXES, assign
from train.optim.state import State

KEEP = config.Checkpoint(keep_last=2, keep_best=1)
META = {"step": 2, "iterator": {"position": 17, "text": "Ü"}, "model": {"architecture": "test_nfnet"}}


def make_state(step, *, ema=True, wide=8):
    """A host state with every kind of leaf, different for every step."""
    rng = np.random.default_rng(step)
    params = {
        "stem/conv1/kernel": rng.standard_normal((3, 3, 4, wide), dtype=np.float32),
        "stem/conv1/gain": np.full(wide, step, np.float32),
        "head/fc/kernel": np.asarray(rng.standard_normal((32, 16)), jnp.bfloat16),
        "head/fc/bias": np.zeros(16, np.float32),  # its file could be lost unnoticed, were it not for the checksum
    }
    opt_state = jax.device_get(optax.chain(optax.identity(), optax.adam(0.1)).init(params))
    opt_state = jax.tree.map(
        lambda a: a + np.asarray(step, a.dtype) if a.ndim == 0 else np.asarray(rng.standard_normal(a.shape), a.dtype),
        opt_state,
    )
    average = {path: array + array for path, array in params.items()} if ema else {}
    plateau = (np.float32(step), np.bool_(True), np.zeros((0, 3), np.float32))
    return State(np.int32(step), params, opt_state, average, np.array([7, step], np.uint32), plateau)


def shardings(mesh, state):
    """As in training."""
    return state_shardings(mesh, state, assign(FSDP_AXES, state.params))


def put(state, mesh=None):
    """On a mesh or on one device."""
    return jax.device_put(state, shardings(mesh, state) if mesh else None)


def abstract(state):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)


def same(a, b):
    """Whether two states have the same structure, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


DAMAGES = ("flip", "cut", "empty", "zero", "delete")


def damage(file, kind, rng=random):
    """Damage a file; returns whether it is different now."""
    before = file.read_bytes()
    data = bytearray(before)
    if kind == "delete":
        file.unlink()
        return True
    if not data:
        return False
    if kind == "flip":
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
    elif kind == "zero":
        start = rng.randrange(len(data))
        end = min(len(data), start + rng.choice([1, 16, 4096]))
        data[start:end] = bytes(end - start)
    else:
        data = data[: rng.randrange(len(data)) if kind == "cut" else 0]
    file.write_bytes(data)
    return data != before


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def copy_run(pristine, workdir):
    """A fresh copy of a run's folder in the place of another."""
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(pristine, workdir)


def never(message):
    """A report that there should be none of."""
    raise AssertionError(message)


def save(workdir, *states, keep=KEEP, metrics=None):
    with Checkpoints(workdir, keep) as checkpoints:
        assert not (steps(workdir) and checkpoints.restore(states[0], never) is None)
        for state in states:
            checkpoints.save(state, META | {"step": int(state.step)}, metrics and metrics[int(state.step)])


def restore(workdir, like, report=never):
    with Checkpoints(workdir, KEEP) as checkpoints:
        return checkpoints.restore(like, report)

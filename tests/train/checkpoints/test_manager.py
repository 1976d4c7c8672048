"""Checkpoints: what is saved comes back to the bit or not at all, whatever happens to the files."""

import builtins
import dataclasses
import errno
import io
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.checkpoints import (
    DAMAGES,
    KEEP,
    META,
    abstract,
    copy_run,
    damage,
    files_of,
    make_state,
    put,
    restore,
    same,
    save,
)
from train import config
from train.checkpoints import files as stored
from train.checkpoints import manager as checkpoints_manager
from train.checkpoints.averages import scores
from train.checkpoints.description import DamagedError
from train.checkpoints.files import UnreadableError, load_weights, steps
from train.checkpoints.manager import Checkpoints
from train.cli.mistakes import check
from train.machine.mesh import make_mesh


def test_everything_comes_back(pristine):
    state, meta = restore(pristine, abstract(put(make_state(0))))
    assert same(state, make_state(2))
    assert meta == META
    assert jax.tree.structure(state) == jax.tree.structure(make_state(0))


def test_no_checkpoint_is_none(tmp_path):
    assert restore(tmp_path, put(make_state(0))) is None
    assert restore(tmp_path, abstract(put(make_state(0)))) is None


def test_newest_and_best_stay(tmp_path):
    scores = {1: 0.5, 2: 0.9, 3: 0.1, 4: float("nan"), 5: 0.2, 6: 0.3}
    metrics = {step: {"top1": score, "loss": score} for step, score in scores.items()}
    states = [put(make_state(step)) for step in scores]
    keep = dataclasses.replace(KEEP, keep_best=2)
    save(tmp_path / "top1", *states[:3], keep=keep, metrics=metrics)
    save(tmp_path / "top1", *states[3:], keep=keep, metrics=metrics)  # in another process, as it were
    assert steps(tmp_path / "top1") == [1, 2, 5, 6]
    save(tmp_path / "loss", *states, keep=dataclasses.replace(KEEP, keep_last=1, metric="loss"), metrics=metrics)
    assert steps(tmp_path / "loss") == [3, 6]
    save(tmp_path / "none", *states[:3], keep=KEEP)
    assert steps(tmp_path / "none") == [2, 3]
    with pytest.raises(ValueError, match=r"checkpoint\.metric='top1' is not one of top5"):
        save(tmp_path / "wrong", states[0], metrics={1: {"top5": 1.0}})
    with pytest.raises(ValueError, match=r"checkpoint\.keep_last=0: expected an integer, at least 1"):
        check(config.Config(checkpoint=config.Checkpoint(keep_last=0)))


def test_damage_never_passes(pristine, tmp_path):
    """Every file, damaged in every way: the older state and a message, or what was saved."""
    rng, workdir, states = random.Random(0), tmp_path / "run", {step: make_state(step) for step in (1, 2)}
    like, fell_back = put(states[1]), 0
    names = [file.relative_to(pristine) for file in files_of(pristine / "checkpoints" / "2")]
    assert len(names) > 30
    # Damage to small files is all of a kind here; what the libraries below make of it: `test_many_damages`.
    for number, name in enumerate(names):
        copy_run(pristine, workdir)
        kind = DAMAGES[number % len(DAMAGES)]
        changed = damage(workdir / name, kind, rng)
        said = []
        state, meta = restore(workdir, like, said.append)
        assert same(state, states[meta["step"]]), (kind, name)
        assert (meta["step"] == 1) == changed == bool(said), (kind, name)
        if changed:
            fell_back += 1
            assert "the checkpoint of step 2 is damaged: " in said[0]
            assert f"It is now {workdir / 'checkpoints_damaged' / '2'}; going on from step 1." in said[0]
            assert (steps(workdir), os.listdir(workdir / "checkpoints_damaged")) == ([1], ["2"])
    assert fell_back > 30


def test_flipped_bits_in_arrays_are_found_by_the_checksums(tmp_path, monkeypatch):
    """Also in files that have no hash, being large; the message names the array."""
    monkeypatch.setattr(stored, "SMALL", 0)
    states = {step: make_state(step, wide=256) for step in (1, 2)}
    save(tmp_path / "pristine", *map(put, states.values()))
    workdir, rng = tmp_path / "run", random.Random(1)
    for group, path in [
        ("params", "stem/conv1/kernel"),
        ("ema", "head/fc/kernel"),
        ("opt_state", "1/0/mu/stem/conv1/kernel"),
    ]:
        flat = stored.flatten(states[2])
        wanted = flat[f"{group}/{path}"].tobytes()
        copy_run(tmp_path / "pristine", workdir)
        (file,) = [f for f in files_of(workdir / "checkpoints" / "2" / group) if wanted in f.read_bytes()]
        data = bytearray(file.read_bytes())
        bit = rng.randrange(8 * len(wanted)) + 8 * data.index(wanted)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        said = []
        assert same(restore(workdir, put(states[1]), said.append)[0], states[1])
        assert f"1 of {len(flat)} arrays are not what was saved: {group}/{path}." in said[0]
        # The control: without the checksums, Orbax hands out wrong values.
        copy_run(tmp_path / "pristine", workdir)
        file.write_bytes(data)
        with monkeypatch.context() as patch:
            patch.setattr(stored, "checksums", lambda arrays: stored.read_description(workdir, 2).checksums)
            state, meta = restore(workdir, put(states[1]))
        assert meta["step"] == 2
        assert not same(state, states[2])


def test_an_older_checkpoint_that_is_half_deleted_does_no_harm(pristine, tmp_path):
    copy_run(pristine, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "params")
    assert same(restore(tmp_path, put(make_state(0)))[0], make_state(2))
    save(tmp_path, put(make_state(3)), put(make_state(4)))
    assert steps(tmp_path) == [3, 4]


def test_what_a_killed_process_left_is_removed(pristine, tmp_path):
    copy_run(pristine, tmp_path)
    shutil.copytree(tmp_path / "checkpoints" / "2", tmp_path / "checkpoints" / "3.unsealed.orbax-checkpoint-tmp")
    (tmp_path / "checkpoints" / "1").rename(tmp_path / "checkpoints" / "1.deleted")
    (tmp_path / "checkpoints" / "notes").mkdir()
    assert steps(tmp_path) == [2]
    assert same(restore(tmp_path, put(make_state(0)))[0], make_state(2))
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "notes"]


def test_a_step_whose_checkpoint_was_damaged_is_saved_again(pristine, tmp_path):
    for attempt in ("2", "2.1", "2.2"):
        copy_run(pristine / "checkpoints", tmp_path / "checkpoints")
        (tmp_path / "checkpoints" / "2" / "params" / "manifest.ocdbt").unlink()
        said = []
        with Checkpoints(tmp_path, KEEP) as checkpoints:
            checkpoints.restore(put(make_state(0)), said.append)
            assert "params/manifest.ocdbt is missing" in said[0]
            checkpoints.save(put(make_state(1)), META)  # that is where it came from
            checkpoints.save(put(make_state(2)), META)
            assert checkpoints.newest in (1, 2)
        assert (steps(tmp_path), attempt in os.listdir(tmp_path / "checkpoints_damaged")) == ([1, 2], True)
        assert same(restore(tmp_path, put(make_state(0)))[0], make_state(2))


def test_it_never_starts_over_silently(pristine, tmp_path):
    copy_run(pristine, tmp_path)
    (tmp_path / "checkpoints" / "1" / "description.json").write_text("{}")
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "ema")
    before = files_of(tmp_path)
    for _ in range(2):
        with pytest.raises(
            DamagedError, match=r"holds no good checkpoint:\n  2: ema/.* is missing\n  1: descr"
        ) as error:
            restore(tmp_path, put(make_state(0)))
        assert "remove that folder to start the run from its beginning" in str(error.value)
        assert files_of(tmp_path) == before


REASONS = {errno.EACCES: "Permission denied", errno.EIO: "Input/output error", errno.ESTALE: "Stale file handle"}


@pytest.fixture
def refuse(monkeypatch):
    """A function: files and folders whose path ends so cannot be opened any more, as the system would say it."""

    def begin(ending, number):
        def refusing(function):
            def refused(path, *arguments, **options):
                if isinstance(path, str | os.PathLike) and os.fspath(path).endswith(ending):
                    raise OSError(number, os.strerror(number), os.fspath(path))
                return function(path, *arguments, **options)

            return refused

        for module, name in ((io, "open"), (builtins, "open"), (os, "open"), (os, "listdir"), (os, "scandir")):
            monkeypatch.setattr(module, name, refusing(getattr(module, name)))

    return begin


@pytest.mark.parametrize(
    ("ending", "number"),
    [
        ("checkpoints", errno.EACCES),
        ("checkpoints/2", errno.EACCES),
        ("checkpoints/2/params", errno.EACCES),
        ("checkpoints/2/description.json", errno.EACCES),
        ("checkpoints/2/description.json", errno.EIO),
        ("checkpoints/2/params/manifest.ocdbt", errno.ESTALE),
    ],
)
def test_what_cannot_be_read_is_no_damage(pristine, tmp_path, refuse, monkeypatch, ending, number):
    """Neither is an older one taken for it, nor is anything moved."""
    copy_run(pristine, tmp_path)
    before = files_of(tmp_path)
    refuse(ending, number)
    message = f"{tmp_path}.*/{ending} cannot be read: {REASONS[number]}.*nothing was changed"
    with pytest.raises(UnreadableError, match=message):
        restore(tmp_path, put(make_state(0)))
    with pytest.raises(UnreadableError, match=message):
        load_weights(tmp_path)
    if "description" in ending:
        with pytest.raises(UnreadableError, match=message):
            scores(tmp_path)
    monkeypatch.undo()
    assert files_of(tmp_path) == before


def test_a_failure_of_the_disk_while_arrays_are_read_is_no_damage(pristine, monkeypatch):
    """What tensorstore and Orbax make of it: an error because of one that has the system's number in its text."""

    def fail(*_):
        try:
            raise ValueError("INTERNAL: Failed to read: \"/x\": Input/output error [os_error_code='5']")
        except ValueError as error:
            raise KeyError("no handler") from error

    monkeypatch.setattr(stored.ocp, "load_checkpointables", fail)
    with pytest.raises(UnreadableError, match=r"checkpoints/2 cannot be read: Input/output error\."):
        restore(pristine, put(make_state(0)))


def test_what_cannot_be_read_is_not_removed_as_superseded(pristine, tmp_path, refuse):
    copy_run(pristine, tmp_path)
    with Checkpoints(tmp_path, dataclasses.replace(KEEP, keep_last=1)) as checkpoints:
        checkpoints.restore(put(make_state(0)), pytest.fail)
        refuse("checkpoints/1/description.json", errno.EACCES)
        checkpoints.save(put(make_state(3)), META)
    assert steps(tmp_path) == [1, 3]


def test_another_model_is_no_damage(pristine, tmp_path):
    copy_run(pristine, tmp_path)
    state = make_state(0, wide=6)
    state = dataclasses.replace(state, params=state.params | {"new/bias": np.zeros(3, np.float32)}, ema={})
    with pytest.raises(ValueError, match="is intact, but of another model or optimiser:") as error:
        restore(tmp_path, put(state))
    text = str(error.value)
    assert "  params/new/bias: nothing there, float32 [3] here" in text
    assert "  params/stem/conv1/gain: float32 [8] there, float32 [6] here" in text
    assert "  ema/head/fc/kernel: bfloat16 [32, 16] there, nothing here" in text
    assert not (tmp_path / "checkpoints_damaged").exists()
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("fsdp", [1, 2])
def test_donating_at_once_corrupts_nothing(fsdp, tmp_path):
    """The loop's own pattern, many times: save, then overwrite all buffers while the files are written."""
    mesh = make_mesh(config.Mesh(fsdp=fsdp))
    state = put(jax.tree.map(lambda a: np.zeros_like(a), make_state(0, wide=4096)), mesh)
    add_one = jax.jit(
        lambda state: jax.tree.map(lambda a: (a + 1).astype(a.dtype), state),
        donate_argnums=0,
        out_shardings=jax.tree.map(lambda a: a.sharding, state),
    )
    like = abstract(state)
    with Checkpoints(tmp_path, KEEP) as checkpoints:
        for _ in range(10):
            state = add_one(state)
            saved = jax.device_get(state)
            checkpoints.save(state, META)
            for _ in range(3):
                state = add_one(state)
            state, _ = checkpoints.restore(like, pytest.fail)
            assert same(state, saved)  # what was restored is donated next


@pytest.fixture
def small_files():
    """No file may grow beyond 32 KiB, as if the disk were full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# Of several files that cannot be written Orbax waits for the first only, and the others find its event loop closed.
left_behind = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@left_behind
def test_a_write_that_fails_is_told(pristine, tmp_path, small_files, caplog):
    copy_run(pristine, tmp_path)
    checkpoints = Checkpoints(tmp_path, KEEP)
    checkpoints.restore(put(make_state(0)), pytest.fail)
    checkpoints.save(put(make_state(3, wide=1024)), META)
    message = (
        rf"step 3 could not be written to {tmp_path}/checkpoints \(\d+ MiB free\); the last one is that of step 2\."
    )
    with pytest.raises(OSError, match=message) as error:
        checkpoints.save(put(make_state(4)), META)
    assert "File too large" in str(error.value)
    assert "Traceback" not in caplog.text  # told once
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "2"]
    with checkpoints:  # once the cause is gone, it goes on
        checkpoints.save(put(make_state(5)), META)
    assert steps(tmp_path) == [2, 5]


@left_behind
def test_a_write_that_fails_last_is_told_on_leaving(tmp_path, small_files):
    def train(crash):
        with Checkpoints(tmp_path, KEEP) as checkpoints:
            checkpoints.save(put(make_state(3, wide=1024)), META)
            if crash:
                raise ZeroDivisionError

    with pytest.raises(OSError, match=r"step 3 could not be written .* there is no older one"):
        train(crash=False)
    with pytest.raises(ZeroDivisionError) as error:
        train(crash=True)
    assert "step 3 could not be written" in error.value.__notes__[0]


FULL = """
import resource, sys
from pathlib import Path
from port.messages import exit_status
from tests.helpers.checkpoints import *

def train():
    with Checkpoints(Path(sys.argv[1]), KEEP) as checkpoints:
        checkpoints.save(put(make_state(1)), META)
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, resource.RLIM_INFINITY))
        checkpoints.save(put(make_state(2, wide=4096)), META)

sys.exit(exit_status(train))
"""


def test_a_write_that_fails_is_one_message(tmp_path):
    """Orbax's threads would add a thousand lines, of event loops that are closed."""
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    result = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert re.match(r"error: the checkpoint of step 2 could not be written .*; the last one is that of step 1\.", line)
    assert os.listdir(tmp_path / "checkpoints") == ["1"]


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, KEEP) as checkpoints:
        checkpoints.save(put(make_state(1)), META)
        checkpoints.wait()
        monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1000))
        monkeypatch.setattr("train.checkpoints.manager.write_async", None)  # it would be an error to call it
        with pytest.raises(OSError, match=r"step 2 could .* that of step 1\. .* The cause: .*No space left on device"):
            checkpoints.save(put(make_state(2)), META)
    assert os.listdir(tmp_path / "checkpoints") == ["1"]


def test_another_file_that_cannot_be_written_names_the_last_good_step(tmp_path):
    def train():
        with Checkpoints(tmp_path, KEEP) as checkpoints, checkpoints.named():
            checkpoints.save(put(make_state(1)), META)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    message = f"^{tmp_path}: No space left on device; the last checkpoint is that of step 1. Once the cause is gone"
    with pytest.raises(OSError, match=message):
        train()


def test_the_last_good_step_is_the_one_that_is_being_written(tmp_path, monkeypatch):
    """It was told as if there were none."""
    slowly = checkpoints_manager.seal
    monkeypatch.setattr(checkpoints_manager, "seal", lambda *args: time.sleep(0.3) or slowly(*args))
    with Checkpoints(tmp_path, KEEP) as checkpoints:
        assert checkpoints.last_good() == "There is no checkpoint yet."
        checkpoints.save(put(make_state(1)), META)
        assert checkpoints.last_good() == "The last good checkpoint is step 1."
        monkeypatch.setattr(checkpoints_manager, "seal", None)
        checkpoints.save(put(make_state(2)), META)
        assert re.search(r"step 2 could not be written .* that of step 1", checkpoints.last_good())


def test_a_folder_that_is_gone_is_told(tmp_path):
    checkpoints = Checkpoints(tmp_path, KEEP)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(OSError, match="step 3 could not be written"), checkpoints:
        checkpoints.save(put(make_state(3)), META)


def test_weights_alone(pristine, tmp_path):
    copy_run(pristine, tmp_path)
    weights = load_weights(tmp_path)
    assert weights.keys() == make_state(2).ema.keys()
    for path, array in make_state(2).ema.items():
        assert isinstance(weights[path], np.ndarray)
        assert (weights[path].dtype, weights[path].tobytes()) == (array.dtype, array.tobytes())
    older = load_weights(tmp_path, 1)
    assert older["stem/conv1/gain"].tolist() == [2.0] * 8
    (tmp_path / "checkpoints" / "2" / "ema" / "manifest.ocdbt").write_bytes(b"")
    assert load_weights(tmp_path)["stem/conv1/gain"].tolist() == [2.0] * 8
    with pytest.raises(DamagedError, match=r"2: ema/manifest\.ocdbt has 0 bytes instead of"):
        load_weights(tmp_path, 2)
    assert steps(tmp_path) == [1, 2]  # it only reads
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7, but of 1, 2"):
        load_weights(tmp_path, 7)
    with pytest.raises(FileNotFoundError, match="holds no checkpoints; expected the --workdir of a run"):
        load_weights(tmp_path / "nothing")


def test_weights_without_an_average_are_the_parameters(tmp_path):
    save(tmp_path, put(make_state(1, ema=False)))
    weights = load_weights(tmp_path)
    assert weights["stem/conv1/gain"].tolist() == [1.0] * 8
    assert weights["head/fc/kernel"].dtype == jnp.bfloat16


@pytest.fixture
def x64_everywhere():
    """In all threads, as in a run: Orbax reads in threads of its own."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def test_float64(tmp_path, x64_everywhere):
    state = dataclasses.replace(make_state(1), params={"head/fc/bias": np.array([1 / 3, np.pi])}, ema={})
    save(tmp_path, put(state))
    assert same(restore(tmp_path, put(state))[0], state)
    jax.config.update("jax_enable_x64", False)
    assert load_weights(tmp_path)["head/fc/bias"].tolist() == [1 / 3, np.pi]
    single = dataclasses.replace(state, params={"head/fc/bias": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match=r"params/head/fc/bias: float64 \[2\] there, float32 \[2\] here"):
        restore(tmp_path, put(single))

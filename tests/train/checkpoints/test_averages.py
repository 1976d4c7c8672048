"""Averages of checkpoints against plain numpy, and through timm's own loader."""

import dataclasses
import functools
import shutil

import jax
import numpy as np
import pytest

import nfjax
import port
from nfjax.params import split
from nfjax.parity import oracle
from nfjax.weights.saving import hub_config
from train.average import main
from train.checkpoints.averages import average, choose, run_weights
from train.checkpoints.manager import Checkpoints
from train.config import Checkpoint, Config
from train.report.workdir import claim
from train.step import State

STEPS = (10, 20, 30)
SCORES = {10: 0.9, 20: 0.1, 30: 0.8}
timm = oracle.timm()


@functools.cache
def network():
    return nfjax.load("test_nfnet", weights=None, num_classes=10, in_chans=1)


def weights_at(step):
    """Other weights for every step."""
    rng = np.random.default_rng(step)
    return {path: rng.standard_normal(a.shape, np.float32) for path, a in split(network())[1].items()}


def make_run(workdir, *, ema, steps=STEPS, dtype=np.float32):
    claim(workdir, dataclasses.asdict(Config(checkpoint=Checkpoint(metric="loss"))))
    with Checkpoints(workdir, Checkpoint(keep_last=9, metric="loss")) as checkpoints:
        for step in steps:
            weights = {path: array.astype(dtype) for path, array in weights_at(step).items()}
            others = {path: np.zeros_like(array) for path, array in weights.items()}
            params, average = (others, weights) if ema else (weights, {})
            state = State(np.int32(step), params, (), average, np.zeros(2, np.uint32), ())
            checkpoints.save(jax.device_put(state), {"model": hub_config(network())}, {"loss": SCORES[step]})
    return workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), ema=True)


def test_which_checkpoints(run):
    assert choose(run) == [10, 20, 30]
    assert choose(run, last=2) == [20, 30]
    assert choose(run, best=2) == [20, 30]
    assert choose(run, best=1) == [20]  # of a loss, less is better
    assert choose(run, steps=[30, 10]) == [10, 30]
    with pytest.raises(ValueError, match=r"asked for 4 checkpoints, but .* has 3 in it: 10, 20, 30"):
        choose(run, last=4)
    with pytest.raises(ValueError, match=r"asked for 0 checkpoints, but .* has 3 with loss"):
        choose(run, best=0)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 15, 40, but of 10, 20, 30"):
        choose(run, steps=[10, 40, 15])


def test_the_average_is_numpys(run):
    ours = average(run, [10, 30])
    weights = [weights_at(step) for step in (10, 30)]
    for path, array in ours.items():
        expected = np.mean([w[path].astype(np.float64) for w in weights], axis=0).astype(np.float32)
        assert (array.dtype, array.tobytes()) == (np.dtype(np.float32), expected.tobytes())
    assert average(run, [20])["stem/conv1/kernel"].tobytes() == weights_at(20)["stem/conv1/kernel"].tobytes()


def test_timm_loads_it(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    assert main([str(tmp_path / "run"), "--last", "2"]) == 0
    out = tmp_path / "run" / "average"
    assert capsys.readouterr().out == f"{out}: the average of the checkpoints of steps 20, 30\n"
    theirs = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    expected = port.to_timm(average(run, [20, 30]))
    state = theirs.state_dict()
    assert state.keys() == expected.keys()
    assert all(state[name].numpy().tobytes() == array.tobytes() for name, array in expected.items())


def test_an_average_of_one_says_that_it_is_a_copy(run, tmp_path, capsys):
    for again in ("", " (replaced)"):
        assert main([str(run), "--steps", "20", "-o", str(tmp_path / "one")]) == 0
        said = f"{tmp_path / 'one'}{again}: the checkpoint of step 20; an average of one is a copy\n"
        assert capsys.readouterr().out == said


def test_without_a_moving_average(tmp_path):
    make_run(tmp_path, ema=False, steps=[10, 20])
    expected = np.mean([weights_at(step)["head/fc/bias"].astype(np.float64) for step in (10, 20)], axis=0)
    assert np.array_equal(average(tmp_path, [10, 20])["head/fc/bias"], expected.astype(np.float32))


def test_a_run_in_float64(tmp_path):
    jax.config.update("jax_enable_x64", True)
    try:
        make_run(tmp_path, ema=True, steps=[10, 20], dtype=np.float64)
    finally:
        jax.config.update("jax_enable_x64", False)
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    written, expected = port.read_weights(tmp_path / "out"), port.to_timm(average(tmp_path, [10, 20]))
    assert all(written[name].dtype == np.float64 and np.array_equal(written[name], expected[name]) for name in expected)


def test_another_run_can_start_from_it(run):
    model = nfjax.load("test_nfnet", weights=run_weights(run), in_chans=1)
    _, params = split(model)
    assert all(np.array_equal(params[path], array) for path, array in weights_at(30).items())


def test_what_cannot_be_averaged_is_told(run, tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert f"there is no folder {tmp_path / 'nothing'} (working directory: " in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    assert main([str(tmp_path / "nothing")]) == 2
    assert "holds no checkpoints; expected the --workdir of a run" in capsys.readouterr().err
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "20" / "description.json").unlink()
    assert main([str(tmp_path / "run")]) == 2
    assert "20: description.json cannot be read" in capsys.readouterr().err
    assert main([str(tmp_path / "run"), "--steps", "10", "30"]) == 0
    (tmp_path / "run" / "config.json").unlink()
    assert main([str(tmp_path / "run"), "--best", "1"]) == 2
    assert "config.json: no such file, so it is not known what is best" in capsys.readouterr().err

"""`python -m benchmarks --what train`: what it writes, and that it refuses a step that is not timm's."""

import dataclasses
import json

import pytest

from benchmarks import harness, peer, train
from benchmarks.__main__ import main

ARGS = ["--what", "train", "--models", "test_vit2", "--size", "32", "--batch", "4", "--rounds", "2"]


def test_results(quick, tmp_path, capsys):
    assert main([*ARGS, "--no-torch-compile", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("train-*.json")
    assert path.with_suffix(".png").stat().st_size > 1000
    (row,) = json.loads(path.read_text())["rows"]
    assert set(row["seconds"]) == {"ours", "timm eager"}
    assert row["missing"] == {"torch.compile": "not asked for"}
    assert 0 < row["differences"]["ours"] < 1e-5
    assert "torch.compile is missing" in capsys.readouterr().out


@pytest.mark.slow
def test_refuses_another_step(quick, tmp_path, capsys, monkeypatch):
    """timm's step with another learning rate in the place of ours."""

    class Altered(train.Task):
        def __init__(self, case):
            super().__init__(case)
            self.ours = {"ours": other(self)}

    def other(task):
        def make():
            with monkeypatch.context() as patch:
                patch.setattr(train, "OPTIM", dataclasses.replace(train.OPTIM, lr=0.1001))
                return task.timm()

        return make

    monkeypatch.setattr(train, "Task", Altered)
    assert main([*ARGS, "--no-torch-compile", "--out", str(tmp_path)]) == 1
    assert "losses differ from timm's by more than 1e-04: ours 6" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def task():
    return train.Task(harness.Case("test_vit2", 32, 4))


@pytest.fixture(scope="module")
def right(task):
    return train.first_steps(task.timm())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "least"),
    [
        ({"lr": 0.1001}, 5e-4),
        ({"momentum": 0.899}, 1e-4),
        ({"clip_grad": 0.01503}, 1e-4),
        ({"name": "momentum"}, 1e-2),
        ({"weight_decay": 2e-3}, 1e-4),
    ],
    ids=str,
)
def test_every_part_of_the_step_shows(wrong, least, task, right, monkeypatch):
    """timm's step with one number changed, beside timm's: more than the limit apart."""
    monkeypatch.setattr(train, "OPTIM", dataclasses.replace(train.OPTIM, **wrong))
    apart = train.ways_apart(train.first_steps(task.timm())[1], right[1], train.port.to_flax(task.state))
    assert apart > least >= train.LIMIT


@pytest.mark.slow
def test_chunks_are_the_batch(task, right):
    """The reference of bfloat16."""
    found = train.first_steps(task.timm(chunk=3))
    assert train.losses_apart(found[0], right[0]) < 1e-5
    assert train.ways_apart(found[1], right[1], train.port.to_flax(task.state)) < 1e-5


@pytest.mark.slow
def test_bfloat16(quick, tmp_path):
    assert main([*ARGS, "--no-torch-compile", "--dtype", "bfloat16", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("train-*.json")
    (row,) = json.loads(path.read_text())["rows"]
    assert min(row["differences"].values()) > 1e-4  # nothing was left in float32


@pytest.mark.slow
def test_bfloat16_refuses_another_step(monkeypatch):
    """timm's own AMP in the place of ours: as it is, and with another learning rate."""
    task = train.Task(harness.Case("test_vit2", 32, 4, "bfloat16"))
    assert task.check({"timm eager": task.timm(), "ours": task.timm()})["ours"] < 1e-2
    with monkeypatch.context() as patch:
        patch.setattr(train, "OPTIM", dataclasses.replace(train.OPTIM, lr=0.11))
        other = task.timm()
    with pytest.raises(peer.OutputsDiffer, match="ours"):
        task.check({"timm eager": task.timm(), "ours": other})

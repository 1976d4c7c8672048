"""`python -m benchmarks --what train`: what it writes, and that it refuses a step that is not timm's."""

import dataclasses
import json

import pytest

from benchmarks import measure, train
from benchmarks.__main__ import main

ARGS = ["--what", "train", "--models", "test_vit2", "--size", "32", "--batch", "4", "--rounds", "2"]


@pytest.fixture
def quick(monkeypatch):
    """The smallest run; the machine's limit is not what is tested."""
    monkeypatch.setattr(measure, "CEILING_SIZE", 64)


def test_results(quick, tmp_path, capsys):
    assert main([*ARGS, "--no-torch-compile", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("train-*.json")
    assert path.with_suffix(".png").stat().st_size > 1000
    (row,) = json.loads(path.read_text())["rows"]
    assert set(row["seconds"]) == {"ours", "timm eager"}
    assert row["missing"] == {"torch.compile": "not asked for"}
    assert 0 < row["differences"]["ours"] < 1e-5
    assert "torch.compile is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [{"lr": 0.1001}, {"momentum": 0.899}, {"clip_grad": 0.01503}, {"name": "momentum"}, {"weight_decay": 2e-3}],
    ids=str,
)
def test_refuses_another_step(wrong, quick, tmp_path, capsys, monkeypatch):
    experiment, right = train.experiment, train.OPTIM

    def altered(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(train, "OPTIM", dataclasses.replace(right, **wrong))
            return experiment(*args, **options)

    monkeypatch.setattr(train, "experiment", altered)
    assert main([*ARGS, "--no-torch-compile", "--out", str(tmp_path)]) == 1
    assert "differ from timm's by more than 1e-04: ours" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

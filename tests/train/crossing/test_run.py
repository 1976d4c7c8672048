"""Runs that go to timm's checkpoint and begin with one."""

import dataclasses
import json

import pytest

from tests.helpers.shallow import shallow
from train import config as c
from train.checkpoints.files import steps
from train.loop import run
from train.to_timm import main

CONFIG = c.Config(
    epochs=1,
    model=c.Model("test_vit2", drop_rate=0.2),
    data=c.Data(batch_size=360, image_size=16, shift=1),
    augment=c.Augment(no_aug=True),
    optim=c.Optim("nadamw", lr=1e-3, weight_decay=0.05),
    schedule=c.Schedule("constant"),
    ema=c.Ema(decay=0.9),
    log=c.Log(tensorboard=False),
)


@pytest.fixture(autouse=True)
def two_blocks():
    with shallow({"test_vit2": {"depth": 2}}):
        yield


def test_there_and_back_is_the_same_run(tmp_path, capsys):
    """A run of two epochs, and one that went through timm's file in between, end with the same bits."""
    whole, back, file = tmp_path / "whole", tmp_path / "back", tmp_path / "last.pth.tar"
    run(CONFIG, whole)
    assert main([str(whole), str(file)]) == 0
    longer = dataclasses.replace(CONFIG, epochs=2)
    run(longer, whole)

    begun = dataclasses.replace(
        longer, model=dataclasses.replace(CONFIG.model, resume_timm=str(file), weights="none.pth")
    )
    assert run(begun, back).steps == 8
    said = f"continues {file}: epoch 1, nadamw with exp_avg and exp_avg_sq, moving average"
    assert said in (back / "log.txt").read_text()
    assert json.loads((back / "config.json").read_text())["model"]["resume_timm"] == str(file)
    assert steps(back) == [8]
    weights = [(folder / "final" / "model.safetensors").read_bytes() for folder in (whole, back)]
    assert weights[0] == weights[1]

    file.unlink()
    capsys.readouterr()
    run(begun, back)
    assert f"{back} is finished at step 8 of 8" in capsys.readouterr().out

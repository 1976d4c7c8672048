"""A network learns from a folder of photographs: what a person with a folder of photos does."""

import subprocess
import sys

import pytest

import nfjax
from tests.helpers.photos import ALIKE, make_folder

OPTIONS = {
    "model.weights": "none",  # there is no hub here, so it starts from nothing instead of from ImageNet
    "optim.lr": 2e-3,
    "optim.layer_decay": "none",
    "augment.auto_augment": "none",
    "augment.color_jitter": 0.2,
    "augment.scale": "0.5,1",
    "data.image_size": 64,
    "data.cache": "true",
    "epochs": 15,
    "eval_epochs": 5,
}


@pytest.mark.slow  # a minute each on two cores
@pytest.mark.parametrize("model", ["test_nfnet", "test_vit2"])
def test_photographs_are_told_apart(tmp_path, model):
    """Pieces of eight photographs, those for testing from other regions than those for training."""
    root, workdir = make_folder(tmp_path / "photos", train=100, val=25, classes=ALIKE), tmp_path / "run"
    command = [sys.executable, "-m", "train.main", "--config=train/configs/folder.py", f"--workdir={workdir}"]
    options = {"data.root": root, "model.name": model} | OPTIONS
    run = subprocess.run(
        command + [f"--config.{name}={value}" for name, value in options.items()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    print(run.stdout)
    top1 = float(run.stdout.split("top1=")[-1].split()[0])
    assert top1 >= 0.95
    assert (workdir / "curves.png").stat().st_size > 10_000
    assert nfjax.load(f"local-dir:{workdir / 'final'}").data_config.label_names == ALIKE

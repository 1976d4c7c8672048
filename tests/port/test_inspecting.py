"""`python -m port inspect` and `nfjax which`: what a file holds, in runs, and which model it fits."""

import argparse

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import nfjax
from nfjax.__main__ import main as ours
from port.__main__ import main
from port.inspecting import folded, inspect


@pytest.fixture(scope="module")
def state():
    model = nfjax.load("test_vit2", None, num_classes=5, in_chans=1, img_size=96)
    return {name: torch.from_numpy(np.array(array)) for name, array in nfjax.state_dict(model).items()}


@pytest.fixture
def checkpoint(state, tmp_path):
    """As timm's train.py writes it."""
    content = {
        "epoch": 3,
        "arch": "test_vit2",
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "state_dict_ema": state,
        "optimizer": {"state": {}, "param_groups": []},
        "args": argparse.Namespace(lr=0.1),
        "metric": np.float64(0.5),
    }
    torch.save(content, tmp_path / "last.pth.tar")
    return tmp_path / "last.pth.tar"


@pytest.mark.parametrize(
    ("indices", "runs"),
    [
        ([()], [()]),
        ([(0,), (1,), (2,), (5,)], [("0-2,5",)]),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], [("0-1", "0-1")]),
        ([(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)], [("0", "0"), ("1-2", "0-1")]),
    ],
)
def test_runs(indices, runs):
    assert folded(indices) == runs


def test_a_training_checkpoint(checkpoint, capsys):
    assert main(["inspect", str(checkpoint)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == (
        "holds     epoch 3, arch test_vit2, state_dict (120 arrays), state_dict_ema (120 arrays), "
        "optimizer (dict of 2), args (argparse.Namespace), metric 0.5"
    )
    assert lines[2] == "weights   taken from 'state_dict_ema' (also there: 'state_dict')"
    assert [line.split() for line in lines if "qkv" in line] == [
        ["blocks.0-7.attn.qkv.bias", "192", "float32"],
        ["blocks.0-7.attn.qkv.weight", "192x64", "float32"],
    ]
    assert lines[-2] == "total     120 arrays, 354,181 numbers, 1.417 MB"
    assert lines[-1] == "fits      test_vit2, num_classes=5, in_chans=1, img_size=(96, 96)"
    assert len(lines) < 30
    assert main(["inspect", str(checkpoint), "--weights-key", "state_dict"]) == 0
    assert "taken from 'state_dict' without the prefix 'module.' of all names" in capsys.readouterr().out


def test_no_array_is_read(checkpoint, state, tmp_path, monkeypatch):
    monkeypatch.setattr("port.tensors.Tensor.__array__", None)
    assert inspect(checkpoint)[1] is not None
    save_file({name: tensor.numpy() for name, tensor in state.items()}, tmp_path / "a.safetensors")
    lines, taken = inspect(tmp_path / "a.safetensors")
    assert len(taken.arrays) == 120
    assert lines[1] == "layout    timm's"


def test_which(checkpoint, tmp_path, capsys):
    assert ours(["which", str(checkpoint)]) == 0
    said = capsys.readouterr()
    assert said.out == "fits      test_vit2, num_classes=5, in_chans=1, img_size=(96, 96)\n"
    assert "taken from 'state_dict_ema' (also there: 'state_dict')\n" in said.err
    save_file({"a": np.ones(2)}, tmp_path / "a.safetensors")
    assert ours(["which", str(tmp_path / "a.safetensors")]) == 1
    assert "no architecture of nfjax has arrays of these names" in capsys.readouterr().out
    assert ours(["which", str(tmp_path / "none.pth")]) == 2
    assert "no weights at" in capsys.readouterr().err


def test_files_without_weights_and_of_strangers(tmp_path, capsys):
    torch.save({"epoch": 3, "model": torch.nn.Linear(1, 1), "a\x1b[2J": 10**50}, tmp_path / "a.pth")
    assert main(["inspect", str(tmp_path / "a.pth")]) == 1
    said = capsys.readouterr().out
    assert "holds     epoch 3, model (torch.nn.modules.linear.Linear), a\\x1b[2J (a long number)\n" in said
    assert "entries that are not arrays: epoch (int), model (torch.nn.modules.linear.Linear)" in said
    torch.save({"w": torch.eye(2).to_sparse(), "v": torch.ones(2)}, tmp_path / "a.pth")
    assert main(["inspect", str(tmp_path / "a.pth")]) == 1
    assert "cannot be read: of layout torch.sparse_coo" in capsys.readouterr().out

"""Checkpoints that timm's own training writes, and Lightning's, whose structure is built here."""

import argparse
import functools

import numpy as np
import pytest
import torch

import nfjax
import port
from nfjax.parity import oracle


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file of timm's CheckpointSaver with a moving average, after a step; the raw and the averaged state dict."""
    timm = oracle.timm()
    from timm.optim import create_optimizer_v2
    from timm.utils import CheckpointSaver, ModelEmaV3, NativeScaler

    folder = tmp_path_factory.mktemp("timm")
    model = timm.create_model("test_nfnet", num_classes=7)
    average = ModelEmaV3(model, decay=0.5)
    optimizer = create_optimizer_v2(model, "nadamw", lr=0.1)
    model(torch.ones(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    average.update(model)
    args = argparse.Namespace(model="test_nfnet", lr=0.1, opt_betas=None, mean=(0.5, 0.5, 0.5))
    scaler = NativeScaler(device="cpu")
    saver = CheckpointSaver(
        model, optimizer, args, model_ema=average, amp_scaler=scaler, checkpoint_dir=folder, recovery_dir=folder
    )
    saver.save_checkpoint(3, metric=np.float64(0.5))
    return folder / "last.pth.tar", model.state_dict(), average.module.state_dict()


def assert_same(model, state):
    found = nfjax.state_dict(model)
    assert found.keys() == state.keys()
    assert all(array.tobytes() == state[name].numpy().tobytes() for name, array in found.items())


def test_of_timm(saved, caplog):
    path, raw, averaged = saved
    assert set(torch.load(path, weights_only=False)) >= {
        "epoch",
        "arch",
        "state_dict",
        "optimizer",
        "args",
        "state_dict_ema",
    }
    assert_same(nfjax.load("test_nfnet", path), averaged)
    assert caplog.messages[0] == f"{path}: taken from 'state_dict_ema' (also there: 'state_dict')."
    assert_same(nfjax.load(None, path), averaged)
    assert_same(nfjax.load("test_nfnet", path, weights_key="state_dict"), raw)
    assert any(not torch.equal(raw[name], averaged[name]) for name in raw)


class Schedule:
    """A class of the user's own."""


@pytest.mark.parametrize("zipped", [True, False])
def test_of_lightning(saved, zipped, tmp_path, caplog):
    raw = saved[1]
    content = {
        "epoch": 0,
        "global_step": 2,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {f"model.{name}": tensor for name, tensor in raw.items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_loop.batch_progress": {"total": {"ready": 2}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.ones(()), "dirpath": Schedule()}},
        "optimizer_states": [{"state": {0: {"step": torch.ones(()), "exp_avg": torch.ones(3)}}, "param_groups": []}],
        "lr_schedulers": [Schedule()],
        "hparams_name": "kwargs",
        "hyper_parameters": {"opt": functools.partial(torch.optim.SGD, momentum=0.9), "loss": torch.nn.Linear(2, 2)},
    }
    path = tmp_path / "epoch=0-step=2.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_same(nfjax.load(None, path), raw)
    assert f"{path}: taken from 'state_dict' without the prefix 'model.' of all names." in caplog.messages
    content["state_dict"]["criterion.weight"] = torch.ones(7)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(port.WeightsError, match=r"others do not \(1: criterion.weight\); weights_key='model' takes"):
        nfjax.load("test_nfnet", path)
    assert_same(nfjax.load("test_nfnet", path, weights_key="model"), raw)

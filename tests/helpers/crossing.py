"""Runs in timm and in nfjax on the same batches, and what crosses between them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch

import nfjax
from nfjax.parity import oracle
from nfjax.weights.saving import hub_config
from train import data
from train.checkpoints.manager import Checkpoints
from train.crossing.reading import resumed
from train.experiment import build
from train.machine.mesh import put_batch
from train.step import make_train_step
from train.to_timm import main
from train.verify.training import RECIPES

oracle.timm()

STEPS = 5  # of an epoch, with each framework
TOLERANCE = 1e-9
ROWS, SIZE = 2, 16  # images of a batch, and their side: unoptimised convolutions of float64 take their time
SMALL = {
    "test_nfnet": {"depths": (1,), "channels": (32,), "stem_chs": 32, "num_classes": 10},
    "test_vit2": {"depth": 1, "img_size": SIZE, "num_classes": 10},
}


class Ours:
    """A run of ours on the same batches, those of an epoch; its step is compiled once."""

    def __init__(self, config, start, options, batches):
        self.images = ROWS * len(batches)
        model = nfjax.load(config.model.name, weights=start, dtype=config.model.dtype, **options)
        images, labels = (np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
        epoch = data.ArraySource(images, labels, tuple(map(str, range(model.num_classes))))
        dataset = data.load_dataset(config.data, model.data_config, images=(epoch, epoch))
        self.experiment = build(config, model=model, dataset=dataset, devices=jax.devices()[:1])
        self.step = make_train_step(self.experiment)

    def resumed(self, path, **changes):
        """What continues a file of timm's, where `changes` replace sections of the config."""
        config = dataclasses.replace(self.experiment.config, **changes)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, resume_timm=str(path)))
        e = self.experiment
        return resumed(build(config, model=e.model, dataset=e.dataset, devices=jax.devices()[:1]))

    def train(self, state, batches):
        for batch in batches:
            state, _ = self.step(state, put_batch(self.experiment.mesh, batch))
        return state

    def to_timm(self, state, folder, status=0):
        """Through a checkpoint of a run and the command."""
        folder.mkdir()
        meta = {"data": {"images": self.images}, "model": hub_config(self.experiment.model)}
        config = self.experiment.config
        with Checkpoints(folder, config.checkpoint) as checkpoints:
            checkpoints.save(state, meta, {"top1": 0.5})
        (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
        file = folder / "crossed.pth.tar"
        assert main([str(folder), str(file)]) == status
        return file


def case(name):
    """The config, the model's options, its weights, and the batches of two epochs."""
    recipe = RECIPES[name]
    small = "test_nfnet" if name == "sgd" else "test_vit2"
    config = dataclasses.replace(
        recipe.config,
        epochs=2,
        model=dataclasses.replace(recipe.config.model, name=small, dtype="float64"),
        data=dataclasses.replace(recipe.config.data, image_size=SIZE, batch_size=ROWS),
    )
    return config, SMALL[small], random_state(small), batches(2 * STEPS)


def random_state(small):
    """Weights of a small model by timm name."""
    return oracle.random_state(oracle.shapes(small, **SMALL[small]))


def batches(count):
    rng = np.random.default_rng(0)
    return [
        {"image": rng.integers(0, 256, (ROWS, SIZE, SIZE, 3), np.uint8), "label": rng.integers(0, 10, ROWS)}
        for _ in range(count)
    ]


def difference(found, expected):
    """The largest difference of two checkpoints, relative to each array's largest number; what is no array is equal."""
    if isinstance(expected, torch.Tensor):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        return max(difference(found[key], expected[key]) for key in expected)
    assert found == expected
    return 0.0


def assert_same_run(file, expected):
    """The checkpoint of a run in two frameworks, and timm's own."""
    found = torch.load(file, weights_only=False)
    keys = [key for key in ("state_dict", "state_dict_ema", "optimizer") if key in expected]
    assert [key in found for key in keys] == [True] * len(keys)
    for key in ("state_dict", "state_dict_ema"):
        if key in expected:
            assert difference(found[key], expected[key]) <= TOLERANCE, key
    ours, theirs = found["optimizer"], expected["optimizer"]
    assert difference(dict(sorted(ours["state"].items())), dict(sorted(theirs["state"].items()))) <= TOLERANCE
    for mine, group in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        assert mine["params"] == group["params"]
        for key in ("lr", "initial_lr", "lr_scale", "weight_decay"):
            assert (key in mine) == (key in group), key
            assert mine.get(key, 0) == pytest.approx(group.get(key, 0), rel=TOLERANCE), key

"""Every recipe: it says what it is, and what it describes can be built and traced at its own size."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfjax.params import Normal
from train import data
from train.cli.flags import parse
from train.experiment import build
from train.step import make_train_step

CONFIGS = Path(__file__).parents[2] / "train" / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "__init__")
OF_OURS = {"digits", "folder", "multilabel"}
SMALL = ["batch_size=8", "name=noise", "val_split=none", "workers=0"]


@pytest.fixture
def noise(monkeypatch):
    """A data set with the classes of ImageNet; and no time for random weights, of which nothing is asked here."""
    monkeypatch.setattr(Normal, "__call__", lambda _, rng, shape: np.zeros(shape, np.float32))
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    source = data.ArraySource(images, np.arange(16), tuple(map(str, range(1000))))
    several = data.ArraySource(images, np.eye(16, 1000), source.class_names)

    def noise(config, _):
        return dict.fromkeys(("train", "test"), several if config.multi_label else source)

    monkeypatch.setitem(data.SOURCES, "noise", noise)


def test_there_are_recipes():
    published = {
        "eca_nfnet_l0",
        "eca_nfnet_l1",
        "eca_nfnet_l2",
        "nfnet_l0",
        "dm_nfnet_f0",
        "vit_sbb",
        "vit_sbb_finetune",
    }
    assert set(RECIPES) == published | OF_OURS


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_what_a_reader_needs(name):
    lines = (ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text())) or "").splitlines()
    assert lines[2].split()[:3] == ["nfjax", "train", f"--config={name}"]
    text = "\n".join(lines)
    assert "Measured here: " in text
    assert ("Published" in text) == (name not in OF_OURS)
    assert "ardware" in text


def experiment_of(name):
    options = [f"--config.data.{option}" for option in SMALL if name != "digits"]
    config, _, _ = parse(["main", f"--config={name}", "--config.model.weights=none", *options])
    return build(config)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_built(name, noise):
    experiment = experiment_of(name)
    if name not in OF_OURS:
        assert experiment.config.data.image_size is None
        assert experiment.dataset.train.shape == (*experiment.model.data_config.input_size[1:], 3)


# The deep ones take as long as all others, and their blocks are those of eca_nfnet_l0 and test_nfnet.
DEEP = {"eca_nfnet_l1", "eca_nfnet_l2", "dm_nfnet_f0", "nfnet_l0"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in RECIPES])
def test_a_recipe_can_be_traced(name, noise):
    experiment = experiment_of(name)
    size, shape = experiment.config.data.batch_size, experiment.dataset.train.shape
    batch = {
        "image": jax.ShapeDtypeStruct((size, *shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((size, 1000) if experiment.several else (size,), jnp.int8),
    }
    state, metrics = jax.eval_shape(make_train_step(experiment), experiment.state_shapes, batch)
    assert metrics["loss"].shape == ()
    assert {path: array.shape for path, array in state.params.items()} == {
        path: array.shape for path, array in experiment.params.items()
    }

"""`nfjax.load(None, weights)`: the architecture that weights are of, by names and shapes alone."""

import dataclasses
import re
import time

import numpy as np
import pytest

import nfjax
from nfjax.models import registry
from nfjax.models.registry import MODELS
from nfjax.params import named_params
from nfjax.weights.which import Fit, fitting, nearest
from port import WeightsError, timm_shapes


class Shape:
    """An array of which only the shape is known."""

    dtype = np.dtype("float32")

    def __init__(self, shape):
        self.shape, self.ndim = shape, len(shape)

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("it is not needed")


def shapes(name, **options):
    own = {path: var.get_value().shape for path, var in named_params(MODELS[name].build(**options)).items()}
    return {name: Shape(shape) for name, shape in timm_shapes(own).items()}


ALL = [name for name in MODELS if name[-1] not in "34567" or "vit" in name]  # without the deepest, which take long


@pytest.mark.parametrize("name", sorted({*ALL[::7], "test_nfnet", "test_vit2", "dm_nfnet_f0"}))
def test_every_model_is_known_by_its_weights(name):
    started = time.process_time()
    fits = fitting(shapes(name, num_classes=7, in_chans=4))
    assert fits[0].name == name
    assert {"num_classes": 7, "in_chans": 4}.items() <= fits[0].options.items()
    assert all(MODELS[fit.name].config == MODELS[name].config for fit in fits)
    assert time.process_time() - started < 30


def test_the_size_of_images_decides_between_equal_networks():
    data = dataclasses.replace(nfjax.data_config("vit_tiny_patch16_384"), num_classes=1000)
    found = fitting(shapes("vit_tiny_patch16_384", data_config=data))
    assert list(map(str, found)) == ["vit_tiny_patch16_384", "vit_tiny_patch16_224, img_size=(384, 384)"]
    assert str(Fit("test_nfnet", {"num_classes": 3, "in_chans": 3})) == "test_nfnet, num_classes=3"


def test_loading_without_a_name(tmp_path, caplog):
    model = nfjax.load("test_nfnet", None, num_classes=7, seed=3)
    folder = nfjax.save(model, tmp_path / "saved")
    state = nfjax.state_dict(model)
    for weights in (state, folder / "model.safetensors", str(folder), {"state_dict": state}):
        found = nfjax.load(None, weights)
        assert (found.name, found.num_classes) == (model.name, 7)
        assert all(np.array_equal(a, state[k]) for k, a in nfjax.state_dict(found).items())
    assert "loaded as test_nfnet, num_classes=7." in caplog.text
    assert f"Its config.json is passed over; nfjax.load('{folder}') follows it." in caplog.text
    assert nfjax.load(None, state, num_classes=3).num_classes == 3
    headless = {k: a for k, a in state.items() if not k.startswith("head.fc")}
    assert nfjax.load(None, weights=headless).num_classes == 0
    for weights in ("pretrained", None, 5):
        with pytest.raises(ValueError, match="no name was given: then the weights say which model it is"):
            nfjax.load(None, weights)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        nfjax.load(None, tmp_path / "nothing.pth")


def test_the_nearest_one_is_told():
    state = nfjax.state_dict(nfjax.load("test_nfnet", None))
    del state["head.fc.bias"]
    state["more"] = np.ones(3)
    state["final_conv.bias"] = np.ones(3)
    message = "The nearest is test_nfnet, with 1 arrays missing, 1 unexpected and 1 of another shape."
    with pytest.raises(WeightsError, match=message):
        nfjax.load(None, state)
    kept = re.compile(r"(?!blocks\.([4-9]|1.)\.)")
    cut = {name: array for name, array in shapes("vit_tiny_patch16_224").items() if kept.match(name)}
    assert "vit_tiny_patch16_224, with 96 arrays missing, 0 unexpected" in nearest(cut)
    with pytest.raises(WeightsError, match="no architecture of nfjax has arrays of these names"):
        nfjax.load(None, {"a": np.ones(3)})
    with pytest.raises(WeightsError, match=r"some names begin with 'model\.'"):
        nfjax.load(None, {"model.a": np.ones(3), "b": np.ones(3)})


def test_several_functions_of_the_same_parameters(monkeypatch):
    entry = MODELS["test_nfnet"]
    other = dataclasses.replace(entry, config=dataclasses.replace(entry.config, alpha=0.3))
    monkeypatch.setitem(registry.MODELS, "other_nfnet", other)
    state = nfjax.state_dict(nfjax.load("test_nfnet", None))
    with pytest.raises(WeightsError, match="fits test_nfnet, other_nfnet, which have the same parameters and compute"):
        nfjax.load(None, state)

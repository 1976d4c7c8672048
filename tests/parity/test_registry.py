"""Names, shapes, configs and bookkeeping of every model, against timm's own."""

import dataclasses

import numpy as np
import pytest
import torch

import nfjax
import port
from nfjax.nfnet import block_cfgs
from nfjax.params import named_params
from nfjax.parity import oracle
from nfjax.registry import MODELS

timm = oracle.timm()
NAMES = nfjax.list_models()


def shapes_of(model):
    return port.timm_shapes({path: var.get_value().shape for path, var in named_params(model).items()})


def test_the_names_are_timms():
    from timm.models import nfnet

    assert sorted(NAMES) == sorted(nfnet.model_cfgs)
    assert len(NAMES) == 36
    published = timm.list_models(module="nfnet", pretrained=True)
    assert sorted(nfjax.list_models(pretrained=True)) == sorted(published)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_features_and_bookkeeping(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, drop_path_rate=0.2)
    entry = MODELS[name]
    ours = entry.family(entry.config, drop_path_rate=0.2)  # shapes only: nothing is allocated
    assert shapes_of(ours) == {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    assert ours.num_features == theirs.num_features
    assert ours.head_hidden_size == theirs.head_hidden_size
    for tap, info in zip(ours.feature_info, theirs.feature_info, strict=True):
        assert (tap.num_chs, tap.reduction, tap.module) == (info["num_chs"], info["reduction"], info["module"])

    for stage, blocks in zip(theirs.stages, block_cfgs(entry.config, 32, 0.2), strict=True):
        for block, cfg in zip(stage, blocks, strict=True):
            assert block.beta == pytest.approx(cfg.beta, rel=1e-12)
            assert getattr(block.drop_path, "drop_prob", 0.0) == pytest.approx(cfg.drop_path_rate, abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_data_config(name):
    theirs = timm.models.get_pretrained_cfg(name)
    ours = nfjax.data_config(name)
    for field in dataclasses.fields(ours):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        assert mine == (other or "" if field.name == "tag" else other), field.name


@pytest.mark.parametrize("name", ["eca_nfnet_l0", "nf_seresnet26", "dm_nfnet_f0", "nf_regnet_b1"])
def test_initialisation_has_timms_moments(name):
    """Every tensor of a fresh model is constant where timm's is, and has its standard deviation elsewhere."""
    torch.manual_seed(0)
    theirs = oracle.build(name).state_dict()
    ours = nfjax.state_dict(nfjax.load(name, weights=None, seed=3))
    for key, tensor in theirs.items():
        reference = tensor.numpy()
        if np.ptp(reference) == 0:
            np.testing.assert_array_equal(ours[key], reference)
        else:
            tolerance = 5 / np.sqrt(reference.size)
            assert ours[key].std() == pytest.approx(reference.std(), rel=tolerance + 0.3 * (reference.size < 10)), key
            assert abs(ours[key].mean()) <= 6 * reference.std() / np.sqrt(reference.size), key

"""Names, shapes, configs and bookkeeping of every model, against timm's own."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from flax import nnx

import nfjax
import port
from nfjax.models.nfnet import block_cfgs
from nfjax.models.registry import MODELS
from nfjax.models.vit import VisionTransformer
from nfjax.nn.attention import Differential
from nfjax.params import named_params
from nfjax.parity import oracle
from train.crossing.order import torch_order

timm = oracle.timm()
NAMES = nfjax.list_models()


def shapes_of(model):
    return port.timm_shapes({path: var.get_value().shape for path, var in named_params(model).items()})


# The transformers that the library has, as timm patterns.
VITS = [
    "vit_*_reg*_gap_*",
    "vit_*patch14_reg4_dinov2*",
    "vit_*reg*_tipsv2*",
    "vit_so150m*reg*",
    "vit_*_dinov3*",
    "vit_*_lingbot",
    "vit_*_sapiens2",
    "vit_*_radio_v*",
    "naflexvit_*_gap",
    "naflexvit_*_map",
    "naflexvit_*_radio_v*",
    "test_vit[234]",
    "vit_tiny_patch16_[23]?4",
    "vit_small_patch16_[23]?4",
    "vit_base_patch16_[23]?4",
]


def test_the_names_are_timms():
    from timm.models import nfnet

    vits = {name for pattern in VITS for name in timm.list_models(pattern)}
    assert sorted(NAMES) == sorted([*nfnet.model_cfgs, *vits])
    assert (len(nfnet.model_cfgs), len(vits)) == (36, 81)
    published = [tagged for tagged in timm.list_pretrained() if tagged.split(".")[0] in NAMES]
    assert sorted(nfjax.list_models(pretrained=True)) == sorted(published)


@pytest.mark.slow
def test_every_model_with_registers():
    """Whatever timm's modules call them, as long as it is one of these words."""
    words = re.compile("reg_token|register|storage_token")
    files = [file for file in Path(timm.models.__file__).parent.glob("[a-z]*.py") if words.search(file.read_text())]
    found = set()
    for name in (name for file in files for name in timm.list_models(module=file.stem)):
        parameters = oracle.shapes(name).state_dict()
        if any(words.search(parameter) for parameter in parameters):
            found.add(name)
    assert len(found) == 75
    assert found - set(NAMES) == set()


@pytest.mark.parametrize("name", NAMES)
def test_parameters_features_and_bookkeeping(name):
    theirs = oracle.shapes(name, drop_path_rate=0.2)
    entry = MODELS[name]
    ours = entry.build(drop_path_rate=0.2)  # shapes only: nothing is allocated
    assert shapes_of(ours) == {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    params = named_params(ours)
    order = port.timm_shapes({path: params[path].get_value().shape for path in torch_order(ours)})
    assert list(order) == [name for name, _ in theirs.named_parameters()]
    assert ours.num_features == theirs.num_features
    assert ours.head_hidden_size == theirs.head_hidden_size
    for tap, info in zip(ours.feature_info, theirs.feature_info, strict=True):
        assert (tap.num_chs, tap.reduction, tap.module) == (info["num_chs"], info["reduction"], info["module"])

    if isinstance(ours, VisionTransformer):
        assert (ours.num_prefix_tokens, ours.global_pool) == (theirs.num_prefix_tokens, theirs.global_pool)
        for mine, block in zip(ours.blocks, theirs.blocks, strict=True):
            rates = [layer.drop_prob for layer in block.modules() if type(layer).__name__ == "DropPath"]
            assert mine.drop_path_rate == pytest.approx(max(rates, default=0.0), abs=1e-7)
            scale = [m.lambda_init for m in block.modules() if hasattr(m, "lambda_init")]
            assert scale == [m.lambda_init for _, m in nnx.iter_graph(mine) if isinstance(m, Differential)]
        return
    for stage, blocks in zip(theirs.stages, block_cfgs(entry.config, 32, 0.2), strict=True):
        for block, cfg in zip(stage, blocks, strict=True):
            assert block.beta == pytest.approx(cfg.beta, rel=1e-12)
            assert getattr(block.drop_path, "drop_prob", 0.0) == pytest.approx(cfg.drop_path_rate, abs=1e-7)


@pytest.mark.parametrize("name", [*NAMES, *nfjax.list_models(pretrained=True)])
def test_data_config(name):
    theirs = timm.models.get_pretrained_cfg(name)
    ours = nfjax.data_config(name)
    assert ours.problem_type is None  # the one field that timm's has not
    for field in dataclasses.fields(ours):
        if field.name == "problem_type":
            continue
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        assert mine == (other or "" if field.name == "tag" else other), field.name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("eca_nfnet_l0", {}),
        ("nf_seresnet26", {}),
        ("dm_nfnet_f0", {}),
        ("nf_regnet_b1", {}),
        ("test_vit2", {}),
        ("test_vit3", {}),
        ("vit_dwee_patch16_reg1_gap_256", {"depth": 2}),
        ("vit_dpwee_patch16_reg1_gap_256", {"depth": 2}),
        ("vit_medium_patch16_rope_reg1_gap_256", {"depth": 3}),
        ("vit_giant_patch14_reg1_tipsv2", {"depth": 1}),
        ("naflexvit_base_patch16_map", {"depth": 2, "embed_dim": 192, "num_heads": 3}),
    ],
    ids=str,
)
def test_initialisation_has_timms_moments(name, options):
    """Every tensor of a fresh model equals timm's where that is not drawn, and has its moments elsewhere."""
    torch.manual_seed(0)
    theirs = oracle.build(name, **options).state_dict()
    ours = nfjax.state_dict(nfjax.load(name, weights=None, seed=3, **options))
    for key, tensor in theirs.items():
        reference = tensor.numpy()
        if len(np.unique(reference)) <= 2:  # set, not drawn
            np.testing.assert_array_equal(ours[key], reference)
        else:
            tolerance = 5 / np.sqrt(reference.size)
            assert ours[key].std() == pytest.approx(reference.std(), rel=tolerance + 0.3 * (reference.size < 10)), key
            assert abs(ours[key].mean() - reference.mean()) <= 8 * reference.std() / np.sqrt(reference.size), key

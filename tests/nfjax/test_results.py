"""Published accuracies, and what a model costs, against timm's own tables."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfjax
from nfjax.models.registry import MODELS, find
from nfjax.profile import profile
from nfjax.results import counts, published, sizes

# name: (image size, crop_pct, top-1, top-5), ...; copied by hand from timm's results-imagenet.csv
ACCURACIES = {
    "eca_nfnet_l0.ra2_in1k": [(224, 0.9, 81.762, 95.994), (288, 1.0, 82.590, 96.486)],
    "nfnet_l0.ra2_in1k": [(224, 0.9, 81.870, 96.034), (288, 1.0, 82.766, 96.494)],
    "eca_nfnet_l1.ra2_in1k": [(256, 0.9, 83.264, 96.684), (320, 1.0, 84.062, 97.026)],
    "eca_nfnet_l2.ra3_in1k": [(320, 0.9, 84.170, 97.016), (384, 1.0, 84.710, 97.256)],
    "dm_nfnet_f0.dm_in1k": [(192, 0.9, 81.436, 95.672), (256, 0.9, 83.468, 96.570)],
    "test_nfnet.r160_in1k": [(160, 0.95, 47.634, 72.880)],
    "vit_wee_patch16_reg1_gap_256.sbb_in1k": [(256, 0.95, 80.262, 95.360)],
    "vit_pwee_patch16_reg1_gap_256.sbb_in1k": [(256, 0.95, 80.082, 95.138)],
    "vit_little_patch16_reg4_gap_256.sbb_in1k": [(256, 0.95, 82.520, 96.258)],
    "vit_medium_patch16_reg1_gap_256.sbb_in1k": [(256, 0.95, 83.462, 96.548)],
    "vit_medium_patch16_reg4_gap_256.sbb_in1k": [(256, 0.95, 83.466, 96.622)],
    "vit_betwixt_patch16_reg1_gap_256.sbb_in1k": [(256, 0.95, 83.652, 96.546)],
    "vit_betwixt_patch16_reg4_gap_256.sbb_in1k": [(256, 0.95, 83.710, 96.616)],
    "vit_medium_patch16_rope_reg1_gap_256.sbb_in1k": [(256, 0.95, 83.810, 96.824)],
    "vit_mediumd_patch16_rope_reg1_gap_256.sbb_in1k": [(256, 0.95, 84.316, 96.810)],
    "vit_betwixt_patch16_rope_reg4_gap_256.sbb_in1k": [(256, 0.95, 83.906, 96.678)],
    "vit_base_patch16_rope_reg1_gap_256.sbb_in1k": [(256, 0.95, 83.872, 96.676)],
    "vit_little_patch16_reg1_gap_256.sbb_in12k_ft_in1k": [(256, 0.95, 83.800, 96.972)],
    "vit_medium_patch16_reg4_gap_256.sbb_in12k_ft_in1k": [(256, 0.95, 84.956, 97.384)],
    "vit_betwixt_patch16_reg4_gap_256.sbb_in12k_ft_in1k": [(256, 0.95, 85.426, 97.478)],
    "vit_betwixt_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k": [(256, 0.95, 85.734, 97.610)],
    "vit_mediumd_patch16_reg4_gap_256.sbb_in12k_ft_in1k": [(256, 0.95, 86.198, 97.888)],
    "vit_mediumd_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k": [(256, 0.95, 86.608, 97.934)],
    "vit_so150m_patch16_reg4_gap_256.sbb_e250_in12k_ft_in1k": [(256, 0.95, 86.720, 98.024)],
    "vit_so150m2_patch16_reg1_gap_256.sbb_e200_in12k_ft_in1k": [(256, 1.0, 87.318, 98.328)],
    "vit_betwixt_patch16_reg4_gap_384.sbb2_e200_in12k_ft_in1k": [(384, 1.0, 86.618, 98.010)],
    "vit_mediumd_patch16_reg4_gap_384.sbb2_e200_in12k_ft_in1k": [(384, 1.0, 87.438, 98.256)],
    "vit_so150m_patch16_reg4_gap_384.sbb_e250_in12k_ft_in1k": [(384, 1.0, 87.370, 98.314)],
    "vit_so150m2_patch16_reg1_gap_384.sbb_e200_in12k_ft_in1k": [(384, 1.0, 87.932, 98.500)],
    "vit_so150m2_patch16_reg1_gap_448.sbb_e200_in12k_ft_in1k": [(448, 1.0, 88.074, 98.558)],
}

# timm's counts: {(architecture, image size): (gmacs, macts, million parameters)}
with (Path(__file__).parent / "timm_costs.csv").open() as file:
    rows = csv.DictReader(line for line in file if not line.startswith("#"))
    COSTS = {
        (r["model"], int(r["img_size"])): (float(r["gmacs"]), float(r["macts"]), float(r["param_count"])) for r in rows
    }
ROUNDING = 0.0055  # timm gives two decimals; pooling, which fvcore counts too, is below the third


@pytest.mark.parametrize("name", ACCURACIES)
def test_accuracies_are_timms(name):
    assert [(r.img_size, r.crop_pct, r.top1, r.top5) for r in published(name)] == ACCURACIES[name]


def test_accuracies_belong_to_the_data_configs():
    """At the training or the test size, with the crop that goes with it, for weights of 1000 classes."""
    found = 0
    for name in nfjax.list_models(pretrained=True):
        data = nfjax.data_config(name)
        crops = {data.input_size[1]: data.crop_pct}
        if data.test_input_size:
            crops[data.test_input_size[1]] = data.test_crop_pct or data.crop_pct
        for row in published(name):
            assert crops[row.img_size] == row.crop_pct, name
            assert row.interpolation == data.interpolation
            assert data.num_classes == 1000
            assert 40 < row.top1 < row.real_top1 < row.real_top5 < 100
            assert row.top1 < row.top5 < row.real_top5
            found += 1
    assert found == 70


def test_an_architecture_has_the_results_of_its_default_tag():
    assert published("eca_nfnet_l0") == published("eca_nfnet_l0.ra2_in1k")
    assert published("eca_nfnet_l3") == ()  # no weights
    assert published("vit_small_patch14_reg4_dinov2.lvd142m") == ()  # no classifier
    with pytest.raises(nfjax.UnknownModelError, match="did you mean"):
        published("eca_nfnet_l9")


def test_every_data_config_has_counts():
    for entry in MODELS.values():
        for data in entry.data:
            assert [row.img_size for row in counts(data)] == sizes(data)


@pytest.mark.parametrize(("name", "size"), COSTS)
def test_the_packaged_counts_agree_with_timms(name, size):
    gmacs, macts, params = COSTS[name, size]
    (row,) = (row for row in counts(find(name)[1]) if row.img_size == (size, size))
    assert abs(row.params / 1e6 - params) < ROUNDING
    assert abs(row.activations / 1e6 - macts) < ROUNDING
    # fvcore adds five for each standardised weight and each normalised element (exactly so in the next test).
    assert row.macs / 1e9 - ROUNDING < gmacs < (1.005 * row.macs + 5 * row.params) / 1e9 + ROUNDING


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("eca_nfnet_l0", 288),
        ("dm_nfnet_f0", 192),  # squeeze and excitation
        ("nf_regnet_b1", 288),  # many groups
        ("nf_resnet26", 224),
        ("test_nfnet", 160),
        ("vit_medium_patch16_reg4_gap_256", 256),
        ("vit_pwee_patch16_reg1_gap_256", 256),  # parallel
        ("vit_dwee_patch16_reg1_gap_256", 256),  # differential
        ("vit_dpwee_patch16_reg1_gap_256", 256),
        ("vit_medium_patch16_rope_reg1_gap_256", 256),
        ("vit_so150m_patch16_reg4_map_256", 256),  # attention pooling
        ("vit_small_patch14_reg4_dinov2", 518),
        ("test_vit4", 160),  # RMSNorm, which fvcore does not count
    ],
)
def test_counts_are_timms_to_the_last_digit(name, size):
    gmacs, macts, params = COSTS[name, size]
    found = profile(name, size)
    elementwise = 0
    for layer in found.layers:
        if layer.kind == "ScaledStdConv":
            elementwise += 5 * int(np.prod(layer.params["kernel"]))
        elif layer.kind == "LayerNorm":
            elementwise += 5 * int(np.prod(layer.output_shape))
    assert abs((found.macs + elementwise) / 1e9 - gmacs) < ROUNDING
    assert abs(found.activations / 1e6 - macts) < ROUNDING
    assert abs(found.params / 1e6 - params) < ROUNDING
    (row,) = (row for row in counts(find(name)[1]) if row.img_size == (size, size))
    assert (row.params, row.macs, row.activations) == (found.params, found.macs, found.activations)


@pytest.mark.slow
def test_the_packaged_counts_are_those_of_the_code():
    """Where this fails: `python -m nfjax.profile > nfjax/data/counts.csv`."""
    for entry in MODELS.values():
        for data in entry.data:
            for row in counts(data):
                found = profile(data.name, row.img_size)
                assert (row.params, row.macs, row.activations) == (found.params, found.macs, found.activations), (
                    data.name
                )


def test_layers_by_hand():
    """A 3x3 convolution of a 160-pixel image to 80x80x16, and one block's attention over 101 tokens of 64."""
    layers = {layer.path: layer for layer in profile("test_nfnet").layers}
    conv = layers["stem.conv1"]
    assert conv.params == {
        "kernel": (3, 3, 3, conv.output_shape[-1]),
        "bias": conv.output_shape[-1:],
        "gain": conv.output_shape[-1:],
    }
    assert conv.output_shape[:2] == (80, 80)
    assert conv.macs == 80 * 80 * conv.output_shape[-1] * 27
    assert conv.activations == 80 * 80 * conv.output_shape[-1]

    layers = {layer.path: layer for layer in profile("test_vit2").layers}
    attention = layers["blocks.0.attn"]
    assert attention.params == {}
    assert attention.macs == 2 * 101 * 101 * 64
    assert attention.activations == 2 * 101 * 101 + 101 * 64  # the maps of two heads, and their products
    assert layers["blocks.0.attn.qkv"].macs == 101 * 64 * 192
    assert layers[""].params["pos_embed"] == (1, 101, 64)


def test_a_model_can_be_profiled_as_it_is():
    """With values, another size, half precision, recomputation; it is left as it was."""
    model = nfjax.load("test_nfnet", weights=None, num_classes=7, in_chans=1, dtype=jnp.bfloat16)
    model.set_grad_checkpointing()
    before = jax.tree.structure(nfjax.params.split(model))
    found = profile(model, (64, 96))
    assert found.img_size == (64, 96)
    assert found.params == sum(array.size for array in nfjax.state_dict(model).values())
    head = found.layers[-1]
    assert (head.path, head.output_shape, head.macs) == ("head.fc", (7,), 7 * model.num_features)
    assert jax.tree.structure(nfjax.params.split(model)) == before
    assert model.dtype == jnp.bfloat16
    assert model.grad_checkpointing
    assert profile(nfjax.fold(model), (64, 96)).macs == found.macs

    maps = nfjax.load("test_nfnet", weights=None, features_only=True, out_indices=[1])
    assert 0 < profile(maps).macs < found.macs * 160 * 160 / (64 * 96)

    vit = nfjax.load("test_vit2", weights=None)  # resamples its position embedding
    assert profile(vit, 96).macs == profile("test_vit2", 96).macs
    assert profile(vit, 96).params - 64 * 64 == profile("test_vit2", 96).params  # 100 and 36 patches
    with pytest.raises(ValueError, match="was loaded for 256x256"):
        profile(nfjax.load("vit_wee_patch16_reg1_gap_256", weights=None, depth=1), 96)

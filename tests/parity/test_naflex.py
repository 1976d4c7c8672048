"""Transformers for images of any size: patches of several images in a batch, and what makes them, against timm's."""

import numpy as np
import pytest
import torch
from PIL import Image

import nfjax
from nfjax import naflex
from nfjax.nn.pos_embed import interpolation_weights
from nfjax.parity import oracle
from nfjax.parity.verify import relative
from tests.helpers.both import double

timm = oracle.timm()
SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 5}
SIZES = (48, 96), (64, 32), (16, 16), (80, 64)
TABLE = {"pos_embed_grid_size": (4, 6)}
CASES = [
    ("naflexvit_base_patch16_gap", {}),
    ("naflexvit_base_patch16_parfac_gap", {"global_pool": "avgmax", "pool_include_prefix": True}),
    ("naflexvit_base_patch16_map", {"pool_include_prefix": True}),
    pytest.param("naflexvit_base_patch16_par_gap", {"global_pool": "max"} | TABLE, marks=pytest.mark.slow),
    pytest.param("naflexvit_base_patch16_map", {"pos_embed": "none"}, marks=pytest.mark.slow),
    pytest.param("naflexvit_base_patch16_radio_v3", {"num_classes": 0} | TABLE, marks=pytest.mark.slow),
    pytest.param("naflexvit_large_patch16_radio_v3", {"num_classes": 0} | TABLE, marks=pytest.mark.slow),
    pytest.param("naflexvit_base_patch16_gap", {"pos_embed_antialias": False}, marks=pytest.mark.slow),
]


def in_torch(batch):
    return {
        name: torch.from_numpy(array.astype("int64") if array.dtype == "int32" else array)
        for name, array in batch.items()
    }


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_dictionary_of_patches(name, options, x64):
    """Tokens, those of the padding too, and logits."""
    options = SMALL | options
    state = double(oracle.random_state(oracle.shapes(name, **options)))
    theirs, ours = oracle.build(name, state, "float64", **options), nfjax.load(name, state, dtype="float64", **options)
    rng = np.random.default_rng(0)
    batch = naflex.patch_batch([rng.standard_normal((*size, 3)) for size in SIZES], 16, max_seq_len=22)
    given = in_torch(batch)
    with torch.inference_mode(), oracle._unrounded():
        tokens = theirs.forward_features(**given)["patches"].numpy()
        logits = theirs(given).numpy()
    features = ours.forward_features(batch)
    assert relative(features["patches"], tokens) <= 1e-12
    assert relative(ours.forward_head(features), logits) <= 1e-12


@pytest.mark.parametrize(
    ("plain", "name", "options"),
    [
        ("vit_base_patch16_radio_v3", "naflexvit_base_patch16_radio_v3", {"num_classes": 0}),
        ("vit_so150m2_patch16_reg1_gap_256", "naflexvit_so150m2_patch16_reg1_gap", {"num_classes": 5}),
    ],
)
def test_weights_of_a_plain_transformer(plain, name, options):
    """Without and with entries of the position embedding for the tokens before the patches."""
    from timm.models.naflexvit import checkpoint_filter_fn

    options = {"depth": 1, "embed_dim": 32, "num_heads": 2} | options
    state = oracle.random_state(oracle.shapes(plain, **options, img_size=64))
    theirs = oracle.build(name, **options, pos_embed_grid_size=(4, 4))
    expected = checkpoint_filter_fn({key: torch.from_numpy(a.copy()) for key, a in state.items()}, theirs)
    found = nfjax.state_dict(nfjax.load(name, state, **options))
    assert found.keys() == expected.keys() == theirs.state_dict().keys()
    for key, array in found.items():
        np.testing.assert_array_equal(array, expected[key].numpy())


@pytest.mark.parametrize("sizes", [((37, 200), (300, 111)), ((16, 16), (1, 900))], ids=str)
def test_images_become_timms_patches(sizes):
    from timm.data import create_transform
    from timm.data.naflex_dataset import NaFlexCollator

    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]
    data = nfjax.data_config("naflexvit_base_patch16_radio_v3")
    theirs = create_transform(
        data.input_size, naflex=True, patchify=True, patch_size=16, max_seq_len=50, mean=data.mean, std=data.std,
        interpolation="bicubic",
    )  # fmt: skip
    expected, _ = NaFlexCollator(50)([(theirs(image), 0) for image in images])
    found = naflex.create_transform("naflexvit_base_patch16_radio_v3", max_seq_len=50).batch(images)
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name].numpy())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("align_corners", [True, False])
def test_every_interpolation_is_torchs(mode, antialias, align_corners, x64):
    options = {"mode": mode, "antialias": antialias, "align_corners": align_corners}
    table = np.random.default_rng(0).standard_normal((16, 13, 5))
    channels_first = torch.from_numpy(table).permute(2, 0, 1)[None]  # timm's strides; torch errs with others
    for grid in ((7, 20), (24, 5), (1, 1)):
        expected = torch.nn.functional.interpolate(channels_first, size=grid, **options)[0].permute(1, 2, 0).numpy()
        rows, columns = (
            np.asarray(interpolation_weights(np.arange(new), new, old, dtype="float64", **options))
            for new, old in zip(grid, (16, 13), strict=True)
        )
        assert relative(np.einsum("Rr,rcd,Cc->RCd", rows, table, columns), expected) <= 1e-12

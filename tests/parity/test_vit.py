"""Transformers: what `port verify` does not compare with timm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import nfjax
from nfjax.nn.pos_embed import (
    centred_positions,
    move_positions,
    resample_abs_pos_embed,
    rotary_table,
    scaled_positions,
)
from nfjax.parity import oracle
from nfjax.parity.verify import relative
from tests.helpers.both import double, images, logits, nchw, torch_logits

timm = oracle.timm()
SIZE = (64, 96)


def pair(name, dtype="float32", **options):
    """The same random weights in both libraries."""
    state = oracle.random_state(oracle.shapes(name, **options))
    state = double(state) if dtype == "float64" else state
    return oracle.build(name, state, **options), nfjax.load(name, weights=state, dtype=dtype, **options)


@pytest.mark.parametrize("grid", [(24, 24), (14, 14), (12, 31), (16, 17), (3, 40)], ids=str)
@pytest.mark.parametrize("prefix", [0, 5])
def test_position_embedding_is_resampled_like_timms(grid, prefix):
    from timm.layers import resample_abs_pos_embed as theirs

    pos_embed = np.random.default_rng(0).standard_normal((1, 16 * 16 + prefix, 32)).astype("float32")
    expected = theirs(torch.from_numpy(pos_embed), list(grid), [16, 16], prefix).numpy()
    ours = resample_abs_pos_embed(pos_embed, grid, (16, 16), prefix)
    assert relative(ours, expected) <= 1e-6
    np.testing.assert_array_equal(ours[:, :prefix], pos_embed[:, :prefix])


@pytest.mark.parametrize(
    ("name", "img_size"),
    [
        ("vit_medium_patch16_reg4_gap_256", 384),
        ("vit_medium_patch16_reg4_gap_256", (224, 320)),
        ("vit_so150m2_patch16_reg1_gap_256", 224),
        ("vit_medium_patch16_rope_reg1_gap_256", (384, 320)),
        ("vit_base_patch16_radio_v3", (64, 96)),  # bilinear, corners on corners
        ("vit_large_patch16_radio_v3", (64, 96)),  # bilinear
    ],
    ids=str,
)
def test_another_image_size(name, img_size, tmp_path):
    """timm's own loading resamples the weights of a file; ours gets the same file."""
    state = oracle.random_state(oracle.shapes(name, depth=2))
    nfjax.save(nfjax.load(name, weights=state, depth=2), tmp_path)
    file = tmp_path / "model.safetensors"
    theirs = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, img_size=img_size, depth=2
    )
    ours = nfjax.load(name, weights=file, img_size=img_size, depth=2)
    if ours.pos_embed is not None:
        assert relative(ours.pos_embed[...], theirs.pos_embed.detach().numpy()) <= 1e-6
    x = images(ours.data_config.input_size[1:], dtype="float32")
    assert relative(logits(ours, x), torch_logits(theirs, x)) <= 1e-5


@pytest.mark.parametrize("name", ["test_vit3", "test_vit2", "vit_medium_patch16_rope_reg1_gap_256"])
def test_dynamic_image_size(name):
    """Any multiple of the patch, the position embedding resampled in the call."""
    state = oracle.random_state(oracle.shapes(name, depth=2))
    theirs = oracle.build(name, state, dynamic_img_size=True, depth=2)
    ours = nfjax.load(name, weights=state, dynamic_img_size=True, depth=2)
    for size in ((96, 128), (160, 160)):
        x = images(size, dtype="float32")
        assert relative(logits(ours, x), torch_logits(theirs, x)) <= 1e-5


@pytest.mark.parametrize("pool", ["", "avg", "max", "avgmax", "token"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_medium_patch16_rope_reg1_gap_256"])
def test_global_pool(name, pool, x64):
    options = {"global_pool": pool, "img_size": SIZE, "depth": 2, "class_token": True}
    theirs, ours = pair(name, "float64", **options)
    theirs = theirs.double()
    if pool:
        assert (ours.fc_norm is not None) == (not isinstance(theirs.fc_norm, torch.nn.Identity))
    x = images(SIZE)
    if theirs.__class__.__name__ == "Eva":
        oracle.replace_rope_table(theirs, ours.rope_table(ours.grid_size))
    assert relative(logits(ours, x), torch_logits(theirs, x)) <= 1e-12


def test_norm_stays_where_the_weights_have_it():
    """Other pools than the published one keep the published norm, so that the published weights fit."""
    state = nfjax.state_dict(nfjax.load("test_vit2", weights=None))
    ours = nfjax.load("test_vit2", weights=state, global_pool="")
    assert ours.fc_norm is not None
    theirs = oracle.build("test_vit2", state, global_pool="", fc_norm=True)
    x = images((160, 160), dtype="float32")
    assert relative(logits(ours, x), torch_logits(theirs, x)) <= 1e-5


def test_positions_that_move_in_training_are_timms(x64):
    """With timm's random numbers, its table; drawn here, each within its range, another one for each key."""
    name, moves = "vit_tiny_patch16_dinov3_qkvb", {"rope_shift_coords": 0.3, "rope_jitter_coords": 1.5}
    moves |= {"rope_rescale_coords": 2.0}
    theirs = timm.create_model(name, depth=1, **moves).train()
    ours = nfjax.load(name, None, depth=1, dtype="float64", init_values=1.0, **moves)
    torch.manual_seed(0)
    expected = np.stack(np.split(theirs.rope.get_embed([3, 5]).numpy(), 2, axis=-1))
    torch.manual_seed(0)
    shift, jitter, rescale = (
        torch.empty(n).uniform_(-b, b).numpy() for n, b in ((2, 0.3), (2, np.log(1.5)), (1, np.log(2)))
    )
    coords = move_positions(jnp.asarray(centred_positions((3, 5))), shift, jitter, rescale)
    table = rotary_table(coords, 64, temperature=100, turns=2 * np.pi, half=True)
    np.testing.assert_allclose(table, expected, atol=1e-5)

    draws = [ours._movement(jax.random.key(i)) for i in range(200)]
    for part, bound in enumerate((0.3, np.log(1.5), np.log(2))):
        values = np.stack([np.atleast_1d(draw[part]) for draw in draws])
        assert 0.9 * bound < values.max() <= bound
        assert -bound <= values.min() < -0.9 * bound
        assert abs(values.mean()) < 0.2 * bound
    x = images((32, 48))
    evaluated, first, again, second = (ours(x, key=key) for key in (None, *map(jax.random.key, (1, 1, 2))))
    assert np.array_equal(first, again)
    assert relative(first, evaluated) > 1e-6
    assert relative(first, second) > 1e-6


def test_attention_pool_of_rotary_models(x64):
    """timm's Eva lets it see the registers, its VisionTransformer does not."""
    options = {"global_pool": "map", "img_size": SIZE, "depth": 1}
    theirs, ours = pair("vit_medium_patch16_rope_reg1_gap_256", "float64", **options)
    oracle.replace_rope_table(theirs.double(), ours.rope_table(ours.grid_size))
    assert relative(logits(ours, images(SIZE)), torch_logits(theirs, images(SIZE))) <= 1e-12


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_vit2"])
def test_intermediates(name):
    theirs, ours = pair(name, img_size=SIZE, depth=4)
    x = images(SIZE, dtype="float32")
    calls = [(indices, norm) for indices in (None, 2, [0, -1], [2, 1]) for norm in (False, True)]

    def every(model, x):
        options = {"return_prefix_tokens": True, "intermediates_only": True}
        return [model.forward_intermediates(x, indices, norm=norm, **options) for indices, norm in calls]

    with torch.inference_mode():
        expected = every(theirs, nchw(x))
    found = jax.jit(lambda x: every(ours, x))(jnp.asarray(x))  # the blocks, which they share, are compiled once
    for mine, other in zip(found, expected, strict=True):
        for (spatial, prefix), (their_map, their_prefix) in zip(mine, other, strict=True):
            assert relative(spatial, their_map.permute(0, 2, 3, 1).numpy()) <= 1e-5
            assert relative(prefix, their_prefix.numpy()) <= 1e-5


def test_features_only():
    theirs = timm.create_model("test_vit2", features_only=True).eval()
    state = oracle.random_state(oracle.shapes("test_vit2"))
    theirs.model.load_state_dict({k: torch.from_numpy(state[k]) for k in theirs.model.state_dict()}, strict=True)
    ours = nfjax.load("test_vit2", weights=state, features_only=True)
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    assert ours.feature_info.module_name() == theirs.feature_info.module_name()
    x = images((160, 160), dtype="float32")
    with torch.inference_mode():
        expected = theirs(nchw(x))
    for mine, other in zip(logits(ours, x), expected, strict=True):
        assert relative(mine, other.permute(0, 2, 3, 1).numpy()) <= 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "test_vit2",
        "vit_pwee_patch16_reg1_gap_256",
        "vit_dwee_patch16_reg1_gap_256",
        "vit_dpwee_patch16_reg1_gap_256",
        "vit_medium_patch16_rope_reg1_gap_256",
    ],
)
def test_attention_maps(name):
    """timm's maps are what enters its attention dropout when the fused kernel is switched off."""
    theirs, ours = pair(name, img_size=SIZE, depth=3)
    expected = []
    for block in theirs.blocks:
        attention = getattr(block, "attn", block)
        attention.fused_attn = False

        def keep(_module, inputs, _output, attention=attention):
            weights = inputs[0].numpy()
            if hasattr(attention, "lambda_init"):  # the maps of each pair lie next to each other
                scale = attention._compute_lambda().item()
                weights = weights[:, 0::2] - scale * weights[:, 1::2]
            expected.append(weights)

        attention.attn_drop.register_forward_hook(keep)
    x = images(SIZE, dtype="float32")
    torch_logits(theirs, x)
    found, (last,) = jax.jit(lambda x: (ours.attention_maps(x), ours.attention_maps(x, 1)))(jnp.asarray(x))
    assert [m.shape for m in found] == [m.shape for m in expected]
    for mine, other in zip(found, expected, strict=True):
        assert relative(mine, other) <= 1e-5
    np.testing.assert_allclose(last, found[-1], atol=1e-6)


@pytest.mark.parametrize("chans", [1, 4])
def test_in_chans_like_timm(chans, tmp_path):
    state = oracle.random_state(oracle.shapes("test_vit2"))
    nfjax.save(nfjax.load("test_vit2", weights=state), tmp_path)
    overlay = {"file": str(tmp_path / "model.safetensors")}
    theirs = timm.create_model("test_vit2", pretrained=True, in_chans=chans, pretrained_cfg_overlay=overlay)
    ours = nfjax.state_dict(nfjax.load("test_vit2", weights=state, in_chans=chans))
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(ours[key], tensor.numpy(), rtol=1e-6, atol=1e-7, err_msg=key)


@pytest.mark.parametrize("grid", [(16, 16), (24, 24), (10, 21)], ids=str)
def test_rotary_table(grid):
    """timm's is computed in float32; ours is float64, and at another grid both scale the positions."""
    from timm.layers import RotaryEmbeddingCat

    rope = RotaryEmbeddingCat(64, in_pixels=False, feat_shape=list(grid), ref_feat_shape=[16, 16])
    expected = np.stack(np.split(rope.pos_embed.numpy(), 2, axis=-1))
    ours = rotary_table(scaled_positions(grid, (16, 16)), 64, temperature=10_000)
    assert np.abs(ours - expected).max() <= 2e-6

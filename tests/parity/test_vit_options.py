"""Options of transformers that no published model uses, and what changes one in place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import nfjax
import port
from nfjax.params import fill, merge, named_params, split
from nfjax.parity import oracle
from nfjax.parity.verify import relative
from tests.helpers.both import double, images, logits, nchw, torch_logits

SIZE = (64, 96)
SMALL = {"img_size": SIZE, "depth": 1, "embed_dim": 64, "num_heads": 2, "num_classes": 10}
VIT, EVA, DINOV3 = "test_vit2", "vit_medium_patch16_rope_reg1_gap_256", "vit_tiny_patch16_dinov3_qkvb"


def pair(name, **options):
    """The same random weights in both libraries, float64."""
    options = SMALL | options
    state = double(oracle.random_state(oracle.shapes(name, **options)))
    theirs, ours = oracle.build(name, state, **options).double(), nfjax.load(name, state, dtype="float64", **options)
    if hasattr(theirs, "rope"):
        oracle.replace_rope_table(theirs, ours.rope_table(ours.grid_size))
    return theirs, ours


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (VIT, {"qk_norm": True, "class_token": True}),
        ("test_vit4", {"qk_norm": True}),
        ("vit_pwee_patch16_reg1_gap_256", {"qk_norm": True}),
        ("vit_dwee_patch16_reg1_gap_256", {"qk_norm": True}),
        ("vit_dpwee_patch16_reg1_gap_256", {"qk_norm": True}),
        (EVA, {"qk_norm": True}),
        (DINOV3, {"qk_norm": True}),
        (VIT, {"pre_norm": True}),
        (VIT, {"global_pool": "prr"}),
        (VIT, {"global_pool": "prr", "class_token": True}),
        (VIT, {"dynamic_img_size": True, "dynamic_img_pad": True}),
        (DINOV3, {"dynamic_img_size": True, "dynamic_img_pad": True}),
    ],
    ids=str,
)
def test_option(name, options, x64):
    theirs, ours = pair(name, **options)
    x = images((50, 90) if "dynamic_img_pad" in options else SIZE)
    expected = oracle.forward(theirs, x)
    graphdef, params = split(ours)
    (features, (last,)), found = jax.jit(
        lambda p, x: (merge(graphdef, p).forward_intermediates(x, 1), merge(graphdef, p)(x))
    )(params, jnp.asarray(x))
    assert last.shape == (2, 4, 6, 64)
    assert relative(features, expected["features"]) <= 1e-12
    assert relative(found, expected["logits"]) <= 1e-12


@pytest.mark.parametrize("name", [VIT, EVA, DINOV3])
def test_patch_dropout_with_timms_random_numbers(name, x64, monkeypatch):
    """Logits and gradients of one training step; positions follow the patches."""
    theirs, ours = pair(name, patch_drop_rate=0.3)
    x, probe = images(SIZE), np.random.default_rng(3).standard_normal((2, 10))
    torch.manual_seed(0)
    noise = torch.randn(2, 24).numpy()
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(noise) if shape == (2, 24) else None)
    theirs.train()
    torch.manual_seed(0)
    expected = theirs(nchw(x)).detach().numpy()
    torch.manual_seed(0)
    gradients = oracle.gradients(theirs, x, probe)
    graphdef, params = split(ours)

    @jax.jit
    def both(params):
        def loss(params):
            out = merge(graphdef, params)(jnp.asarray(x), key=jax.random.key(0))
            return jnp.sum(out * probe), out

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, found), grads = both(params)
    assert relative(found, expected) <= 1e-12
    assert relative(logits(ours, x), expected) > 1e-3
    for key, gradient in port.to_timm({path: np.asarray(g) for path, g in grads.items()}).items():
        assert relative(gradient, gradients[key]) <= 1e-9, key


@pytest.mark.parametrize(
    ("name", "sizes"),
    [(VIT, {"img_size": (96, 48)}), (EVA, {"img_size": 96}), (VIT, {"patch_size": 8}), (VIT, {"patch_size": 32})],
    ids=str,
)
def test_set_input_size(name, sizes, x64, tmp_path):
    """What is resampled is resampled alike, in float32; with the same numbers the rest is the same."""
    theirs, ours = pair(name)
    logits(ours, images(SIZE))  # what was compiled before is for what was before
    square = {"img_size": (sizes["img_size"],) * 2} if isinstance(sizes.get("img_size"), int) else {}
    theirs.set_input_size(**{option: (value,) * 2 for option, value in sizes.items()} if square else sizes | square)
    ours.set_input_size(**sizes)
    size = ours.data_config.input_size[1:]
    assert (size, ours.grid_size) == (theirs.patch_embed.img_size, theirs.patch_embed.grid_size)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    mine = nfjax.state_dict(ours)
    assert {key: relative(mine[key], state[key]) for key in state if relative(mine[key], state[key]) > 1e-5} == {}
    fill(named_params(ours), port.to_flax(state))
    if hasattr(theirs, "rope"):
        oracle.replace_rope_table(theirs, ours.rope_table(ours.grid_size))
    assert relative(logits(ours, images(size)), torch_logits(theirs, images(size))) <= 1e-12
    again = nfjax.load(nfjax.save(ours, tmp_path), dtype="float64")
    np.testing.assert_array_equal(logits(again, images(size)), logits(ours, images(size)))


@pytest.mark.parametrize("reshape", [False, True])
def test_get_intermediate_layers(reshape, x64):
    theirs, ours = pair(VIT, depth=3, class_token=True, global_pool="token")
    x = images(SIZE)
    calls = [(1, reshape, False, False), (2, reshape, True, True), ((0, 2), reshape, False, True)]
    every = jax.jit(lambda x: [ours.get_intermediate_layers(x, *call) for call in calls])(jnp.asarray(x))
    for call, found in zip(calls, every, strict=True):
        prefix = call[2]
        with torch.inference_mode():
            expected = theirs.get_intermediate_layers(nchw(x), *call)
        assert len(found) == len(expected)
        for mine, other in zip(found, expected, strict=True):
            mine, other = (one if prefix else (one,) for one in (mine, other))
            other = [a.permute(0, 2, 3, 1) if a.ndim == 4 else a for a in other]
            assert [relative(a, b.numpy()) <= 1e-12 for a, b in zip(mine, other, strict=True)] == [True] * len(other)
    assert ours.get_classifier() is ours.head

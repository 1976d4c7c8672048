"""Everything `nfjax.load` can be asked for, against timm's model of the same options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import nfjax
from nfjax.models.registry import MODELS
from nfjax.nn.conv import conv2d
from nfjax.parity import oracle
from nfjax.parity.verify import relative
from tests.helpers.both import double, images, logits, nchw, torch_logits

timm = oracle.timm()


# The traits of the other families, on the smallest network.
DEEPMIND = {"gamma_in_act": True, "same_padding": True, "skipinit": True, "act_layer": "gelu"}
REGNET = {"stem_type": "3x3", "reg": True, "bottle_ratio": 2.25, "num_features": 0, "extra_conv": False}


def changed(entry, traits):
    return dataclasses.replace(entry, config=dataclasses.replace(entry.config, **traits))


@pytest.fixture(scope="module")
def state():
    return oracle.random_state(oracle.shapes("test_nfnet"))


@pytest.mark.parametrize("traits", [{}, DEEPMIND, REGNET], ids=["plain", "deepmind", "regnet"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_output_stride(traits, output_stride, x64, monkeypatch):
    """Dilation, and the average pool that counts its padding; timm too takes changes of a config."""
    monkeypatch.setitem(MODELS, "test_nfnet", changed(MODELS["test_nfnet"], traits))
    options = traits | {"output_stride": output_stride}
    theirs = oracle.build("test_nfnet", **options)
    state = double(oracle.random_state(theirs))
    theirs = oracle.build("test_nfnet", state, **options).double()
    ours = nfjax.load("test_nfnet", weights=state, output_stride=output_stride, dtype="float64")
    x = images()
    expected = oracle.forward(theirs, x)
    features, maps = jax.jit(ours.forward_intermediates)(jnp.asarray(x))
    for tap, info, ours_map in zip(ours.feature_info, theirs.feature_info, maps, strict=True):
        assert tap.reduction == info["reduction"]
        assert relative(ours_map, expected[tap.module]) <= 1e-12
    assert relative(features, expected["features"]) <= 1e-12


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_global_pool(pool, x64):
    theirs = oracle.build("test_nfnet", global_pool=pool)
    state = double(oracle.random_state(theirs))
    theirs = oracle.build("test_nfnet", state, global_pool=pool).double()
    ours = nfjax.load("test_nfnet", weights=state, global_pool=pool, dtype="float64")
    assert ours.head_hidden_size == theirs.head_hidden_size
    assert relative(logits(ours, images()), torch_logits(theirs, images())) <= 1e-12


def test_features_only(state):
    indices = (1, 3)
    theirs = timm.create_model("test_nfnet", features_only=True, out_indices=indices).eval()
    renamed = {k.replace(".", "_", 1) if k.split(".")[0] in ("stem", "stages") else k: v for k, v in state.items()}
    wanted = theirs.state_dict()
    theirs.load_state_dict({k: torch.from_numpy(renamed[k]) for k in wanted}, strict=True)
    ours = nfjax.load("test_nfnet", weights=state, features_only=True, out_indices=indices)
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    assert len(ours.stages) == 3
    x = images(dtype="float32")
    with torch.inference_mode():
        expected = theirs(nchw(x))
    maps = jax.jit(ours)(jnp.asarray(x))
    assert len(maps) == 2
    for mine, other in zip(maps, expected, strict=True):
        assert relative(mine, other.permute(0, 2, 3, 1).numpy()) <= 1e-5


@pytest.mark.parametrize("chans", [1, 2, 4, 6])
@pytest.mark.parametrize("name", ["test_nfnet", "nf_resnet26"])
def test_in_chans_like_timm(name, chans, tmp_path):
    state = oracle.random_state(oracle.shapes(name))
    nfjax.save(nfjax.load(name, weights=state), tmp_path)
    overlay = {"file": str(tmp_path / "model.safetensors")}
    theirs = timm.create_model(name, pretrained=True, in_chans=chans, pretrained_cfg_overlay=overlay)
    ours = nfjax.state_dict(nfjax.load(name, weights=state, in_chans=chans))
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(ours[key], tensor.numpy(), rtol=1e-6, atol=1e-7, err_msg=key)


@pytest.mark.parametrize("chans", [1, 2, 4, 6])
def test_in_chans_exact(chans, x64):
    """Grey for up to three channels, repeated RGB beyond, gives what the RGB image gave; timm's recipe does not."""
    state = double(oracle.random_state(oracle.shapes("test_nfnet")))
    rgb = images()
    if chans < 3:
        rgb = np.repeat(rgb[..., :1], 3, axis=-1)
    x = jnp.asarray(rgb[..., np.arange(chans) % 3])
    expected = nfjax.load("test_nfnet", weights=state, dtype="float64").stem(jnp.asarray(rgb))[0]
    exact = nfjax.load("test_nfnet", weights=state, in_chans=chans, in_chans_mode="exact", dtype="float64")
    assert relative(exact.stem(x)[0], expected) <= 1e-10
    plain = nfjax.load("test_nfnet", weights=state, in_chans=chans, dtype="float64")
    assert relative(plain.stem(x)[0], expected) > 1e-3


@pytest.mark.parametrize("groups", [1, 2, 6, 12, 11])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (7, 2, 1), (3, 1, 4)])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_convolution(groups, kernel, stride, dilation, padding, x64):
    """The one convolution against torch's, under timm's two padding rules, values and gradients."""
    from timm.layers.padding import get_padding, pad_same

    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 13, 10, groups * 4))
    w = rng.standard_normal((groups * 3, 4, kernel, kernel))
    b = rng.standard_normal(groups * 3)
    tx, tw = nchw(x).requires_grad_(True), torch.from_numpy(w).requires_grad_(True)
    padded, pad = tx, get_padding(kernel, stride, dilation)
    if padding == "same":
        padded, pad = pad_same(tx, [kernel] * 2, [stride] * 2, [dilation] * 2), 0
    expected = torch.nn.functional.conv2d(padded, tw, torch.from_numpy(b), stride, pad, dilation, groups)
    (expected**2).sum().backward()

    def ours(x, w):
        return conv2d(x, w, b, stride=stride, dilation=dilation, groups=groups, padding=padding)

    args = jnp.asarray(x), jnp.asarray(w.transpose(2, 3, 1, 0))
    assert relative(ours(*args), expected.detach().permute(0, 2, 3, 1).numpy()) <= 1e-14
    dx, dw = jax.grad(lambda *a: (ours(*a) ** 2).sum(), (0, 1))(*args)
    assert relative(dx, tx.grad.permute(0, 2, 3, 1).numpy()) <= 1e-13
    assert relative(dw, tw.grad.permute(2, 3, 1, 0).numpy()) <= 1e-13

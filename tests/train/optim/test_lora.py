"""Adapters: what gets one, what is trained and kept, and that what is saved is what was trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfjax
import port
from nfjax.params import merge, split
from train import config as c
from train.checkpoints.base import kept_base
from train.experiment import build
from train.optim.lora import ADAPTER, merged, scale_of, split_off, targets
from train.report.summary import overview

DEPTH = nfjax.load("test_vit2", weights=None).config.depth
SHAPES = {"a/kernel": (8, 16), "b/kernel": (1, 1, 8, 4), "c/kernel": (3, 3, 8, 8), "a/bias": (16,), "d/gain": (8,)}


def shapes(params):
    return {path: value.shape for path, value in params.items()}


def test_targets():
    assert targets(c.Lora(2), SHAPES) == ["a/kernel", "b/kernel"]
    assert targets(c.Lora(4), SHAPES) == ["a/kernel"]  # of b it would be no less than b itself
    assert targets(c.Lora(2, targets=("b/.*",)), SHAPES) == ["b/kernel"]


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (c.Lora(2, targets=("c/.*",)), r"lora\.targets: 'c/\.\*' matches no parameter; .* such as .*kernel"),
        (c.Lora(2, targets=("(",)), r"lora\.targets: '\(' is not a regular expression"),
        (c.Lora(4, targets=("b/kernel",)), r"lora\.rank=4 is no less than b/kernel has, 8x4"),
        (c.Lora(8), r"lora\.rank=8: no layer has a matrix of more rows and columns"),
    ],
)
def test_what_cannot_have_one(lora, message):
    with pytest.raises(ValueError, match=message):
        targets(lora, SHAPES)


@pytest.mark.parametrize(("name", "dtype", "most"), [("test_vit2", "float32", 1e-6), ("test_nfnet", "float64", 1e-12)])
def test_the_merged_model_computes_what_the_adapted_one_does(name, dtype, most):
    """The product beside each layer, `x W + scale (x A) B`, against the sum in its kernel; standardised ones too."""
    with jax.enable_x64(dtype == "float64"):
        model = nfjax.load(name, weights=None, dtype=dtype, num_classes=5)
        graphdef, params = split(model)
        lora = c.Lora(3, alpha=6.0)
        base, trained = split_off(lora, params, seed=1)
        rng = np.random.default_rng(0)
        trained = {path: v + 0.1 * rng.standard_normal(v.shape).astype(dtype) for path, v in trained.items()}
        found = merged(base | trained, scale_of(lora))
        assert shapes(found) == shapes(params)
        x = jnp.asarray(rng.standard_normal((2, 32, 32, 3)), dtype)
        x = jax.image.resize(x, (2, *model.data_config.input_size[1:], 3), "nearest")
        own = nfjax.load(name, weights=port.to_timm({k: np.asarray(v) for k, v in found.items()}), dtype=dtype)
        ours = merge(graphdef, found)(x)
        np.testing.assert_allclose(own(x), ours, atol=most * float(jnp.abs(ours).max()))
        in_numpy = merged({k: np.asarray(v) for k, v in (base | trained).items()}, scale_of(lora))
        assert max(float(np.abs(in_numpy[k] - found[k]).max()) for k in found) <= most
        path = next(k for k in found if k.replace("kernel", "lora_a") in trained)
        layer = path.removesuffix("kernel")
        a, b, kernel = trained[f"{layer}lora_a"], trained[f"{layer}lora_b"], base[path]
        rows = jnp.asarray(rng.standard_normal((4, a.shape[0])), dtype)
        with jax.default_matmul_precision("highest"):
            beside = rows @ kernel.reshape(kernel.shape[-2:]) + 2 * (rows @ a) @ b
            summed = rows @ found[path].reshape(kernel.shape[-2:])
        np.testing.assert_allclose(summed, beside, atol=most * float(jnp.abs(beside).max()))


def test_the_first_step_sees_the_model_as_it_was():
    _, params = split(nfjax.load("test_vit2", weights=None))
    base, trained = split_off(c.Lora(4), params, seed=0)
    again = split_off(c.Lora(4), params, seed=0)[1]
    assert {p for p in trained if not ADAPTER.fullmatch(p)} == {"head/kernel", "head/bias"}
    assert np.array_equal(trained["blocks/0/attn/qkv/lora_a"], again["blocks/0/attn/qkv/lora_a"])
    assert not np.array_equal(trained["blocks/0/attn/qkv/lora_a"], trained["blocks/1/attn/qkv/lora_a"])
    found = merged(base | trained, 4.0)
    assert all(np.array_equal(found[path], params[path]) for path in params)


def tiny(**changes):
    config = c.Config(
        epochs=1,
        model=c.Model("test_vit2", drop_path_rate=0.1),
        data=c.Data(batch_size=240, image_size=16),
        augment=c.Augment(no_aug=True),
        optim=c.Optim("adamw", lr=0.01, clip_mode="norm", clip_grad=1.0),
        lora=c.Lora(4, targets=(r".*attn/(qkv|proj)/kernel",)),
        ema=c.Ema(decay=0.5),
        checkpoint=c.Checkpoint(every_epochs=0.5),
        log=c.Log(tensorboard=False),
    )
    return dataclasses.replace(config, **changes)


def test_what_does_not_go_together():
    with pytest.raises(ValueError, match=r"lora\.targets means nothing with lora\.rank=0"):
        build(tiny(lora=c.Lora(0, targets=(".*",))))
    with pytest.raises(ValueError, match=r"lora\.alpha means nothing with lora\.rank=0"):
        build(tiny(lora=c.Lora(alpha=8.0)))
    with pytest.raises(ValueError, match="freeze the classifier and every adapter"):
        build(tiny(optim=c.Optim(freeze=(".*lora.*", "head/.*"))))


def test_the_summary_says_what_is_trained(tmp_path):
    experiment = build(tiny())
    told = " ".join(overview(experiment, tmp_path, width=100).split())
    assert f"adapters rank 4, alpha 16, on {2 * DEPTH} kernels: " in told
    assert "trained," in told
    assert "frozen" in told
    full = build(tiny(lora=c.Lora()))
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(e.state_shapes.opt_state)) for e in (experiment, full)]
    assert sizes[0] < sizes[1] / 5


def test_a_base_of_another_model_is_refused(tmp_path):
    nfjax.save(nfjax.load("test_nfnet", weights=None), tmp_path / "base")
    experiment = build(tiny())
    with pytest.raises(ValueError, match="is of another model: it lacks"):
        kept_base(tmp_path, experiment.base, experiment.model)

"""What the whole optimiser is told: frozen parameters, groups, the learning rate's scale, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import nfjax
import port
from nfjax.params import merge, split
from tests.helpers.given_gradients import assert_equal, build, run_ours, run_torch
from train.cli.mistakes import check
from train.config import Config, Group, Optim
from train.optim.optimizer import KINDS, base_lr, make_optimizer
from train.optim.parameters import treatments
from train.optim.trees import by_path

FROZEN = (r"stem/.*", r".*/gain")


def freeze(model, state):
    """Freeze the same parameters of timm's model; their names."""
    frozen = {
        name
        for name in state
        if name.startswith("stem.") or name.endswith(".gain")
    }  # fmt: skip
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return frozen


@pytest.mark.parametrize(
    ("name", "clip_mode", "clip_grad"), [("sgd", "norm", 5.0), ("lamb", "agc", 0.015), ("muon", "agc", None)]
)
def test_frozen_parameters(name, clip_mode, clip_grad, x64):
    """As timm's without gradients: they count in no norm. They stay as they are to the bit, and cost no memory."""
    from timm.optim import create_optimizer_v2, muon
    from timm.utils import dispatch_clip_grad

    model, state = build("test_nfnet")
    frozen = freeze(model, state)
    optimizer = create_optimizer_v2(model, name, lr=1.0, weight_decay=0.05, layer_decay=0.7)

    def clip(parameters):
        if clip_grad:
            dispatch_clip_grad(parameters[:-2] if clip_mode == "agc" else parameters, clip_grad, clip_mode)

    with pytest.MonkeyPatch.context() as patch:
        exact = muon.zeropower_via_newtonschulz
        patch.setattr(muon, "zeropower_via_newtonschulz", lambda *a, **k: exact(*a, **k, dtype=torch.float64))
        expected = run_torch(model, state, optimizer, clip)
    optim = Optim(name, weight_decay=0.05, layer_decay=0.7, clip_mode=clip_mode, clip_grad=clip_grad, freeze=FROZEN)
    ours, opt_state = run_ours(state, optim)
    assert_equal(ours, {k: v for k, v in expected.items() if k not in frozen}, state)
    assert all(ours[name].tobytes() == state[name].tobytes() for name in frozen)
    paths = {getattr(key_path[-1], "key", None) for key_path, _ in jax.tree_util.tree_leaves_with_path(opt_state)}
    assert not paths & set(port.to_flax({name: state[name] for name in frozen}))


def test_groups_are_torchs_parameter_groups(x64):
    model, state = build("test_nfnet")
    named = dict(model.named_parameters())
    parts = {
        "head": [p for n, p in named.items() if n.startswith("head")],
        "bias": [p for n, p in named.items() if not n.startswith("head") and p.ndim == 1],
        "rest": [p for n, p in named.items() if not n.startswith("head") and p.ndim != 1],
    }
    optimizer = torch.optim.AdamW(
        [
            {"params": parts["head"], "lr_scale": 10.0, "weight_decay": 0.3},
            {"params": parts["bias"], "weight_decay": 0.02},
            {"params": [p for p in parts["rest"] if p.ndim], "lr_scale": 0.5, "weight_decay": 0.1},
            {"params": [p for p in parts["rest"] if not p.ndim], "lr_scale": 0.5, "weight_decay": 0.0},
        ]
    )
    groups = (
        Group("head/.*", lr_scale=10.0, weight_decay=0.3),
        Group("(?!head).*/bias", weight_decay=0.02),
        Group("(?!head).*(?<!/bias)", lr_scale=0.5),  # the run's decay, with its exemptions
    )
    ours, _ = run_ours(state, Optim("adamw", weight_decay=0.1, groups=groups))
    assert_equal(ours, run_torch(model, state, optimizer), state)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_kept_lies_beside_the_parameters(name):
    """As many arrays per parameter as the optimiser has moments, each at its path."""
    params = split(nfjax.load("test_nfnet", weights=None))[1]
    optim = Optim(name, clip_grad=0.01)
    state = jax.eval_shape(make_optimizer(optim, treatments(optim, params)).init, params)
    kept = [key_path[-1].key for key_path, leaf in jax.tree_util.tree_leaves_with_path(state) if leaf.ndim]
    assert set(kept) == set(params)
    moments = {"sgd": 1, "momentum": 1, "lion": 1, "muon": None, "nmuon": None, "adanw": 4}.get(name, 2)
    assert moments is None or len(kept) == moments * len(params)


def test_the_updates_are_added(x64):
    """A step of plain gradient descent, by hand."""
    params = {"stem/conv1/kernel": jnp.ones((1, 1, 2, 2)), "head/fc/bias": jnp.ones(2)}
    optim = Optim(momentum=0.0, weight_decay=0.5)
    tx = make_optimizer(optim, treatments(optim, params))
    updates, _ = tx.update(
        {k: 2 * v for k, v in params.items()}, tx.init(params), params, learning_rate=jnp.asarray(0.1)
    )
    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(after["stem/conv1/kernel"], 1 - 0.1 * (2 + 0.5), rtol=1e-15)
    np.testing.assert_allclose(after["head/fc/bias"], 1 - 0.1 * 2, rtol=1e-15)


def test_in_a_loop_of_flax():
    """`nnx.Optimizer` keeps and gives `nnx.State`s, of all parameters or of some: the same to the bit."""
    model = nfjax.load("test_vit2", weights=None, num_classes=4, img_size=32)
    optim = Optim("nadamw", weight_decay=0.1, layer_decay=0.5, clip_mode="agc", clip_grad=1e-3, freeze=("blocks/0/.*",))
    _, params = split(model)
    grads = {path: jnp.cos(a) for path, a in params.items()}
    due = treatments(optim, params)
    assert treatments(optim, nnx.state(model, nnx.Param)) == due
    tx = make_optimizer(optim, due)
    state, after, rates = tx.init(params), params, jnp.array([0.1, 0.05])
    for rate in rates:
        updates, state = tx.update(grads, state, after, learning_rate=rate)
        after = optax.apply_updates(after, updates)

    graphdef = nnx.graphdef(model)
    for some in (nnx.Param, nnx.All(nnx.Param, nnx.PathContains("head"))):
        copy = merge(graphdef, params)
        optimizer = nnx.Optimizer(copy, make_optimizer(optim, due, lambda count: rates[count]), wrt=some)
        given = nnx.state(merge(graphdef, grads), some)
        for _ in rates:
            optimizer.update(copy, given)
        _, found = split(copy)
        trained = set(by_path(given)) if some is nnx.Param else {"head/kernel", "head/bias"}
        assert by_path(given).keys() == trained
        assert {path: a.tobytes() for path, a in jax.device_get(found).items()} == {
            path: (after if path in trained else params)[path].__array__().tobytes() for path in params
        }


@pytest.mark.parametrize("name", KINDS)
def test_base_lr_is_timms(name):
    """timm's train.py: by the square root if "ada" or "lamb" is in the name, else linearly."""
    ratio = 1024 / 256
    expected = 0.2 * (ratio**0.5 if "ada" in name or "lamb" in name else ratio)
    assert base_lr(Optim(name, lr=0.2, lr_base_size=256), 1024) == pytest.approx(expected)
    assert base_lr(Optim(name, lr=0.2), 1024) == 0.2


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "adam", r"optim\.name='adam': expected one of sgd, momentum, adamw"),
        ("clip_mode", "global", r"optim\.clip_mode='global': expected one of agc, norm, value"),
        ("decay_rule", "none", r"optim\.decay_rule='none': expected one of timm, deepmind"),
        ("lr", -1.0, r"optim\.lr=-1\.0: expected a finite number, at least 0"),
        ("momentum", 1.0, r"optim\.momentum=1\.0: expected a finite number, at least 0 and less than 1"),
        (
            "betas",
            (0.9, 1.0),
            r"optim\.betas=\(0\.9, 1\.0\): expected 2 numbers with commas between, each at least 0 and",
        ),
        ("weight_decay", -0.1, r"optim\.weight_decay=-0\.1: expected a finite number, at least 0"),
        ("clip_grad", 0.0, r"optim\.clip_grad=0\.0: expected a finite number, more than 0, or none"),
        ("layer_decay", 1.5, r"optim\.layer_decay=1\.5: expected a finite number, more than 0 and at most 1, or none"),
        ("lr_base_size", 0, r"optim\.lr_base_size=0: expected an integer, at least 1, or none"),
    ],
)
def test_what_means_nothing_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        check(Config(optim=dataclasses.replace(Optim(), **{field: value})))
    check(Config())

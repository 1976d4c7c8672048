"""Every optimiser against timm's or torch's, on the parameters of real networks."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.helpers.given_gradients import NETWORKS, assert_equal, build, run_ours, run_torch
from train.config import Optim
from train.optim.optimizer import KINDS, make_optimizer
from train.optim.parameters import treatments
from train.optim.transforms import QUINTIC, scale_by_muon, suits_muon

# What timm calls ours when weight decay is decoupled.
DECOUPLED = {"sgd": "sgdw", "momentum": "sgdw", "rmsproptf": "rmsproptfw"}


def compare(network, optim, timm_name=None, **options):
    from timm.optim import create_optimizer_v2, muon

    model, state = build(network)
    optimizer = create_optimizer_v2(
        model, timm_name or optim.name, lr=1.0, weight_decay=optim.weight_decay, momentum=optim.momentum, **options
    )
    exact = functools.partial(muon.zeropower_via_newtonschulz, dtype=torch.float64)  # its default is bfloat16
    with mock.patch.object(muon, "zeropower_via_newtonschulz", exact):
        expected = run_torch(model, state, optimizer)
    assert_equal(run_ours(state, optim)[0], expected, state)


@pytest.mark.parametrize("name", KINDS)
def test_steps_are_timms(name, x64):
    compare("test_vit3", Optim(name, weight_decay=0.05))


@pytest.mark.parametrize("name", KINDS)
def test_steps_with_layer_decay_and_other_constants_are_timms(name, x64):
    betas, eps = (0.8, 0.98), 1e-4
    optim = Optim(name, weight_decay=0.05, layer_decay=0.6, momentum=0.8, betas=betas, eps=eps)
    theirs = (*betas, 0.99) if name == "adanw" else betas
    compare("test_nfnet", optim, layer_decay=0.6, betas=theirs, eps=eps)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_steps_without_decay_are_timms(name, x64):
    compare("test_vit3", Optim(name, weight_decay=0.0))


@pytest.mark.parametrize("name", DECOUPLED)
def test_decoupled_decay_is_timms(name, x64):
    options = {"nesterov": False} if name == "momentum" else {}
    compare("test_vit3", Optim(name, weight_decay=0.05, decoupled_decay=True), DECOUPLED[name], **options)


def test_lookahead_is_timms(x64):
    from timm.optim.lookahead import Lookahead

    optim = Optim("momentum", weight_decay=0.05, lookahead=0.5, lookahead_steps=2)
    with mock.patch("timm.optim._optim_factory.Lookahead", functools.partial(Lookahead, k=2)):
        compare("test_vit3", optim, "lookahead_momentum")


@pytest.mark.parametrize("network", list(NETWORKS)[2:])
def test_other_networks(network, x64):
    compare(network, Optim("muon", weight_decay=0.05))


@pytest.mark.parametrize("name", ["sgd", "rmsproptf"])
def test_momentum_can_be_none(name, x64):
    from timm.optim import create_optimizer_v2

    model, state = build("test_vit3")
    options = {"nesterov": False} if name == "sgd" else {}
    optimizer = create_optimizer_v2(model, name, lr=1.0, momentum=0.0, **options)
    ours, opt_state = run_ours(state, Optim(name, momentum=0.0, weight_decay=0.0))
    assert_equal(ours, run_torch(model, state, optimizer), state)
    kept = [leaf for leaf in jax.tree.leaves(opt_state) if leaf.ndim]
    assert len(kept) == (0 if name == "sgd" else sum(v.ndim > 0 for v in state.values()))


@pytest.mark.parametrize("name", KINDS)
def test_state_lies_by_path_and_keeps_its_types(name):
    """What sharding by path and donation rely on."""
    params = {
        "stem/conv1/kernel": jnp.ones((3, 3, 4, 8)), "stem/conv1/gain": jnp.ones(8),
        "head/fc/kernel": jnp.ones((8, 10)), "head/fc/bias": jnp.ones(10),
    }  # fmt: skip
    tx = make_optimizer(Optim(name), treatments(Optim(name), params))
    state = tx.init(params)
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(state):
        path = getattr(key_path[-1], "key", None)
        assert leaf.shape == (params[path].shape if path in params else ())
    updates, after = jax.eval_shape(tx.update, params, state, params, learning_rate=jnp.float32(0.1))
    assert jax.eval_shape(lambda x: x, params) == updates
    assert jax.eval_shape(lambda x: x, state) == after
    with jax.enable_x64(True):  # float32 parameters with a float64 learning rate
        updates, after = jax.eval_shape(tx.update, params, state, params, learning_rate=jnp.float64(0.1))
        assert {u.dtype for u in updates.values()} == {jnp.dtype("float32")}
        assert jax.eval_shape(lambda x: x, state) == after


def test_muon_takes_what_timm_takes():
    from timm.optim.muon import _is_suitable_for_muon

    import port

    model, _ = build("test_vit3")
    for name, parameter in [*model.named_parameters(), *build("test_nfnet")[0].named_parameters()]:
        ((path, array),) = port.to_flax({name: parameter.detach().numpy()}).items()
        assert suits_muon(path, array.shape) == _is_suitable_for_muon(parameter), name
    shapes = {(3, 500): False, (4, 513): False, (4, 512): True, (512, 4): True, (1, 64): False, (64, 1): False}
    for shape, expected in shapes.items():
        assert suits_muon("head/fc/kernel", shape[::-1]) == expected
        assert _is_suitable_for_muon(torch.zeros(shape)) == expected


def test_muon_in_float32_is_closer_than_timms_bfloat16():
    """How far timm's own rounding takes it from its float64 self, and ours."""
    from timm.optim.muon import _COEFFICIENTS, zeropower_via_newtonschulz

    assert [tuple(c) for c in _COEFFICIENTS["quintic"]] == list(QUINTIC)
    matrix = np.random.default_rng(0).standard_normal((96, 64)).astype("float32")

    def theirs(dtype):
        tensor = torch.from_numpy(matrix.T.copy())
        result = zeropower_via_newtonschulz(tensor, 5, _COEFFICIENTS["quintic"], dtype=dtype)
        return 0.2 * 96**0.5 * result.double().numpy().T

    tx = scale_by_muon(0.0, 1e-7)
    params = {"head/fc/kernel": jnp.asarray(matrix)}
    ours = tx.update(params, tx.init(params))[0]["head/fc/kernel"]
    exact = theirs(torch.float64)
    assert np.abs(ours - exact).max() < 1e-3 * np.abs(theirs(torch.bfloat16) - exact).max()
    singular = np.linalg.svd(exact / (0.2 * 96**0.5), compute_uv=False)
    assert 0.7 < singular.min() < singular.max() < 1.3

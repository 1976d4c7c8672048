"""Clipping against timm's, in front of SGD with coupled decay, on the parameters of real networks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers.given_gradients import NETWORKS, assert_equal, build, run_ours, run_torch
from train.config import Optim
from train.optim.clip import MODES, adaptive_clip, norm_clip, tree_norm
from train.optim.parameters import treatments


def clipped(network, mode, value, decay=1e-2):
    """Ours and timm's parameters after steps with clipped gradients, the start, and our state."""
    from timm.optim import create_optimizer_v2
    from timm.utils import dispatch_clip_grad

    model, state = build(network)
    optimizer = create_optimizer_v2(model, "sgd", lr=1.0, weight_decay=decay)

    def clip(parameters):  # timm's training script leaves the classifier out like this
        dispatch_clip_grad(parameters[:-2] if mode == "agc" else parameters, value, mode)

    expected = run_torch(model, state, optimizer, clip)
    optim = Optim("sgd", clip_mode=mode, clip_grad=value, weight_decay=decay)
    return *run_ours(state, optim), expected, state


@pytest.mark.parametrize("network", NETWORKS)
def test_adaptive_clipping_is_timms(network, x64):
    ours, opt_state, expected, state = clipped(network, "agc", 0.015)
    assert_equal(ours, expected, state)
    assert 0 < optax.tree.get(opt_state, "clip_rate") < 1


@pytest.mark.parametrize(("mode", "value"), [("norm", 5.0), ("norm", 1e6), ("value", 0.02)])
def test_other_modes_are_timms(mode, value, x64):
    ours, opt_state, expected, state = clipped("test_vit3", mode, value)
    assert_equal(ours, expected, state)
    assert optax.tree.get(opt_state, "clip_rate") is None


def test_norm_clip_of_no_gradient_at_all(x64):
    """torch adds 1e-6 to the norm, which keeps zeros from becoming NaN."""
    grads = {"head/fc/bias": jnp.zeros(3)}
    clip = norm_clip(1.0)
    np.testing.assert_array_equal(clip.update(grads, clip.init(grads))[0]["head/fc/bias"], 0)


@pytest.mark.parametrize("mode", MODES)
def test_clipping_shortens_gradients(mode):
    params = {path: jnp.ones((4, 4)) for path in ("head/kernel", "blocks/0/mlp/fc1/kernel")}
    grads = {path: jnp.full((4, 4), 7.0) for path in params}
    clip = MODES[mode](0.01, treatments(Optim(), params))
    after, _ = jax.jit(clip.update)(grads, clip.init(params), params)
    assert {g.dtype for g in after.values()} == {jnp.dtype("float32")}
    assert (after["blocks/0/mlp/fc1/kernel"] < 0.1).all()
    assert (after["head/kernel"] == 7).all() == (mode == "agc")


def test_clip_rate_counts_units():
    params = {"stem/conv1/kernel": jnp.ones((1, 1, 4, 2)), "head/fc/kernel": jnp.ones((3, 3))}
    tx = adaptive_clip(0.5, treatments(Optim(), params))
    state = tx.init(params)
    grads = {
        "stem/conv1/kernel": jnp.ones((1, 1, 4, 2)) * jnp.array([0.4, 10.0]),
        "head/fc/kernel": jnp.full((3, 3), 99.0),
    }
    clipped, state = tx.update(grads, state, params)
    assert float(state.clip_rate) == 0.5
    np.testing.assert_allclose(clipped["stem/conv1/kernel"][..., 0], 0.4)
    np.testing.assert_allclose(clipped["stem/conv1/kernel"][..., 1], 0.5)
    np.testing.assert_allclose(clipped["head/fc/kernel"], 99.0)  # the classifier is left alone


def test_sums_of_many_scalars_are_no_chain(x64):
    """XLA fuses a chain of additions in quadratic time: 55 s for eca_nfnet_l3."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal(3)) for _ in range(200)]
    norm = jax.jit(tree_norm)
    np.testing.assert_allclose(norm(arrays), np.linalg.norm(np.concatenate(arrays)), rtol=1e-15)
    assert tree_norm([]) == 0
    # Of the compiled program no computation has an addition for each array.
    longest = max(part.count(" add(") for part in norm.lower(arrays).compile().as_text().split("\n\n"))
    assert longest < 20
    chain = jax.jit(optax.tree.norm).lower(arrays).compile().as_text()
    assert max(part.count(" add(") for part in chain.split("\n\n")) >= 199

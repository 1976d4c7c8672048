"""Clipping, decay and momentum against torch and timm, on the parameters of a real network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import nfjax
import port
from nfjax.params import named_params, split
from nfjax.parity import oracle
from nfjax.registry import MODELS
from train.config import Optim
from train.optim import adaptive_clip, optimizer, schedule
from train.rules import UNIT_AXES, WEIGHT_DECAY, assign

timm = oracle.timm()
OPTIM = Optim(lr=0.05, agc=0.015, weight_decay=1e-2, momentum=0.9)


@pytest.mark.parametrize("name", nfjax.list_models())
@pytest.mark.parametrize("table", [UNIT_AXES, WEIGHT_DECAY], ids=["units", "decay"])
def test_each_parameter_has_one_row(name, table):
    entry = MODELS[name]
    paths = named_params(entry.build())
    assert assign(table, paths).keys() == paths.keys()


def test_tables_refuse_what_they_do_not_cover():
    with pytest.raises(ValueError, match=r"a/kernel: no row\n  b: \.\*b and \[b\]"):
        assign({"x": 1, ".*b": 2, "[b]": 3}, ["a/kernel", "b"])


# Networks with every kind of parameter: gains, skip gains and the attentions' kernels; tokens, norms and LayerScale;
# lambda vectors; biases of queries and values alone.
NETWORKS = {
    "test_nfnet": {"skipinit": True, "gamma_in_act": True},
    "test_vit3": {"depth": 1, "class_token": True},
    "vit_dwee_patch16_reg1_gap_256": {"depth": 1},
    "vit_medium_patch16_rope_reg1_gap_256": {"depth": 1, "embed_dim": 64, "num_heads": 2},
}


def gradients(shapes, step):
    rng = np.random.default_rng(step)
    return {k: np.array(rng.standard_normal(s) * 10.0 ** rng.integers(-4, 2)) for k, s in shapes.items()}


def run_torch(name, steps, clip, decay):
    """timm's optimizer and clipping on given gradients."""
    from timm.optim import create_optimizer_v2
    from timm.utils import adaptive_clip_grad

    model = oracle.build(name, **NETWORKS[name]).double()
    state = {k: v.astype("float64") for k, v in oracle.random_state(model).items()}
    if name == "test_nfnet":
        state["stages.0.0.conv3.gain"][:] = 0  # a zero gain must be able to leave zero
    model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()})
    tx = create_optimizer_v2(model, "sgd", lr=OPTIM.lr, momentum=OPTIM.momentum, weight_decay=decay)
    for step in range(steps):
        grads = gradients({k: v.shape for k, v in state.items()}, step)
        for name, parameter in model.named_parameters():
            parameter.grad = torch.from_numpy(grads[name].copy())
        if clip:
            adaptive_clip_grad(list(model.parameters())[:-2], clip)  # timm leaves out the classifier like this
        tx.step()
    return state, {k: v.detach().numpy() for k, v in model.named_parameters()}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("clip", "decay"), [(0.0, 0.0), (0.015, 0.0), (0.015, 1e-2)])
def test_steps_equal_timms(name, clip, decay, x64):
    state, expected = run_torch(name, 5, clip, decay)
    optim = Optim(lr=OPTIM.lr, agc=clip, weight_decay=decay, momentum=OPTIM.momentum)
    tx = optimizer(optim, optax.constant_schedule(optim.lr))
    params = {k: jnp.asarray(v) for k, v in port.to_flax(state).items()}
    opt_state = tx.init(params)
    for step in range(5):
        grads = port.to_flax(gradients({k: v.shape for k, v in state.items()}, step))
        grads = {k: jnp.asarray(g) for k, g in grads.items()}
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    ours = port.to_timm({k: np.asarray(v) for k, v in params.items()})
    for name, value in expected.items():
        assert np.abs(ours[name] - value).max() <= 1e-12 * max(np.abs(value).max(), 1), name
    moved = [name for name in expected if not np.array_equal(expected[name], state[name])]
    assert len(moved) == len(expected)


def test_clip_rate_counts_units():
    tx = adaptive_clip(0.5)
    params = {"a/conv/kernel": jnp.ones((1, 1, 4, 2)), "head/fc/kernel": jnp.ones((3, 3))}
    state = tx.init(params)
    grads = {"a/conv/kernel": jnp.ones((1, 1, 4, 2)) * jnp.array([0.4, 10.0]), "head/fc/kernel": jnp.full((3, 3), 99.0)}
    clipped, state = tx.update(grads, state, params)
    assert float(state.clip_rate) == 0.5
    np.testing.assert_allclose(clipped["a/conv/kernel"][..., 0], 0.4)
    np.testing.assert_allclose(clipped["a/conv/kernel"][..., 1], 0.5)
    np.testing.assert_allclose(clipped["head/fc/kernel"], 99.0)  # the classifier is left alone


def test_schedule_is_timms_prefixed_cosine():
    from timm.scheduler import CosineLRScheduler

    optim = Optim(lr=0.4, warmup_epochs=2, final_lr=0.01)
    ours = schedule(optim, steps=100, steps_per_epoch=10)
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = CosineLRScheduler(
        torch.optim.SGD([parameter], lr=0.4),
        t_initial=80, lr_min=0.01, warmup_t=20, warmup_lr_init=0.0, warmup_prefix=True, t_in_epochs=False,
    )  # fmt: skip
    for step in range(100):
        assert float(ours(step)) == pytest.approx(theirs._get_lr(step)[0], rel=1e-5, abs=1e-7)


def test_model_and_optimiser_agree_on_paths():
    params = split(nfjax.load("test_nfnet", weights=None))[1]
    state = optimizer(OPTIM, optax.constant_schedule(0.1)).init(params)
    traces = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert len(traces) == len(params)

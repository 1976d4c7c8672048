"""timm's optimisers and ours on the same parameters and the same given gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import port
from nfjax.parity import oracle
from train.optim.optimizer import make_optimizer
from train.optim.parameters import treatments

oracle.timm()

# Networks with every kind of parameter: gains, skip gains and the attentions' kernels; tokens, norms and LayerScale;
# lambda vectors; biases of queries and values alone.
NETWORKS = {
    "test_nfnet": {"depths": (1, 1), "channels": (32, 64), "skipinit": True, "gamma_in_act": True},
    "test_vit3": {"depth": 1, "class_token": True},
    "vit_dwee_patch16_reg1_gap_256": {"depth": 1, "embed_dim": 64, "num_heads": 2},
    "vit_medium_patch16_rope_reg1_gap_256": {"depth": 1, "embed_dim": 64, "num_heads": 2},
}
RATES = (1e-3, 3e-3, 2e-3, 1e-3, 5e-4)


def build(network):
    """A timm model, and its random float64 state by timm name."""
    model = oracle.build(network, num_classes=10, **NETWORKS[network]).double()
    state = {k: v.astype("float64") for k, v in oracle.random_state(model).items()}
    if network == "test_nfnet":
        state["stages.0.0.conv3.gain"][:] = 0  # a zero gain must be able to leave zero
    model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()})
    return model, state


def gradients(state, step):
    rng = np.random.default_rng(step)
    return {k: np.array(rng.standard_normal(v.shape) * 10.0 ** rng.integers(-4, 2)) for k, v in state.items()}


def run_torch(model, state, optimizer, clip=lambda parameters: None):
    """Parameters after a step with each of `RATES`."""
    for step, rate in enumerate(RATES):
        grads = gradients(state, step)
        for name, parameter in model.named_parameters():
            parameter.grad = torch.from_numpy(grads[name].copy()) if parameter.requires_grad else None
        clip(list(model.parameters()))
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        optimizer.step()
    return {k: v.detach().numpy() for k, v in model.named_parameters()}


def run_ours(state, optim):
    """Parameters by timm name after a step with each of `RATES`, and the optimiser's state."""
    params = {k: jnp.asarray(v) for k, v in port.to_flax(state).items()}
    tx = make_optimizer(optim, treatments(optim, params))
    opt_state = tx.init(params)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles twice as fast
    def step(params, opt_state, grads, rate):
        updates, opt_state = tx.update(grads, opt_state, params, learning_rate=rate)
        return optax.apply_updates(params, updates), opt_state

    for i, rate in enumerate(RATES):
        grads = {k: jnp.asarray(g) for k, g in port.to_flax(gradients(state, i)).items()}
        params, opt_state = step(params, opt_state, grads, rate)
    return port.to_timm({k: np.asarray(v) for k, v in params.items()}), opt_state


def assert_equal(ours, expected, start, tolerance=1e-12):
    """Each parameter within the tolerance of its own size, and of how far it moved, which may be much less."""
    for name, value in expected.items():
        moved = np.abs(value - start[name]).max()
        assert moved > 0, name
        difference = np.abs(ours[name] - value).max()
        assert difference <= tolerance * np.abs(value).max(), name
        assert difference <= 10 * tolerance * moved + 1e-15 * np.abs(value).max(), name

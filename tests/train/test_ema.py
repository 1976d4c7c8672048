"""The moving average against timm's `ModelEmaV3`, with the decay that the training step uses."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from nfjax.parity import oracle
from train.config import Ema
from train.optim.state import ema_decay

oracle.timm()


@pytest.mark.parametrize("warmup", [False, True])
def test_decay_is_timms(warmup, x64):
    from timm.utils import ModelEmaV3

    theirs = ModelEmaV3(torch.nn.Linear(1, 1), decay=0.99, use_warmup=warmup)
    for step in [*range(40), 999, 5000, 10**6]:
        expected = theirs.get_decay(step + 1)  # timm counts the step that was just made
        assert float(ema_decay(Ema(0.99, warmup), jnp.int32(step))) == pytest.approx(expected, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("warmup", [False, True])
def test_average_is_timms(warmup, x64):
    from timm.utils import ModelEmaV3

    rng = np.random.default_rng(0)
    model = torch.nn.Linear(3, 2).double()
    theirs = ModelEmaV3(model, decay=0.9, use_warmup=warmup)
    ours = model.weight.detach().numpy().copy()
    for step in range(20):
        weights = rng.standard_normal((2, 3))
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(weights))
        theirs.update(model, step=step + 1)
        keep = ema_decay(Ema(0.9, warmup), jnp.int32(step))
        ours = ours + (1 - keep) * (weights - ours)
        np.testing.assert_allclose(ours, theirs.module.weight.detach().numpy(), rtol=1e-13, atol=1e-15)
    assert np.abs(ours - weights).max() > 0.1

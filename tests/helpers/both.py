"""What tests that run a model in both libraries share."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from nfjax.params import merge, split


def images(size=(65, 50), chans=3, dtype="float64", seed=1):
    """Two random images, `(2, height, width, chans)`."""
    return np.random.default_rng(seed).standard_normal((2, *size, chans)).astype(dtype)


def nchw(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def double(state):
    return {k: v.astype("float64") for k, v in state.items()}


def logits(model, x):
    """Parameters are arguments: with constants XLA would compute while it compiles, for 10 s with 70 M of them."""
    graphdef, params = split(model)
    return jax.jit(lambda params, x: merge(graphdef, params)(x))(params, jnp.asarray(x))


def torch_logits(model, x):
    with torch.inference_mode():
        return model.eval()(nchw(x)).numpy()

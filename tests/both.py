"""What tests that run a model in both libraries share."""

import numpy as np
import torch


def images(size=(65, 50), chans=3, dtype="float64", seed=1):
    """Two random images, `(2, height, width, chans)`."""
    return np.random.default_rng(seed).standard_normal((2, *size, chans)).astype(dtype)


def nchw(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def double(state):
    return {k: v.astype("float64") for k, v in state.items()}


def torch_logits(model, x):
    with torch.inference_mode():
        return model.eval()(nchw(x)).numpy()

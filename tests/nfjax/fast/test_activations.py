"""Activations: torch's derivatives, of which nothing but the input is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from nfjax.fast import activations

NAMES = ("silu", "gelu")


@pytest.mark.parametrize("name", NAMES)
def test_value_and_derivatives_are_torchs(x64, name):
    x = np.linspace(-12, 12, 4801)
    function = getattr(activations, name)
    derivatives = (function, jax.grad(function), jax.grad(jax.grad(function)))
    found = [jax.vmap(derivative)(jnp.asarray(x)) for derivative in derivatives]
    there = torch.tensor(x, requires_grad=True)
    value = getattr(torch.nn.functional, name)(there)
    (first,) = torch.autograd.grad(value.sum(), there, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), there)
    for ours, theirs in zip(found, (value, first, second), strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_derivative_in_half_precision_is_rounded_once(name):
    x = jnp.linspace(-6, 6, 1001).astype(jnp.bfloat16)
    grad = jax.vmap(jax.grad(getattr(activations, name)))
    found, expected = (np.asarray(grad(a), np.float32) for a in (x, x.astype(jnp.float32)))
    np.testing.assert_allclose(found, expected, rtol=2**-8)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_keeps_the_input_alone(name):
    """Memory of a chain of products and activations, whose inputs alone must be kept: one array for each link."""
    x, links = jnp.ones((512, 256)), 12

    def memory(function):
        def loss(kernels, x):
            for kernel in kernels:
                x = function(x @ kernel)
            return x.sum()

        kernels = [jnp.eye(x.shape[1])] * links
        return jax.jit(jax.grad(loss)).lower(kernels, x).compile().memory_analysis().temp_size_in_bytes / x.nbytes

    ours = memory(getattr(activations, name))
    theirs = memory({"silu": jax.nn.silu, "gelu": lambda x: jax.nn.gelu(x, approximate=False)}[name])
    assert ours < theirs - links / 2, (ours, theirs)

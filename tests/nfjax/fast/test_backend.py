"""What is written for one backend computes what it does on the others, in every kind of differentiation."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfjax.fast import backend, matmul, normalize, standardize
from nfjax.fast.rows import spread_rows, sum_rows, sum_rows_of
from nfjax.nn.layers import Conv, LayerNorm, Linear
from nfjax.params import initialize, merge, named_params, split


@pytest.fixture(params=["cpu", "gpu", "any"])
def traced_for(request):
    with contextlib.nullcontext() if request.param == jax.default_backend() else backend.traced_for(request.param):
        yield request.param


def test_sums(x64, traced_for):
    assert backend.backend() == traced_for
    rng = np.random.default_rng(0)
    x, v, probe = (jnp.asarray(rng.standard_normal(shape)) for shape in ((2, 3, 4, 5), 5, (2, 3, 4, 5)))
    np.testing.assert_allclose(sum_rows(x), x.sum((0, 1, 2)), rtol=1e-14)
    np.testing.assert_array_equal(spread_rows(v, x), np.broadcast_to(v, x.shape))

    def loss(v, x):
        return jnp.vdot(probe, x * spread_rows(v, x)) + jnp.vdot(v, sum_rows(x**2))

    def plain(v, x):
        return jnp.vdot(probe, x * v) + jnp.vdot(v, (x**2).sum((0, 1, 2)))

    for transform in (jax.grad, jax.jacfwd, jax.hessian):
        found, expected = (jax.jit(transform(f, (0, 1)))(v, x) for f in (loss, plain))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, expected)
    found, expected = (
        jax.jit(jax.vmap(jax.grad(f), (None, 0)))(v, x) for f in (loss_of_image(loss), loss_of_image(plain))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 16, 48, 51])
def test_sum_of_a_function_and_product(x64, traced_for, rows):
    rng = np.random.default_rng(rows)
    x, kernel = (jnp.asarray(rng.standard_normal(shape)) for shape in ((3, rows, 5), (5, 4)))
    found = sum_rows_of(jnp.square, x)
    np.testing.assert_allclose(found, np.square(x).sum((0, 1)), rtol=1e-13)
    np.testing.assert_allclose(matmul(x, kernel), x @ kernel, rtol=1e-13)


def test_standardize(x64, traced_for):
    """Its derivatives are written by hand: those of the formula, of every kind."""
    rng = np.random.default_rng(0)
    kernel, gain, probe = (jnp.asarray(rng.standard_normal(shape)) for shape in ((3, 3, 2, 4), 4, (3, 3, 2, 4)))
    kernel = kernel + 5

    def plain(kernel, gain):
        mean, var = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
        return gain * (kernel - mean) / jnp.sqrt(var + 1e-2)

    np.testing.assert_allclose(standardize(kernel, gain, 1e-2), plain(kernel, gain), rtol=1e-12)
    for transform in (jax.grad, jax.jacfwd, jax.hessian):
        ours, theirs = (
            jax.jit(transform(lambda *at, of=of: jnp.vdot(probe, of(*at)), (0, 1)))(kernel, gain)
            for of in (lambda k, g: standardize(k, g, 1e-2), plain)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), ours, theirs)


def test_normalize(x64, traced_for):
    rng = np.random.default_rng(0)
    x, probe = jnp.asarray(rng.standard_normal((2, 3, 8)) + 5), rng.standard_normal((2, 3, 8))

    def plain(x):
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-2)

    np.testing.assert_allclose(normalize(x, 1e-2), plain(x), rtol=1e-12)
    for transform in (jax.grad, jax.jacfwd, jax.hessian):
        ours, theirs = (
            jax.jit(transform(lambda x, of=of: jnp.vdot(probe, of(x))))(x)
            for of in (lambda x: normalize(x, 1e-2), plain)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def loss_of_image(loss):
    return lambda v, image: loss(v, jnp.broadcast_to(image, (2, *image.shape)))


@pytest.mark.parametrize("layer", [Conv(4, 4, 3), Linear(4, 4), LayerNorm(4)], ids=lambda layer: type(layer).__name__)
def test_gradient_of_a_bias_is_not_summed_in_half_precision(layer):
    """65536 terms of one sign: summed in bfloat16, the sum would stop growing at a quarter."""
    initialize(named_params(layer))
    graphdef, params = split(layer)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 128, 128, 4)), jnp.bfloat16)

    def loss(params):
        return merge(graphdef, params)(x).astype(jnp.float32).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(params)["bias"], np.full(4, 65536.0), rtol=1e-6)


def test_this_xla_knows_the_options():
    assert backend.compiler_options()

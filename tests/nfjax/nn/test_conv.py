"""Winograd's products against torch's convolution, and what `nfjax.compile` makes of a batch on a CPU."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import nfjax
from nfjax import infer
from nfjax.fast import WinogradConv, pieces, winograd
from nfjax.fast.backend import compiler_options, route
from nfjax.fast.groups import ROUTES
from nfjax.models.nfnet import NormFreeNet
from nfjax.models.nfnet_configs import NFNETS
from nfjax.nn.conv import conv2d
from nfjax.params import initialize, merge, named_params, split


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-14), ("float32", 2e-6)])
@pytest.mark.parametrize("size", [(1, 1), (7, 10), (8, 4)])
@pytest.mark.parametrize("groups", [1, 3])
def test_winograd(size, groups, dtype, tolerance, x64):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 12)).astype(dtype)
    kernel = rng.standard_normal((3, 3, 12 // groups, 6)).astype(dtype)
    bias = rng.standard_normal(6).astype(dtype)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x.astype("float64").transpose(0, 3, 1, 2).copy()),
        torch.from_numpy(kernel.astype("float64").transpose(3, 2, 0, 1).copy()),
        torch.from_numpy(bias.astype("float64")),
        padding=1,
        groups=groups,
    ).permute(0, 2, 3, 1)
    found = WinogradConv(jnp.asarray(kernel), jnp.asarray(bias), groups)(jnp.asarray(x))
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert np.abs(found - expected.numpy()).max() <= tolerance * np.abs(expected.numpy()).max()


def test_compile_takes_winograd_and_pieces(monkeypatch):
    monkeypatch.setattr(winograd, "CHANNELS", 8)
    model = NormFreeNet(dataclasses.replace(NFNETS["test_nfnet"], depths=(1, 2, 1, 1)), num_classes=10)
    initialize(named_params(model))
    x = np.random.default_rng(0).standard_normal((4, 48, 40, 3), np.float32)
    expected = jax.jit(nfjax.fold(model))(x)
    replaced = infer._replace(nfjax.fold(model), infer._for_winograd)
    assert isinstance(replaced.stages[1][1].conv2, WinogradConv)
    assert not isinstance(replaced.stages[1][0].conv2, WinogradConv)  # stride 2
    monkeypatch.setattr(pieces, "PIECE_PIXELS", 2 * 48 * 40)
    np.testing.assert_allclose(nfjax.compile(model, x)(x), expected, atol=1e-5 * np.abs(expected).max())


def test_compile_of_feature_maps_in_pieces(monkeypatch):
    model = nfjax.load("test_nfnet", weights=None, features_only=True, out_indices=[0, 1])
    x = np.random.default_rng(0).standard_normal((3, 32, 32, 3), np.float32)
    monkeypatch.setattr(pieces, "PIECE_PIXELS", 1)
    for found, expected in zip(nfjax.compile(model, x)(x), jax.jit(model)(x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "head"), [("test_nfnet", "head/fc/kernel"), ("test_vit2", "head/kernel")])
def test_compile_casts_kernels_beforehand(name, head):
    model = nfjax.load(name, weights=None, dtype="bfloat16", num_classes=10)
    graphdef, params = split(nfjax.fold(model))
    cast = infer._kernels_in(params, "bfloat16")
    kernels = {path for path, value in params.items() if path.endswith("kernel") and value.shape[:-2] in ((), (1, 1))}
    assert {path for path, value in cast.items() if value.dtype == "bfloat16"} == kernels - {head}
    if name == "test_vit2":  # rounding differs from program to program of the other
        x = np.random.default_rng(0).standard_normal((1, 160, 160, 3), np.float32)
        expected = jax.jit(lambda params: merge(graphdef, params)(x), compiler_options=compiler_options())(params)
        np.testing.assert_allclose(nfjax.compile(model, x)(x), expected, atol=1e-6 * np.abs(expected).max())


def test_compile_refuses_another_shape():
    model = nfjax.load("test_nfnet", weights=None)
    for batch in (1, 8):
        compiled = nfjax.compile(model, jax.ShapeDtypeStruct((batch, 32, 32, 3), np.float32))
        with pytest.raises(ValueError, match=r"shape \(3, 32, 32, 3\).*compiled for"):
            compiled(np.zeros((3, 32, 32, 3), np.float32))


def test_size_of_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "CORES", 2)
    assert [pieces._piece(8, side * side) for side in (32, 64, 160, 224, 256, 288)] == [4, 4, 2, 1, 1, 1]
    assert [pieces._piece(batch, 64 * 64) for batch in (1, 2, 3, 7, 64)] == [1, 1, 1, 1, 16]
    monkeypatch.setattr(pieces, "CORES", 64)
    assert [pieces._piece(batch, 64 * 64) for batch in (8, 256)] == [1, 4]


@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("name", ROUTES)
def test_routes(name, groups, x64):
    """Each is the grouped convolution, with its derivative."""
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 5, 4, 12)), rng.standard_normal((3, 3, 12 // groups, 18))

    def call(x, kernel):
        return jnp.sin(conv2d(x, kernel, groups=groups, stride=2)).sum()

    expected = jax.value_and_grad(call, (0, 1))(x, kernel)
    with route(name):
        found = jax.value_and_grad(call, (0, 1))(x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, expected)

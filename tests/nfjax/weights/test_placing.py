"""`nfjax.load(sharding=, param_dtype=)`: where parameters are put, and in how many bytes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import nfjax
import port
from nfjax.params import named_params
from port.mapped import read_mapped, release

OPTIONS = {"test_nfnet": {}, "test_vit2": {"depth": 1, "img_size": 64}}


def random_state(name):
    model = nfjax.load(name, None, **OPTIONS[name])
    rng = np.random.default_rng(0)
    return {key: (1 + rng.normal(0, 0.3, a.shape)).astype(np.float32) for key, a in nfjax.state_dict(model).items()}


@pytest.fixture(scope="module", params=OPTIONS)
def loaded(request):
    """A name, its options, random weights, images and what the model makes of them."""
    name, state = request.param, random_state(request.param)
    x = np.random.default_rng(1).standard_normal((2, 64, 64, 3), np.float32)
    return name, OPTIONS[name], state, x, nfjax.load(name, state, **OPTIONS[name])(x)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_parameters_spread_over_a_mesh(loaded, kind):
    """Two devices hold half of the model each; its logits are the same, for batches on either kind of mesh."""
    name, options, state, x, expected = loaded
    mesh = jax.make_mesh((2,), ("d",), axis_types=(kind,), devices=jax.devices()[:2])
    model = nfjax.load(name, state, sharding=mesh, **options)
    arrays = [var.get_value() for var in named_params(model).values()]
    held = [sum(a.addressable_shards[i].data.nbytes for a in arrays) for i in (0, 1)]
    whole = sum(a.nbytes for a in arrays)
    assert held[0] == held[1]
    assert held[0] < 0.51 * whole
    rows = jax.device_put(x, NamedSharding(mesh, P("d")))
    for batch in (x, rows):
        np.testing.assert_allclose(model(batch), expected, rtol=1e-4, atol=1e-4)
    fresh = named_params(nfjax.load(name, None, sharding=mesh, **options))
    assert not fresh["head/fc/kernel" if "head/fc/kernel" in fresh else "head/kernel"].get_value().is_fully_replicated


def test_shardings_of_the_users_own():
    state, second = random_state("test_nfnet"), SingleDeviceSharding(jax.devices()[1])
    mesh = jax.make_mesh((2,), ("d",), devices=jax.devices()[:2])
    paths = named_params(nfjax.load("test_nfnet", None))

    def columns(path, shape):
        return NamedSharding(mesh, P(*[None] * (len(shape) - 1), "d") if path.endswith("kernel") else P())

    for given in (second, dict.fromkeys(paths, second)):
        model = nfjax.load("test_nfnet", state, sharding=given)
        assert all(var.get_value().devices() == {jax.devices()[1]} for var in named_params(model).values())
    model = nfjax.load("test_nfnet", state, sharding=columns)
    assert model.stem.conv1.kernel[...].sharding.spec == P(None, None, None, "d")
    assert model.stem.conv1.gain[...].is_fully_replicated


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("data", "expected a jax.sharding.Mesh or Sharding"),
        ({}, r"has none for \d+ parameters: "),
        (lambda path, shape: None, "which is no sharding"),
        (lambda path, shape: NamedSharding(jax.make_mesh((2,), ("d",)), P("d")), r"stem/conv1/kernel \(3, 3, 3, "),
        (lambda path, shape: NamedSharding(jax.make_mesh((2,), ("d",)), P(None, "d")), r"stem/conv1/gain \(16,\), "),
        (lambda path, shape: NamedSharding(jax.make_mesh((2,), ("d",)).abstract_mesh, P()), "a mesh without devices"),
        (NamedSharding, "expected a jax.sharding.Mesh or Sharding"),
    ],
)
def test_a_sharding_that_does_not_fit(wrong, said):
    with pytest.raises(ValueError, match=said):
        nfjax.load("test_nfnet", None, sharding=wrong)


def test_parameters_in_half_precision(loaded):
    """The function is that of the rounded weights: nothing else is rounded."""
    name, options, state, x, expected = loaded
    model = nfjax.load(name, state, param_dtype="bfloat16", **options)
    assert {var.get_value().dtype for var in named_params(model).values()} == {jnp.dtype("bfloat16")}
    rounded = {key: a.astype(jnp.bfloat16).astype(np.float32) for key, a in state.items()}
    same = nfjax.load(name, rounded, **options)(x)
    np.testing.assert_allclose(model(x), same, rtol=1e-5, atol=1e-5)
    assert np.abs(same - expected).max() > 1e-4
    model.reset_classifier(3)
    assert {var.get_value().dtype for var in named_params(model).values()} == {jnp.dtype("bfloat16")}
    for wrong, said in [
        ("int8", "expected floating point"),
        ("float8_e4m3fn", "expected one of"),
        ("float64", "needs jax"),
    ]:
        with pytest.raises(ValueError, match=f"param_dtype='{wrong}'.*{said}"):
            nfjax.load(name, None, param_dtype=wrong)


def test_what_is_read_is_given_back(tmp_path):
    """Of a mapped file no page stays in memory, and the numbers are still there."""
    array = np.arange(2**20, dtype=np.float32)
    port.write_safetensors({"a": array, "b": -array, "c": array[:10]}, tmp_path / "a.safetensors")
    state, _ = read_mapped(tmp_path / "a.safetensors")

    def resident():
        text = Path("/proc/self/smaps").read_text()
        mapping = text[text.index(str(tmp_path)) :]
        return int(mapping[mapping.index("\nRss:") :].split()[1]) * 1024

    total = state["a"].sum(dtype=np.float64)
    assert resident() >= array.nbytes
    release(state["a"].reshape(1024, 1024).T)
    assert resident() < array.nbytes // 8
    assert state["a"].sum(dtype=np.float64) == total
    assert (state["b"] == -array).all()
    for no_view in (array, state["c"], np.float32(1) * array):
        release(no_view)
    assert (array[:10] == state["c"]).all()

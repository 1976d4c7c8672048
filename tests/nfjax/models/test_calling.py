"""Models on meshes of any axis types, outside of jit, and with inputs that are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import nfjax
from nfjax.params import merge, split

# Of each family the smallest, with as little depth as has all its parts.
MODELS = {
    "test_nfnet": {"depths": (2,), "channels": (32,)},
    "test_vit2": {"depth": 2},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "vit_medium_patch16_rope_reg1_gap_256": {"img_size": 64, "depth": 2},
}


def loaded(name, **options):
    return nfjax.load(name, None, **MODELS[name], **options)


def images(model, batch=4):
    return np.random.default_rng(0).standard_normal((batch, *model.data_config.input_size[1:], 3)).astype(np.float32)


def mesh_of(kind):
    return jax.make_mesh((2,), ("d",), axis_types=(kind,), devices=jax.devices()[:2])


def close(found, expected):
    assert len(jax.tree.leaves(found)) == len(jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_on_a_mesh(name, kind):
    """Logits, features, gradients and `nfjax.compile`; what comes out is sharded as the batch is."""
    model = loaded(name)
    x = images(model)

    def all_of(model, x):
        def loss(params):
            return jnp.mean(jnp.square(merge(graphdef, params)(x)))

        graphdef, params = split(model)
        return model(x), model.forward_intermediates(x), jax.grad(loss)(params)

    expected = jax.jit(all_of)(model, x)
    rows, everywhere = (NamedSharding(mesh_of(kind), spec) for spec in (P("d"), P()))
    there, batch = jax.device_put(model, everywhere), jax.device_put(x, rows)
    inside = jax.jit(all_of)(there, batch)
    outside = there(batch), there.forward_intermediates(batch), inside[2]
    for found in (inside, outside):
        close(found, expected)
        assert found[0].sharding.is_equivalent_to(rows, 2)
    compiled = nfjax.compile(there, batch)
    close([compiled(batch), compiled(x)], [expected[0]] * 2)
    assert compiled(batch).sharding.is_equivalent_to(rows, 2)
    with pytest.raises(ValueError, match=r"is compiled already, and cannot be called inside jax\.jit, grad or vmap"):
        jax.jit(compiled)(x)
    assert nfjax.compile(model, batch)(batch).sharding.is_equivalent_to(rows, 2)


def test_under_a_mesh_that_is_set():
    model = loaded("test_vit2")
    x = images(model)
    expected = model(x)
    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        close(jax.jit(lambda x: model(x))(jax.device_put(x, P("d"))), expected)


@pytest.mark.parametrize("name", MODELS)
def test_no_images_have_no_logits(name):
    model = loaded(name)
    assert jax.eval_shape(model, images(model)[:0]).shape == (0, model.num_classes)


@pytest.mark.parametrize("name", MODELS)
def test_a_call_outside_of_jit_is_one_program(name, capfd):
    model = loaded(name)
    x = images(model)
    with jax.log_compiles(True):
        first = model(x)
    lines = [line for line in capfd.readouterr().err.splitlines() if "Finished XLA compilation" in line]
    assert len(lines) <= 2
    with jax.disable_jit():
        close(first, model(x))


def test_changes_of_the_parameters_reach_the_next_call():
    model = loaded("test_nfnet")
    x = images(model)
    before = model(x)
    model.head.fc.bias.set_value(model.head.fc.bias[...] + 1)
    close(model(x), before + 1)


def test_a_module_of_the_users_sees_every_call():
    class Counting(nnx.Module):
        def __init__(self):
            self.seen = []

        def __call__(self, x, **options):
            SEEN.append(type(x))
            return x

    SEEN = []
    model = loaded("test_nfnet")
    model.head = Counting()
    for _ in range(2):
        model(images(model, 1))
    assert len(SEEN) == 2


def test_training_calls_draw_from_their_key():
    model = loaded("test_nfnet", drop_rate=0.5)
    x = images(model, 2)
    one, two = (model(x, key=jax.random.key(seed)) for seed in (0, 1))
    assert np.abs(one - two).max() > 1e-3
    np.testing.assert_array_equal(one, model(x, key=jax.random.key(0)))


def test_what_is_no_array_is_a_sentence():
    import torch

    model = loaded("test_vit2")
    x = images(model, 1)
    compiled = nfjax.compile(model, x)
    for call in (model, model.forward_features, compiled):
        with pytest.raises(ValueError, match=r"input of type torch\.Tensor; expected an array of jax or numpy"):
            call(torch.zeros(1, 3, 160, 160))
        with pytest.raises(ValueError, match=r"input of type builtins\.list"):
            call([[1.0]])
    for transform in (jax.jit, lambda f: jax.grad(lambda x: f(x).sum()), jax.vmap):
        with pytest.raises(ValueError, match=r"cannot be called inside jax\.jit, grad or vmap: call the model itself"):
            transform(compiled)(x)


def test_keys_of_flax():
    """The next one of an `nnx.Rngs`, inside of jit and outside; what other modules are told instead is explained."""
    model = loaded("test_nfnet", drop_rate=0.5)
    x, rngs = images(model, 2), nnx.Rngs(3)
    first, second = model(x, key=rngs), model(x, key=rngs)
    expected = nnx.Rngs(3)
    np.testing.assert_array_equal(first, model(x, key=expected.dropout()))
    np.testing.assert_array_equal(second, model(x, key=expected.dropout()))
    inside = nnx.jit(lambda model, x, rngs: model(x, key=rngs))(model, x, nnx.Rngs(3))
    np.testing.assert_allclose(inside, first, rtol=1e-5, atol=1e-5)
    for option in ("deterministic", "train", "training", "rngs"):
        with pytest.raises(TypeError, match=rf"{option}=.*each call decides whether it trains: model\(x, key=key\)"):
            model(x, **{option: True})
    with pytest.raises(ValueError, match=r"key=0; expected a key of jax\.random"):
        model(x, key=0)


def test_modes_of_flax():
    model = loaded("test_nfnet")
    with pytest.raises(ValueError, match=r"model\.train\(\) would change nothing: each call decides"):
        model.train()
    with pytest.raises(TypeError, match=r"^rngs=Rngs\(.*\\n.*: each call decides"):
        model(images(model, 1), rngs=nnx.Rngs(0))
    model.eval()
    model.head.fc = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), model.head.fc)
    model.train()  # that layer
    x = images(model, 1)
    assert np.abs(model(x) - model(x)).max() > 1e-3
    model.eval()
    np.testing.assert_array_equal(model(x), model(x))


def test_a_layer_with_state_on_a_mesh():
    """Its changes would be lost there; without a mesh they are kept."""
    model = loaded("test_vit2")
    model.head = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(1)), nnx.Linear(64, 5, rngs=nnx.Rngs(0)))
    model.train()
    x = images(model, 2)
    assert np.abs(model(x) - model(x)).max() > 1e-3
    batch = jax.device_put(x, NamedSharding(mesh_of(AxisType.Explicit), P("d")))
    with pytest.raises(ValueError, match=r"head\.layers\.0\.rngs.* keeps state"):
        model(batch)


def test_arguments_that_python_would_refuse():
    model = loaded("test_nfnet")
    x = images(model, 1)
    with pytest.raises(TypeError):
        model(x, jax.random.key(0))
    with pytest.raises(TypeError):
        model(x, x=x)
    with pytest.raises(ValueError, match=r"input of type builtins\.NoneType"):
        model(None)
    with pytest.raises(ValueError, match="without a stream dropout"):
        model(x, key=nnx.Rngs(params=0))

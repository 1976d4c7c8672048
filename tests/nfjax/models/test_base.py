"""What a model does once it is loaded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfjax
from nfjax.models.nfnet import NormFreeNet
from nfjax.models.nfnet_configs import NFNETS
from nfjax.nn.layers import drop_path, dropout
from nfjax.params import initialize, merge, named_params, split

# The smallest network with the other families' traits.
DEEPMIND = {"gamma_in_act": True, "same_padding": True, "skipinit": True, "act_layer": "gelu"}
REGNET = {"stem_type": "3x3", "reg": True, "attn_layer": "eca", "num_features": 0}
X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 64, 64, 3)), jnp.float32)


@pytest.fixture(scope="module")
def state():
    """Every gain away from zero, so that no branch hides."""
    rng = np.random.default_rng(1)
    fresh = nfjax.state_dict(nfjax.load("test_nfnet", weights=None))
    return {k: v if "gain" not in k else rng.uniform(0.5, 1.5, v.shape).astype("f4") for k, v in fresh.items()}


@pytest.fixture
def model(state):
    return nfjax.load("test_nfnet", weights=state)


def test_split_and_merge(model):
    graphdef, params = split(model)
    assert set(params) == set(named_params(model))
    assert "stages/0/0/conv1/kernel" in params
    pure = jax.jit(lambda params, x: merge(graphdef, params)(x))
    np.testing.assert_allclose(pure(params, X), jax.jit(model)(X), rtol=1e-5, atol=1e-6)
    assert hash(graphdef) == hash(split(nfjax.load("test_nfnet", weights=None))[0])


def test_parts_make_the_whole(model):
    logits, (features, maps) = jax.jit(lambda x: (model(x), model.forward_intermediates(x)))(X)
    assert features.shape == (4, 2, 2, model.num_features)
    np.testing.assert_allclose(model.forward_head(features), logits, rtol=1e-5, atol=1e-6)
    pooled = model.forward_head(features, pre_logits=True)
    np.testing.assert_allclose(pooled, features.mean((1, 2)), rtol=1e-6)
    assert [m.shape[-1] for m in maps] == model.feature_info.channels()
    assert [64 // m.shape[1] for m in maps] == model.feature_info.reduction() == [2, 4, 8, 16, 32]


def test_intermediate_indices(model):
    cases = ((2, [3, 4]), ([0, -1], [0, 4]), ([3, 1], [1, 3]), ((0,), [0]))

    @jax.jit  # one program: what the calls have in common is computed once
    def call(x):
        selected = [model.forward_intermediates(x, indices, intermediates_only=True) for indices, _ in cases]
        return model.forward_intermediates(x)[1], selected

    maps, selected = call(X)
    assert len({m.shape for m in maps}) == 5  # no two can be taken for each other
    for (_, expected), taken in zip(cases, selected, strict=True):
        assert len(taken) == len(expected)
        for mine, position in zip(taken, expected, strict=True):
            np.testing.assert_array_equal(mine, maps[position])
    for wrong in (6, 0, [5], [-6], []):
        with pytest.raises(ValueError, match="feature"):
            model.forward_intermediates(X, wrong, intermediates_only=True)


def test_reset_classifier(model, state):
    def shape():
        return jax.eval_shape(lambda x: model(x), X).shape  # a new function: jax remembers the old one's shapes

    model.reset_classifier(5, "catavgmax")
    assert shape() == (4, 5)
    assert model.head_hidden_size == 2 * model.num_features
    model.reset_classifier(0)
    assert shape() == (4, 2 * model.num_features)
    model.reset_classifier(0, "")
    assert shape() == (4, 2, 2, model.num_features)
    kept = nfjax.state_dict(model)
    model.reset_classifier(5, "avg", seed=3)
    loaded = nfjax.load("test_nfnet", weights=state, num_classes=5, seed=3)
    np.testing.assert_array_equal(model.head.fc.kernel[...], loaded.head.fc.kernel[...])
    assert all((kept[k] == state[k]).all() for k in kept)


def test_features_only(state):
    model = nfjax.load("test_nfnet", weights=state, features_only=True, out_indices=[0, 2])
    assert model.feature_info.module_name() == ["stem.conv3", "stages.1"]
    assert len(named_params(model)) < len(state) / 1.5
    assert [m.shape for m in jax.eval_shape(model, X)] == [(4, 32, 32, 64), (4, 8, 8, 64)]
    with pytest.raises(ValueError, match="features_only model"):
        nfjax.save(model, "nowhere")


@pytest.mark.parametrize("changes", [{}, DEEPMIND, REGNET], ids=["plain", "deepmind", "regnet"])
def test_fold_and_compile(changes):
    model = NormFreeNet(dataclasses.replace(NFNETS["test_nfnet"], **changes))
    initialize(named_params(model))
    before = nfjax.state_dict(model)
    folded = nfjax.fold(model)
    expected = jax.jit(lambda x: model(x))(X)
    assert not any(path.endswith("/gain") for path in named_params(folded))
    np.testing.assert_allclose(jax.jit(lambda x: folded(x))(X), expected, atol=1e-6)
    np.testing.assert_allclose(nfjax.compile(model, X)(X), expected, atol=1e-6)
    after = nfjax.state_dict(model)
    assert all((before[k] == after[k]).all() for k in before)  # the original is as it was
    with pytest.raises(ValueError, match="folded model has no timm weights"):
        nfjax.state_dict(folded)


def test_checkpointing_changes_no_gradient(x64):
    """With two of the four stages, which take half of the time to compile."""
    options = {"depths": (1, 1), "channels": (32, 64), "dtype": "float64"}
    fresh = nfjax.state_dict(nfjax.load("test_nfnet", weights=None, **options))
    random = {k: np.full_like(v, 0.7) if "gain" in k else v for k, v in fresh.items()}
    model = nfjax.load("test_nfnet", weights=random, drop_path_rate=0.5, **options)
    x, key = X[:, :32, :32].astype("float64"), jax.random.key(0)

    def gradient():
        graphdef, params = split(model)
        return jax.device_get(jax.jit(jax.grad(lambda p: (merge(graphdef, p)(x, key=key) ** 2).sum()))(params))

    plain = gradient()
    model.set_grad_checkpointing()
    for path, grad in gradient().items():
        np.testing.assert_allclose(grad, plain[path], rtol=1e-9, atol=1e-12 * np.abs(plain[path]).max())
        assert np.any(grad != 0), path  # every parameter is reached


def test_a_key_trains_and_no_key_evaluates(state):
    model = nfjax.load("test_nfnet", weights=state, drop_rate=0.5, drop_path_rate=0.5)
    call = jax.jit(lambda x, key: model(x, key=key))
    one, two = (call(X, jax.random.key(i)) for i in (0, 1))
    assert (one != two).any()
    np.testing.assert_array_equal(one, call(X, jax.random.key(0)))
    plain = nfjax.load("test_nfnet", weights=state)
    np.testing.assert_array_equal(jax.jit(model)(X), jax.jit(plain)(X))


def test_drop_path_and_dropout_keep_the_mean():
    ones, key = jnp.ones((20_000, 2)), jax.random.key(0)
    dropped = drop_path(ones, 0.3, key)
    assert (dropped[:, 0] == dropped[:, 1]).all()  # whole samples
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.7)}
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    elements = dropout(ones, 0.3, key)
    assert (elements[:, 0] != elements[:, 1]).any()
    assert float(elements.mean()) == pytest.approx(1, abs=0.02)
    assert drop_path(ones, 0.3, None) is ones
    assert dropout(ones, 0.0, key) is ones


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (jnp.zeros((1, 3, 64, 64)), "NCHW"),
        (jnp.zeros((64, 64, 3)), r"x\[None\]"),
        (jnp.zeros((1, 64, 64, 1)), r"expected \(batch, height, width, 3\)"),
        (jnp.zeros((1, 64, 64, 3), jnp.uint8), "expected floating point"),
    ],
)
def test_wrong_inputs_are_explained(model, x, said):
    with pytest.raises(ValueError, match=said):
        model(x)


def test_no_array_is_in_the_definition(model):
    """A model is its parameters: nothing else holds memory, so nothing is left out of a checkpoint."""
    leaves = jax.tree.leaves(split(model)[1])
    assert sum(leaf.size for leaf in leaves) == 383_080


@pytest.mark.parametrize("name", ["test_nfnet", "vit_tiny_patch16_224"])
def test_feature_info_is_in_the_order_that_was_asked_for(name):
    model = nfjax.load(name, weights=None, img_size=64, features_only=True, out_indices=(4, 1, 4))
    maps = jax.eval_shape(lambda x: model(x), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    assert [f.index for f in model.feature_info] == [4, 1, 4]
    for feature, found in zip(model.feature_info, maps, strict=True):
        assert found.shape == (1, 64 // feature.reduction, 64 // feature.reduction, feature.num_chs)

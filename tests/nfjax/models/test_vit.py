"""What a transformer does once it is loaded."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfjax
from nfjax.nn import attention
from nfjax.nn.vit_layers import drop_patches
from nfjax.params import merge, named_params, split

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 64, 96, 3)), jnp.float32)
# One of each block.
KINDS = [
    "test_vit3",
    "vit_pwee_patch16_reg1_gap_256",
    "vit_dwee_patch16_reg1_gap_256",
    "vit_dpwee_patch16_reg1_gap_256",
    "vit_medium_patch16_rope_reg1_gap_256",
]


SMALL = {"img_size": (64, 96), "depth": 2, "embed_dim": 64, "num_heads": 2, "init_values": 0.5}


def small(name="test_vit2", **options):
    return nfjax.load(name, weights=None, **(SMALL | options))


def shape(function, x=X):
    return jax.eval_shape(lambda x: function(x), x).shape


def test_shapes_of_the_model_card():
    """Those that timm's card of vit_medium_patch16_reg4_gap_256 prints, in NHWC."""
    name, x = "vit_medium_patch16_reg4_gap_256", jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    model = nfjax.load(name, weights=None)
    assert shape(model, x) == (1, 1000)
    assert shape(model.forward_features, x) == (1, 260, 512)
    features = jax.eval_shape(lambda x: model.forward_features(x), x)
    assert jax.eval_shape(lambda f: model.forward_head(f, pre_logits=True), features).shape == (1, 512)
    assert sum(var.get_value().size for var in named_params(model).values()) == 38_881_768  # 38.9 M
    assert shape(nfjax.load(name, weights=None, num_classes=0), x) == (1, 512)
    model = nfjax.load(name, weights=None, features_only=True)
    assert [m.shape for m in jax.eval_shape(model, x)] == [(1, 16, 16, 512)] * 3
    assert model.feature_info.module_name() == ["blocks.9", "blocks.10", "blocks.11"]


@pytest.mark.parametrize("name", KINDS)
def test_parts_make_the_whole(name):
    model = small(name)
    logits, (features, maps) = jax.jit(lambda x: (model(x), model.forward_intermediates(x)))(X)
    assert features.shape == (2, model.num_prefix_tokens + 24, model.num_features)
    np.testing.assert_allclose(jax.jit(model.forward_head)(features), logits, rtol=1e-4, atol=1e-5)
    assert [m.shape for m in maps] == [(2, 4, 6, model.num_features)] * 2
    np.testing.assert_allclose(nfjax.compile(model, X)(X), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_key_trains_and_no_key_evaluates(name, x64):
    """Every kind of dropout acts, each by itself, and only with a key; rematerialisation changes no gradient."""
    name = "vit_tiny_patch16_224" if name == "test_vit3" else name  # attention pooling has no dropout of its own
    plain = small(name, dtype="float64")
    state, x = nfjax.state_dict(plain), X.astype("float64")
    expected = jax.jit(plain)(x)
    np.testing.assert_allclose(jax.jit(lambda x: plain(x, key=jax.random.key(0)))(x), expected, rtol=1e-9)
    rates = {f"{kind}_rate": 0.5 for kind in ("drop", "drop_path", "pos_drop", "patch_drop", "proj_drop", "attn_drop")}
    for option, rate in rates.items():
        model = nfjax.load(name, weights=state, dtype="float64", **{option: rate}, **SMALL)
        call = jax.jit(lambda x, key, model=model: model(x, key=key))
        one, *others = (call(x, jax.random.key(i)) for i in range(9))
        assert any((one != other).any() for other in others), option
        np.testing.assert_array_equal(one, call(x, jax.random.key(0)))
    model = nfjax.load(name, weights=state, dtype="float64", **rates, **SMALL)
    np.testing.assert_allclose(jax.jit(model)(x), expected, rtol=1e-9)

    def gradient(model):
        graphdef, params = split(model)
        loss = jax.jit(jax.grad(lambda p: (merge(graphdef, p)(x, key=jax.random.key(1)) ** 2).sum()))
        return jax.device_get(loss(params))

    without = gradient(model)
    model.set_grad_checkpointing()
    for path, grad in gradient(model).items():
        np.testing.assert_allclose(grad, without[path], rtol=1e-9, atol=1e-12 * np.abs(without[path]).max())
        assert np.any(grad != 0), path


def test_patches_that_training_leaves_out():
    """So many of each image, others of each, each as often; maps of a part of the patches are refused."""
    tokens = jnp.tile(jnp.arange(26.0)[None, :, None], (500, 1, 1))
    rope = jnp.tile(jnp.arange(24.0)[None, :, None], (2, 1, 4))
    kept, moved = drop_patches(tokens, rope, 2, 0.3, jax.random.key(0))
    assert kept.shape == (500, 2 + 16, 1)
    np.testing.assert_array_equal(kept[0, :2, 0], [0, 1])
    np.testing.assert_array_equal(moved[1, ..., 0], kept[:, 2:, 0] - 2)
    counts = np.bincount(np.asarray(kept[:, 2:, 0], int).ravel())[2:]
    assert counts.sum() == 500 * 16
    assert np.abs(counts / 500 - 16 / 24).max() < 0.1
    assert all(len(set(row)) == 16 for row in np.asarray(kept[:, 2:, 0]))
    assert drop_patches(tokens[:, :3], None, 2, 0.9, jax.random.key(0))[0].shape == (500, 3, 1)
    model = small(patch_drop_rate=0.5)
    with pytest.raises(ValueError, match=r"patch_drop_rate=0\.5 leaves no maps"):
        model.forward_intermediates(X, key=jax.random.key(0))
    assert model.get_intermediate_layers(X)[0].shape == (2, 24, 64)


def test_set_input_size_refuses_what_is_no_size():
    model = small()
    for sizes, said in [
        ({"img_size": 8}, r"img_size=\(8, 8\) has no room"),
        ({"img_size": (1, 2, 3)}, "expected one number, or height and width"),
        ({"patch_size": 0}, "patch_size=0; expected a whole number"),
        ({"patch_size": 128}, "has no room for a patch of 128"),
    ]:
        with pytest.raises(ValueError, match=said):
            model.set_input_size(**sizes)
    assert shape(model) == (2, 1000)


def test_attention_dropout_keeps_the_mean():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 8, 2, 4)) for i in range(3))
    plain = attention.attend(q, k, v)
    draw = jax.vmap(lambda key: attention.attend(q, k, v, drop_rate=0.3, key=key))
    mean = draw(jax.random.split(jax.random.key(5), 20_000)).mean(0)
    np.testing.assert_allclose(mean, plain, atol=0.03)
    weights = attention.attention_weights(q, k)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(attention.apply_weights(weights, v), plain, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "backend", "expected"),
    [("bfloat16", "gpu", "cudnn"), ("float32", "gpu", None), ("bfloat16", "cpu", None)],
)
def test_the_fused_kernel_is_taken_where_it_exists(dtype, backend, expected, monkeypatch):
    taken = []
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda q, k, v, implementation: taken.append(implementation) or v
    )
    q = jnp.ones((1, 4, 2, 64), dtype)
    attention.attend(q, q, q)
    assert taken == [expected]


def test_half_precision():
    full = small()
    half = nfjax.load("test_vit2", weights=nfjax.state_dict(full), dtype=jnp.bfloat16, img_size=(64, 96), depth=2)
    assert jax.eval_shape(half.forward_features, X).dtype == jnp.bfloat16
    ours, reference = jax.jit(half)(X), jax.jit(full)(X)
    assert ours.dtype == jnp.float32
    assert 0 < np.abs(ours - reference).max() < 0.03 * np.abs(reference).max()


def test_reset_classifier():
    model = small(num_classes=0)
    assert shape(model) == (2, 64)
    model.reset_classifier(5, "max", seed=3)
    assert (shape(model), model.global_pool, model.num_classes) == ((2, 5), "max", 5)
    assert model.head.kernel[...].shape == (64, 5)
    assert model.fc_norm is not None
    model.reset_classifier(0, "")
    assert shape(model) == (2, 25, 64)
    with pytest.raises(ValueError, match="needs a class token"):
        model.reset_classifier(5, "token")
    with pytest.raises(ValueError, match="cannot be added"):
        model.reset_classifier(5, "map")
    pooled = small("test_vit3")
    pooled.reset_classifier(5, "avg")
    assert not any(path.startswith("attn_pool") for path in named_params(pooled))
    assert shape(pooled) == (2, 5)


def test_classifier_of_another_class_count(caplog):
    state = nfjax.state_dict(small())
    with caplog.at_level(logging.WARNING, "nfjax"):
        ten = nfjax.load("test_vit2", weights=state, num_classes=10, img_size=(64, 96), depth=2)
    assert "its classifier is fresh" in caplog.text
    mine = nfjax.state_dict(ten)
    assert mine["head.weight"].shape == (10, 64)
    assert all(mine[k].tobytes() == state[k].tobytes() for k in state if not k.startswith("head."))


def test_weights_of_another_size_are_resampled_and_that_is_said(caplog):
    state = nfjax.state_dict(small(img_size=96))
    with caplog.at_level(logging.WARNING, "nfjax"):
        asked = nfjax.load("test_vit2", weights=state, img_size=64, depth=2)
        kept = nfjax.load("test_vit2", weights=state, img_size=96, depth=2)
        assert not caplog.text
        nfjax.load("test_vit2", weights=state, depth=2)
    assert "for images of 96x96, and their position embedding is resampled for 160x160" in caplog.text
    assert asked.pos_embed[...].shape == (1, 1 + 16, 64)
    assert kept.pos_embed[...].tobytes() == state["pos_embed"].tobytes()
    odd = nfjax.state_dict(small(img_size=(64, 112)))  # 4 x 7 patches: the weights do not say so
    with pytest.raises(ValueError, match=r"has 28 patches, .* pass the img_size"):
        nfjax.load("test_vit2", weights=odd, depth=2)
    nfjax.load("test_vit2", weights=odd, depth=2, img_size=(64, 112))


@pytest.mark.parametrize(
    ("dynamic", "x", "said"),
    [
        (False, (1, 96, 64, 3), r"96x64 pixels; .* loaded for 64x96\. Load it with img_size=\(96, 64\); or resize"),
        (False, (1, 100, 64, 3), r"img_size=\(96, 64\), and resize the images to 96x64; or resize .* to 64x96"),
        (False, (1, 3, 64, 96), "NCHW"),
        (True, (1, 100, 64, 3), "takes multiples of 16"),
    ],
)
def test_wrong_sizes_are_explained(dynamic, x, said):
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(small(dynamic_img_size=dynamic), jnp.zeros(x))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depht": 2}, "has no option depht; did you mean depth"),
        ({"output_stride": 16}, "has no option output_stride"),
        ({"global_pool": "catavgmax"}, "global_pool='catavgmax'"),
        ({"global_pool": "token"}, "needs a class token"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"in_chans": 0}, "in_chans=0"),
        ({"img_size": 8}, r"img_size=\(8, 8\) has no room"),
    ],
)
def test_options_that_make_no_sense(options, said):
    with pytest.raises(ValueError, match=said):
        nfjax.load("test_vit2", weights=None, **options)


def test_no_array_is_in_the_definition():
    for name in KINDS:
        model = small(name)
        graphdef, params = split(model)
        assert hash(graphdef) == hash(split(small(name))[0])
        assert params.keys() == named_params(model).keys()

"""`nfjax.explain` against plain formulas, its command, and what is refused. tests/parity/test_explain.py asks torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax.__main__ import main
from nfjax.cli import options
from nfjax.tasks.explaining import METHODS, rollout


@pytest.fixture(scope="module")
def vit():
    return nfjax.load("test_vit2", weights=None, img_size=64, depth=3)


@pytest.fixture(scope="module")
def nfnet():
    return nfjax.load("test_nfnet", weights=None)


def images(side, count=2):
    return np.random.default_rng(0).normal(size=(count, side, side, 3)).astype(np.float32)


def test_rollout_equals_its_formula(vit):
    x = images(64)
    maps = [np.asarray(m, np.float64) for m in vit.attention_maps(x)]
    tokens = maps[0].shape[-1]
    for image in range(2):
        expected = np.eye(tokens)
        for layer in maps:
            a = 0.5 * layer[image].mean(0) + 0.5 * np.eye(tokens)
            expected = (a / a.sum(1, keepdims=True)) @ expected
        found = np.asarray(rollout([jnp.asarray(m) for m in maps], jnp.eye(tokens)))[image]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
        prefix = vit.num_prefix_tokens  # the class token, and registers
        rows = expected[:1] if vit.global_pool == "token" else expected[prefix:]
        small = rows[:, prefix:].mean(0).reshape(vit.grid_size)
        large = np.asarray(jax.image.resize(small, (64, 64), "bilinear"))
        large = (large - large.min()) / (large.max() - large.min())
        np.testing.assert_allclose(nfjax.explain(vit, x)[image], large, atol=1e-4)
    last = nfjax.explain(vit, x, method="attention")
    assert last.shape == (2, 64, 64)
    assert (last.min(), last.max()) == (0, pytest.approx(1))
    assert np.abs(last - nfjax.explain(vit, x)).max() > 0.01


def test_a_class_shows_where_it_is(nfnet):
    """The head sees one channel, which is large where one corner of the image is."""
    x = images(64)
    features = np.asarray(nfnet.forward_features(x))
    kernel = np.zeros((features.shape[-1], 1000), np.float32)
    kernel[5, 7], kernel[6, 8] = 1.0, 1.0
    model = nfjax.load("test_nfnet", weights=None)
    model.head.fc.kernel.set_value(jnp.asarray(kernel))
    for target, channel in ((7, 5), (8, 6), ([7, 8], None)):
        found = nfjax.explain(model, x, target=target)
        for image in range(2):
            of = (5, 6)[image] if channel is None else channel
            small = np.maximum(features[image, :, :, of], 0)
            large = np.asarray(jax.image.resize(small, (64, 64), "bilinear"))
            np.testing.assert_allclose(found[image], large / large.max(), atol=1e-3)


def test_images_are_given_as_to_classify(nfnet, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x = nfjax.create_transform(nfnet).batch([tmp_path / "a.png"])
    expected = nfjax.explain(nfnet, x)
    assert expected.shape == (1, 160, 160)
    assert expected.dtype == np.float32
    assert expected.min() >= 0
    assert expected.max() == pytest.approx(1)
    for way in (tmp_path / "a.png", [pixels]):
        np.testing.assert_array_equal(nfjax.explain(nfnet, way), expected)


@pytest.mark.parametrize(
    ("family", "options", "said"),
    [
        ("nfnet", {"method": "rollout"}, "has no 'rollout'; choose 'gradcam'"),
        ("nfnet", {"method": "grad"}, "unknown method 'grad'; did you mean gradcam"),
        ("nfnet", {"target": 1000}, "expected an index from 0 to 999"),
        ("nfnet", {"target": [1]}, "or one for each of 2 images"),
        ("vit", {"target": 1}, "'rollout' is the same for all classes"),
        ("vit", {"method": "gradcam"}, "choose 'rollout' or 'attention'"),
    ],
)
def test_mistakes(family, options, said, request):
    with pytest.raises(ValueError, match=said):
        nfjax.explain(request.getfixturevalue(family), images(64), **options)


def test_models_without_a_head_are_refused():
    with pytest.raises(ValueError, match="has no classifier, and Grad-CAM explains a class"):
        nfjax.explain(nfjax.load("test_nfnet", weights=None, num_classes=0), images(64))
    with pytest.raises(ValueError, match="features_only"):
        nfjax.explain(nfjax.load("test_nfnet", weights=None, features_only=True), images(64))


def test_the_command(nfnet, vit, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert tuple(METHODS) == options.METHODS
    nfjax.save(nfnet, tmp_path / "nfnet")
    nfjax.save(vit, tmp_path / "vit")
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)).save(photos / "a.png")
    (photos / "b.png").write_bytes(b"no picture")
    for model, *more in (("nfnet", "--target", "3"), ("vit",), ("vit", "--method", "attention")):
        out = tmp_path / "out" / "-".join([model, *more])
        arguments = [str(photos), str(photos / "a.png"), "--model", str(tmp_path / model), *more, "-o", str(out)]
        assert main(["explain", *arguments]) == 1
        err = capsys.readouterr().err
        assert "b.png is not an image" in err
        assert f"{out}: 1 picture of test_{'nfnet' if model == 'nfnet' else 'vit2'}" in err
        with Image.open(out / "a.png") as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    for arguments, said in (
        (["--model", str(tmp_path / "vit"), "--target", "3"], "--target=3; "),
        (["--model", str(tmp_path / "vit"), "--method", "gradcam"], "has no gradcam; its methods are rollout and"),
    ):
        assert main(["explain", str(photos / "a.png"), *arguments, "-o", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err

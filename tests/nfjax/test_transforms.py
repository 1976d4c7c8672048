"""`nfjax.create_transform`: its arguments, its geometry in cases that can be worked out by hand, and its batches."""

import dataclasses
import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax.images import ImageError

PLAIN = {"mean": 0.0, "std": 1.0, "interpolation": "nearest"}
RNG = np.random.default_rng(0)


def noise(height, width):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_model_a_data_config_and_names_are_the_same(tmp_path):
    model = nfjax.load("test_nfnet", weights=None)
    nfjax.save(model, tmp_path)
    expected = nfjax.EvalTransform((160, 160), 0.95, "center", "bicubic", (0.5,) * 3, (0.5,) * 3)
    for source in (model, model.data_config, "test_nfnet", "test_nfnet.r160_in1k", f"local-dir:{tmp_path}"):
        assert nfjax.create_transform(source) == expected


def test_the_image_size_of_a_model_is_that_of_its_transform():
    model = nfjax.load("test_vit2", weights=None, img_size=(64, 96), depth=1)
    image = nfjax.create_transform(model)(noise(70, 80))
    assert image.shape == (64, 96, 3)
    assert model(image[None]).shape == (1, 1000)


def test_test_size():
    transform = nfjax.create_transform("eca_nfnet_l0", use_test_size=True)
    assert (transform.size, transform.crop_pct) == ((288, 288), 1.0)
    transform = nfjax.create_transform("eca_nfnet_l0")
    assert (transform.size, transform.crop_pct, transform.scale_size) == ((224, 224), 0.9, (248, 248))


def test_one_channel(tmp_path):
    """Greyscale images, with the average of mean and std; also where only the model's arguments say so."""
    model = nfjax.load("test_nfnet", weights=None, in_chans=1)
    transform = nfjax.create_transform(model, mean=0.25, std=0.5, crop_pct=1)
    assert (transform.mean, transform.std) == ((0.25,), (0.5,))
    found = transform(Image.new("RGB", (200, 160), (51, 51, 51)))
    assert found.shape == (160, 160, 1)
    np.testing.assert_allclose(found, (0.2 - 0.25) / 0.5, atol=1e-6)
    grey = nfjax.create_transform("eca_nfnet_l0", input_size=(1, 64, 64))
    assert grey.mean == pytest.approx([0.449])
    folder = nfjax.save(model, tmp_path)
    assert nfjax.create_transform(f"local-dir:{folder}") == nfjax.create_transform(model)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["input_size"][0] = 3  # as timm writes it
    (folder / "config.json").write_text(json.dumps(config | {"model_args": {"in_chans": 1}}))
    assert nfjax.create_transform(f"local-dir:{folder}") == nfjax.create_transform(model)


def test_values():
    image = Image.new("RGB", (50, 40), (0, 51, 255))
    found = nfjax.create_transform("test_nfnet", img_size=(8, 6), mean=(0, 0.2, 0.5), std=(1, 2, 0.5))(image)
    assert (found.shape, found.dtype) == ((8, 6, 3), np.float32)
    np.testing.assert_allclose(found, np.broadcast_to([0, 0, 1], (8, 6, 3)), atol=1e-7)
    assert found.flags.c_contiguous
    assert found.flags.writeable


def test_center_loses_the_ends_of_the_long_side():
    image = noise(8, 14)
    for picture, pixels in ((image, np.asarray(image)[:, 3:11]), (image.rotate(90, expand=True), None)):
        found = nfjax.create_transform("test_nfnet", img_size=8, crop_pct=1, **PLAIN)(picture)
        pixels = np.asarray(picture)[3:11] if pixels is None else pixels
        np.testing.assert_allclose(found * 255, pixels, atol=1e-4)


def test_crop_pct_keeps_the_middle():
    image = noise(10, 10)
    found = nfjax.create_transform("test_nfnet", img_size=6, crop_pct=0.6, **PLAIN)(image)
    np.testing.assert_allclose(found * 255, np.asarray(image)[2:8, 2:8], atol=1e-4)


def test_squash_keeps_everything():
    image = noise(12, 8)
    options = {"crop_mode": "squash", "crop_pct": 1, **PLAIN}
    found = nfjax.create_transform("test_nfnet", img_size=(6, 8), **options)(image)
    np.testing.assert_allclose(found * 255, np.asarray(image)[1::2], atol=1e-4)


def test_border_is_of_the_mean_colour():
    options = {"crop_mode": "border", "crop_pct": 1, "interpolation": "nearest"}
    image = noise(4, 8)
    found = nfjax.create_transform("test_nfnet", img_size=8, mean=(0.2, 0.4, 0.6), std=1, **options)(image)
    np.testing.assert_allclose(found[[0, 1, 6, 7]], 0, atol=1e-6)
    np.testing.assert_allclose(found[2:6] + np.array([0.2, 0.4, 0.6]), np.asarray(image) / 255, atol=1e-6)


def test_sides_do_not_vanish():
    """timm cannot fit these into a border; ours keeps one pixel."""
    image = nfjax.create_transform("test_nfnet", img_size=8, crop_mode="border")(noise(1, 100))
    assert image.shape == (8, 8, 3)


def test_batch(tmp_path):
    transform = nfjax.create_transform("test_nfnet", img_size=(10, 12))
    images = [noise(int(h), int(w)) for h, w in RNG.integers(5, 40, (9, 2))]
    sources = list(images)
    sources[3] = tmp_path / "3.png"
    sources[4] = str(tmp_path / "4.png")
    for index in (3, 4):
        images[index].save(sources[index])
    expected = np.stack([transform(image) for image in images])
    for threads in (None, 1, 4):
        found = transform.batch(iter(sources), threads=threads)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert transform.batch([]).shape == (0, 10, 12, 3)


def test_batch_errors(tmp_path):
    transform = nfjax.create_transform("test_nfnet")
    for one in ("photo.jpg", tmp_path, noise(4, 4), io.BytesIO()):
        with pytest.raises(ValueError, match="batch takes many images, and found one"):
            transform.batch(one)
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"bad\.jpg is not an image"):
        transform.batch([noise(3, 3), tmp_path / "bad.jpg", noise(3, 3)])
    with pytest.raises(FileNotFoundError, match=r"there is no file .*missing\.jpg"):
        transform.batch([tmp_path / "missing.jpg"])
    with pytest.raises(ValueError, match="threads=0"):
        transform.batch([], threads=0)


def test_it_is_a_value():
    transform = nfjax.create_transform("test_nfnet")
    assert repr(transform) == (
        "EvalTransform(size=(160, 160), crop_pct=0.95, crop_mode='center', interpolation='bicubic', "
        "mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))"
    )
    copy = pickle.loads(pickle.dumps(transform))
    assert copy == transform
    assert hash(copy) == hash(transform)
    image = noise(30, 40)
    np.testing.assert_array_equal(copy(image), transform(image))
    with pytest.raises(dataclasses.FrozenInstanceError):
        transform.size = (3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"is_training": True, "crop_pct": 0.9}, r"unknown option 'crop_pct'"),
        ({"crop_pc": 0.9}, r"unknown override 'crop_pc'; did you mean crop_pct"),
        ({"hflip": 0.5}, r"unknown override 'hflip'; known: input_size, img_size, "),
        ({"crop_mode": "centre"}, r"unknown crop_mode 'centre'; did you mean center"),
        ({"interpolation": "bicubical"}, r"unknown interpolation 'bicubical'; did you mean bicubic"),
        ({"interpolation": "random"}, r"'random' is for training"),
        ({"img_size": 64, "input_size": (3, 64, 64)}, r"both input_size and img_size"),
        ({"input_size": (64, 64)}, r"expected \(channels, height, width\)"),
        ({"img_size": (3, 64, 64)}, r"expected one number, or \(height, width\)"),
        ({"img_size": 0}, r"at least 1 pixel"),
        ({"crop_pct": 0}, r"crop_pct=0\.0; expected a share"),
        ({"crop_pct": float("nan")}, r"crop_pct=nan"),
        ({"crop_pct": 400.0}, r"at least one pixel"),
        ({"mean": (0.5, 0.5)}, r"mean=\(0\.5, 0\.5\) has 2 values; expected 1 or one for each of 3"),
        ({"std": 0}, r"std positive"),
        ({"input_size": (4, 64, 64)}, r"takes 4 channels, and images here have 3.*input_size=\(3, 64, 64\)"),
    ],
    ids=str,
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        nfjax.create_transform("test_nfnet", **arguments)


def test_errors_about_the_source():
    with pytest.raises(nfjax.UnknownModelError, match="did you mean test_nfnet"):
        nfjax.create_transform("test_nfnets")
    with pytest.raises(ValueError, match=r"found dict, expected a model, an nfjax\.DataConfig or a model name"):
        nfjax.create_transform({"input_size": (3, 64, 64)})
    with pytest.raises(ImageError, match="found ndarray, expected a PIL image"):
        nfjax.create_transform("test_nfnet")(np.zeros((5, 5, 3), np.uint8))
    four = nfjax.load("test_nfnet", weights=None, in_chans=4)
    with pytest.raises(ValueError, match="the model takes 4 channels"):
        nfjax.create_transform(four)

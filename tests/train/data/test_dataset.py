"""Which size, crop, mean and std images get, and that test images are those of `nfjax.create_transform`."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax.models.data_config import DataConfig
from tests.helpers.photos import make_folder
from train.config import Augment, Data
from train.data import ArraySource, load_dataset
from train.data.dataset import Shifted
from train.data.decode import decode

L0 = nfjax.data_config("eca_nfnet_l0")  # 224 pixels and 0.9, tested with 288 and 1.0
VIT = nfjax.data_config("vit_medium_patch16_reg4_gap_256")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), train=4, val=2, size=40, classes=3)


def load(root, model, **options):
    return load_dataset(Data(name="folder", root=str(root), **options), model)


@pytest.mark.parametrize(
    ("model", "options", "train", "test", "crop_pct"),
    [
        (L0, {}, 224, 288, 1.0),
        (L0, {"image_size": 64}, 64, 64, 0.9),
        (L0, {"image_size": 64, "test_size": 80}, 64, 80, 0.9),
        (L0, {"image_size": 64, "test_size": 80, "crop_pct": 1.0}, 64, 80, 1.0),
        (L0, {"test_size": 224}, 224, 224, 0.9),
        (L0, {"test_size": 256}, 224, 256, 0.9),
        (L0, {"crop_pct": 0.8}, 224, 288, 0.8),
        (VIT, {}, 256, 256, 0.95),
    ],
)
def test_sizes_and_crops(root, model, options, train, test, crop_pct):
    dataset = load(root, model, **options)
    assert dataset.train.shape == (train, train, 3)
    assert dataset.test.shape == (test, test, 3)
    transform = nfjax.create_transform(dataset.data_config, use_test_size=True)  # as whoever loads the model will
    assert (transform.size, transform.crop_pct) == ((test, test), crop_pct)
    assert (dataset.data_config.mean, dataset.data_config.std) == (model.mean, model.std)
    assert (dataset.num_classes, dataset.class_names) == (3, ("astronaut", "cat", "coffee"))
    assert dataset.data_config.label_names == dataset.class_names
    rng = np.random.default_rng(0)
    for split in (dataset.train, dataset.test):
        assert split.read(0, rng)["image"].shape == split.shape


def test_what_differs_from_the_model(root):
    options = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_mode": "squash", "interpolation": "bilinear"}
    config = load(root, L0, **options).data_config
    assert {name: getattr(config, name) for name in options} == options


def test_test_images_are_those_of_the_models_own_transform(root):
    dataset = load(root, L0, image_size=48)
    transform = nfjax.create_transform(L0, img_size=48)
    mean, std = (np.array(values, np.float32) for values in (dataset.data_config.mean, dataset.data_config.std))
    for index in range(len(dataset.test)):
        example = dataset.test.source[index]
        expected = transform(Image.fromarray(decode(example["image"], "x")))
        pixels = dataset.test.read(index, np.random.default_rng(0))["image"]
        np.testing.assert_array_equal((pixels.astype(np.float32) / np.float32(255) - mean) / std, expected)


def test_greyscale(root):
    dataset = load(root, L0, image_size=32, in_chans=1)
    assert dataset.train.shape == (32, 32, 1)
    assert dataset.data_config.mean == (pytest.approx(np.mean(L0.mean)),)
    assert dataset.train.read(0, np.random.default_rng(0))["image"].shape == (32, 32, 1)


def test_the_digits_know_what_they_are(tmp_path):
    dataset = load_dataset(Data(name="digits", root=str(tmp_path), image_size=16), nfjax.data_config("test_nfnet"))
    config = dataset.data_config
    assert (config.input_size, config.mean, config.std, config.crop_pct) == ((1, 16, 16), (0.5,), (0.5,), 1.0)
    assert config.label_names == tuple("0123456789")
    rng = np.random.default_rng(0)
    train, test = (split.read(0, rng)["image"] for split in (dataset.train, dataset.test))
    assert train.dtype == test.dtype == np.uint8
    assert np.array_equal(train, dataclasses.replace(dataset.test, source=dataset.train.source).read(0, rng)["image"])


def test_images_that_are_given_are_not_the_digits():
    """Whatever `data.name` says: what the digits know is not true of them."""
    photos = ArraySource(np.zeros((2, 40, 40, 3), np.uint8), np.array([0, 1]), ("cat", "coffee"))
    dataset = load_dataset(Data(), L0, images=(photos, photos))
    assert dataset.train.shape == (224, 224, 3)
    assert (dataset.data_config.mean, dataset.data_config.std) == (L0.mean, L0.std)


def test_shifts():
    image = np.arange(25, dtype=np.uint8).reshape(5, 5, 1)
    shift = Shifted(lambda image, rng: image, 1)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    parts = {padded[top : top + 5, left : left + 5].tobytes() for top in range(3) for left in range(3)}
    rng = np.random.default_rng(0)
    assert {shift(image, rng).tobytes() for _ in range(200)} == parts


def test_augmentation_is_handed_on(root):
    augment = Augment(scale=(0.5, 1.0), auto_augment="rand-m9-mstd0.5-inc1")
    data = Data(name="folder", root=str(root), image_size=32)
    dataset = load_dataset(data, DataConfig(), augment)
    assert dataclasses.asdict(dataset.train.transform.augment) == dataclasses.asdict(augment)
    assert dataset.policy == dataset.train.transform.policy
    assert dataset.policy is not None

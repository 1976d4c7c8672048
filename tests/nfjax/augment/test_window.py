"""A part of a resized image is Pillow's, to the bit, without the rest of it."""

import itertools
import resource

import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax import transforms
from nfjax.augment.window import FILTERS, resize_window
from nfjax.images import ImageError


def noise(height, width, *channels):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, *channels), np.uint8))


@pytest.mark.parametrize("resample", FILTERS, ids=lambda resample: resample.name)
def test_parts_of_resized_images(resample):
    rng = np.random.default_rng(1)
    for _ in range(40):
        (height, width), size = rng.integers(1, 90, 2), rng.integers(1, 300, 2)
        image = noise(height, width, *[3] * int(rng.integers(2)))
        top, left = (int(rng.integers(0, side)) for side in size)
        bottom, right = (int(rng.integers(start + 1, side + 1)) for start, side in zip((top, left), size, strict=True))
        window = left, top, right, bottom
        whole = image.resize((int(size[1]), int(size[0])), resample).crop(window)
        assert resize_window(image, (int(size[0]), int(size[1])), window, resample) == whole


@pytest.mark.parametrize(
    ("size", "crop_mode", "crop_pct"),
    list(itertools.product([(40, 60), (50, 50)], ["center", "squash", "border"], [0.3, 0.9, 1.2])),
)
def test_a_transform_that_resizes_the_kept_part_alone(size, crop_mode, crop_pct, monkeypatch):
    config = nfjax.data_config("test_nfnet")
    transform = nfjax.create_transform(config, img_size=size, crop_mode=crop_mode, crop_pct=crop_pct)
    images = [noise(3, 200, 3), noise(70, 31, 3), noise(1, 1, 3)]
    expected = [transform.pixels(image) for image in images]
    monkeypatch.setattr(transforms, "MAX_RESIZED", 0)
    for image, pixels in zip(images, expected, strict=True):
        np.testing.assert_array_equal(transform.pixels(image), pixels)


@pytest.mark.parametrize("size", [(1, 65535), (60000, 2)])
def test_a_long_strip_takes_no_memory(size):
    """Resized whole, it takes 12 GB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    transform = nfjax.create_transform("eca_nfnet_l0", use_test_size=True)
    assert transform(Image.new("RGB", size, "red")).shape == (288, 288, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_what_cannot_be_resized_in_parts_is_told():
    transform = nfjax.create_transform("eca_nfnet_l0", interpolation="lanczos")
    with pytest.raises(ImageError, match=r"1x65535 pixels becomes one of 248x16252680 before it is cropped"):
        transform(Image.new("RGB", (1, 65535)))

"""Parts of images are cut out and resized to Pillow's pixels, by compiled code and without."""

import sys

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from nfjax.augment import resize as module
from nfjax.augment.resize import resize_part

pytest.importorskip("numba")
FILTERS = list(Image.Resampling)


def cases():
    """Parts and sizes: larger, smaller, as they are, and as thin as can be; of a photograph and of noise."""
    rng = np.random.default_rng(0)
    for pixels in (photographs.chelsea(), rng.integers(0, 256, (90, 140, 3), np.uint8)):
        height, width = pixels.shape[:2]
        for _ in range(25):
            left, right = sorted(rng.choice(width + 1, 2, replace=False).tolist())
            top, bottom = sorted(rng.choice(height + 1, 2, replace=False).tolist())
            yield pixels, (left, top, right, bottom), tuple(rng.integers(1, 260, 2).tolist())
        yield pixels, (0, 0, width, height), (height, width)
        yield pixels, (3, 0, 4, height), (224, 224)


@pytest.mark.parametrize("resample", FILTERS, ids=[f.name for f in FILTERS])
def test_pixels_are_pillows(resample):
    for pixels, box, size in cases():
        for image in (pixels, np.ascontiguousarray(pixels[..., 1])):
            expected = Image.fromarray(image).crop(box).resize((size[1], size[0]), resample)
            assert np.array_equal(resize_part(image, box, size, resample), expected), (box, size)


def test_extremes_do_not_overflow():
    """Bicubic weights go beyond 1 and below 0."""
    board = (np.indices((40, 40)).sum(0) // 3 % 2 * 255).astype(np.uint8)
    for size in ((7, 11), (23, 64), (300, 300)):
        expected = Image.fromarray(board).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        assert np.array_equal(resize_part(board, (0, 0, 40, 40), size, Image.Resampling.BICUBIC), expected)


def test_compiled_code_is_used():
    """Or the tests above would compare Pillow with itself."""
    assert module._compiled() is not None


@pytest.fixture
def afresh():
    module._compiled.cache_clear()
    yield
    module._compiled.cache_clear()


@pytest.mark.parametrize("version", [12, 13])
def test_each_pillows_order(version, afresh, monkeypatch):
    """Width and height one after the other by the Pillow that is installed, in the order of either version."""

    def ordered(part, size, resample):
        height, width = size
        lost_height, lost_width = part.shape[0] - height, part.shape[1] - width
        turned = version == 13 and lost_height > 0 and lost_height > 2 * lost_width
        between = (part.shape[1], height) if turned else (width, part.shape[0])
        return Image.fromarray(part).resize(between, resample).resize((width, height), resample)

    monkeypatch.setattr(module, "_pillows", ordered)
    assert module._compiled() is not None
    for resample in module.COMPILED:
        for pixels, (left, top, right, bottom), size in cases():
            expected = ordered(pixels[top:bottom, left:right], size, resample)
            assert resize_part(pixels, (left, top, right, bottom), size, resample) == expected, size


def test_another_pillow_is_noticed(afresh, monkeypatch):
    """One level off in one pixel, and Pillow itself is taken."""

    def off(part, size, resample):
        pixels = np.array(pillows(part, size, resample))
        pixels[0, 0, 0] ^= 1
        return Image.fromarray(pixels)

    pillows = module._pillows
    monkeypatch.setattr(module, "_pillows", off)
    assert module._compiled() is None


def test_without_numba(afresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "nfjax.augment.kernels", None)
    monkeypatch.delattr("nfjax.augment.kernels", raising=False)
    assert module._compiled() is None
    pixels = photographs.chelsea()
    found = resize_part(pixels, (10, 20, 90, 95), (32, 48), Image.Resampling.BICUBIC)
    assert np.array_equal(
        found, Image.fromarray(pixels).crop((10, 20, 90, 95)).resize((48, 32), Image.Resampling.BICUBIC)
    )

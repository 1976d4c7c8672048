"""Decoded images are Pillow's, whoever decodes them."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from nfjax.images import ImageError, load_image
from train.data import decode as module
from train.data.decode import decode

simplejpeg = pytest.importorskip("simplejpeg")


def files():
    """JPEG files of all kinds, and others under their name."""
    rng = np.random.default_rng(0)
    found = {}
    for number in range(12):
        height, width = (int(n) for n in rng.integers(1, 120, 2))
        image = Image.fromarray(np.ascontiguousarray(photographs.astronaut()[100 : 100 + height, 150 : 150 + width]))
        kinds = {
            f"{subsampling}-{'progressive' if progressive else 'baseline'}": (
                image,
                {"subsampling": subsampling, "progressive": progressive, "quality": int(rng.integers(10, 100))},
            )
            for subsampling in ("4:4:4", "4:2:2", "4:2:0")
            for progressive in (False, True)
        }
        kinds |= {
            "grey": (image.convert("L"), {}),
            "cmyk": (image.convert("CMYK"), {}),
            "rgb": (image, {"keep_rgb": True}),
        }
        for kind, (picture, options) in kinds.items():
            file = io.BytesIO()
            picture.save(file, "JPEG", **options)
            found[f"{number}-{kind}"] = file.getvalue()
        for kind in ("PNG", "WEBP", "GIF"):
            file = io.BytesIO()
            image.save(file, kind)
            found[f"{number}-{kind}.jpg"] = file.getvalue()
    return found


FILES = files()


def damaged():
    rng = np.random.default_rng(1)
    for name, data in FILES.items():
        if "baseline" in name or "progressive" in name:
            changed = bytearray(data)
            for place in rng.integers(2, len(data), 3):
                changed[place] = int(rng.integers(256))
            yield f"{name}, changed", bytes(changed)
            yield f"{name}, cut", data[: int(rng.integers(2, len(data)))]
            yield f"{name}, longer", data + bytes(20)


def outcome(read):
    try:
        return np.asarray(read())
    except ImageError:
        return None


def test_pixels_are_pillows():
    fast = 0
    for name, data in [*FILES.items(), *damaged()]:
        ours, theirs = outcome(lambda: decode(data, name)), outcome(lambda: load_image(io.BytesIO(data)))  # noqa: B023
        assert (ours is None) == (theirs is None), name
        assert ours is None or np.array_equal(ours, theirs), name
        fast += module._jpeg(data) is not None
    assert fast >= 72  # the common ones, whole


def test_greyscale():
    for name, data in FILES.items():
        assert np.array_equal(decode(data, name, "L"), load_image(io.BytesIO(data), "L"))


def test_without_simplejpeg(monkeypatch):
    monkeypatch.setattr(module, "_simplejpeg", lambda: None)
    data = FILES["0-4:2:0-baseline"]
    assert np.array_equal(decode(data, "x"), load_image(io.BytesIO(data)))


def test_arrays():
    pixels = photographs.astronaut()[:20, :30]
    assert np.array_equal(decode(pixels, "x"), pixels)
    assert np.array_equal(decode(pixels[..., :1], "x", "L"), pixels[..., 0])


def test_a_broken_image_is_named():
    with pytest.raises(ImageError, match=r"cat/1\.jpg is not an image that Pillow can read: it begins with b'hello'"):
        decode(b"hello", "cat/1.jpg")


def test_exif_orientation_is_not_applied():
    image, file = Image.fromarray(photographs.astronaut()[:20, :30]), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(file, "JPEG", exif=exif)
    assert decode(file.getvalue(), "x").shape == (20, 30, 3)

"""Picture files of every format that is read, as `nfjax classify`, training and evaluation read them."""

import functools
import io
import warnings

import numpy as np
from PIL import Image

import nfjax
from nfjax.images import formats, identify, load_image
from tests.fuzz.values import mutate_bytes
from train.data.decode import decode

MODES = ("RGB", "L", "RGBA", "P", "1", "CMYK", "I;16")


@functools.cache
def valid():
    """A small picture of each format and mode that Pillow can write."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8))
    found = []
    for name in formats():
        for mode in MODES:
            file = io.BytesIO()
            try:
                noise.convert(mode).save(file, name)
            except (OSError, ValueError, KeyError):  # not a mode of this format; one that is only read
                continue
            found.append(file.getvalue())
    return found


def mutants(rng):
    """The bytes of a file, or a picture of a very unusual shape."""
    if rng.random() < 0.1:
        size = rng.choice([(1, 65535), (65535, 1), (2, 30000), (20000, 20000), (1, 1)])
        file = io.BytesIO()
        Image.new("1", size).save(file, "png")
        return file.getvalue()
    return mutate_bytes(rng, rng.choice(valid()))


def try_(mutant, folder):
    path = folder / "picture.jpg"
    path.write_bytes(mutant)
    transform = nfjax.create_transform("test_nfnet", img_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged metadata
        identify(path)
        pixels = transform(load_image(path))
        assert pixels.shape == (32, 32, 3)
        assert np.isfinite(pixels).all()
        np.testing.assert_array_equal(transform(Image.fromarray(decode(mutant, "picture"))), pixels)

"""Picture files of every format that is read, and of others, as `nfjax classify`, training and evaluation read them."""

import functools
import io
import os
import warnings

import numpy as np
from PIL import Image

import nfjax
from nfjax.images import formats, identify, load_image, walk
from tests.fuzz.values import mutate_bytes
from train.data.decode import decode

MODES = ("RGB", "L", "LA", "RGBA", "P", "1", "CMYK", "I;16", "YCbCr", "LAB", "I", "F")
EIGHT_BIT = ("RGB", "L", "LA", "RGBA", "RGBX", "P", "1", "CMYK", "YCbCr", "LAB")  # as Pillow converts them
OPTIONS = ({}, {"progressive": True}, {"save_all": True}, {"lossless": True}, {"compression": "tiff_lzw"})
# Pillow would open them: with Ghostscript, with a library of the system, or as no picture at all.
OTHERS = ("EPS", "PDF", "DDS", "ICNS", "IM", "MSP", "SPIDER", "XBM", "PALM", "BUFR", "GRIB", "HDF5", "WMF")


@functools.cache
def valid():
    """A small picture of each format, mode and option that Pillow can write."""
    return [content for name in formats() for content in written(name)]


@functools.cache
def foreign():
    """The same of formats that are not read."""
    Image.init()
    contents = [content for name in OTHERS if name in Image.SAVE for content in written(name)]
    return [
        *contents,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n",
        b"\xd7\xcd\xc6\x9a" + bytes(99),
    ]


def written(name):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8))
    frames = [noise, noise.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    for mode in MODES:
        for options in OPTIONS:
            file = io.BytesIO()
            try:
                image, *more = (
                    frame.convert("L").convert(mode) if mode in ("I;16", "I", "F") else frame.convert(mode)
                    for frame in frames
                )
                image.save(file, name, **options, **({"append_images": more} if "save_all" in options else {}))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no mode or option of this format
                continue
            yield file.getvalue()


def mutants(rng):
    """The bytes of a file; or what else may stand where a picture should."""
    chance = rng.random()
    if chance < 0.05:
        return rng.choice(["pipe", "/dev/zero", "/dev/stdin", "folder", "picture.jpg", "../outside.png", "nowhere"])
    if chance < 0.1:
        size = rng.choice([(1, 65535), (65535, 1), (2, 30000), (20000, 20000), (1, 1), (6000, 6000), (10**6, 7)])
        file = io.BytesIO()
        Image.new(rng.choice(["1", "L", "RGBA"]), size).save(file, "png", compress_level=1)
        return file.getvalue()
    if chance < 0.15:
        return rng.choice(foreign())
    content = rng.choice(valid())
    return content if chance < 0.25 else mutate_bytes(rng, content)


def put(mutant, folder):
    path = folder / "picture.jpg"
    Image.new("RGB", (3, 3)).save(folder.parent / "outside.png")
    if isinstance(mutant, bytes):
        path.write_bytes(mutant)
    elif mutant == "pipe":
        os.mkfifo(path)
    elif mutant == "folder":
        path.mkdir()
    else:  # a link: to a device, to itself, out of the folder as a user may have made it, or to nothing
        path.symlink_to(mutant)


def try_(mutant, folder):
    path = folder / "picture.jpg"
    list(walk(folder))
    transform = nfjax.create_transform("test_nfnet", img_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged metadata
        identify(path)
        pixels = transform(load_image(path))
        assert pixels.shape == (32, 32, 3)
        assert np.isfinite(pixels).all()
        assert mutant not in foreign()
        if not isinstance(mutant, bytes):
            return
        np.testing.assert_array_equal(transform(Image.fromarray(decode(mutant, "picture"))), pixels)
        with Image.open(path) as image:
            if image.mode in EIGHT_BIT:  # timm's way
                np.testing.assert_array_equal(transform(image.convert("RGB")), pixels)

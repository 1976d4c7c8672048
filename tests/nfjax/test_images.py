"""Image files and modes: what becomes of each, and what is said of those that cannot be read."""

import io
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

import nfjax
from nfjax.images import ImageError, convert, to_rgb

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (9, 12), dtype=np.uint16)


def transparent_palette(transparency):
    image = Image.fromarray(RGB).quantize(16)
    image.info["transparency"] = transparency
    return image


def png16(pixels):
    """A PNG file of 16-bit RGB, which Pillow cannot write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("wanted", ["RGB", "L"])
def test_modes_as_pillow_converts_them(mode, wanted):
    image = Image.fromarray(RGB).convert(mode)
    assert image.mode == mode
    found = convert(image, wanted)
    assert found.mode == wanted
    np.testing.assert_array_equal(np.asarray(found), np.asarray(image.convert(wanted)))


@pytest.mark.parametrize("transparency", [3, bytes(range(16))], ids=["one colour", "bytes"])
def test_transparent_palettes(transparency):
    """The same pixels as Pillow, without its warning, and the given image stays as it was."""
    image = transparent_palette(transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), expected)
    assert image.info["transparency"] == transparency
    if isinstance(transparency, bytes):
        with pytest.warns(UserWarning, match="Transparency"):
            image.convert("RGB")


def test_alpha_is_dropped_not_blended():
    pixels = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.fromarray(pixels))), RGB)


def test_rgb_is_not_copied():
    image = Image.fromarray(RGB)
    assert to_rgb(image) is image


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bits_keep_the_high_byte(mode):
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (12, 9), DEEP.astype(dtype).tobytes())
    expected = np.repeat((DEEP >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), expected)
    assert (np.asarray(image.convert("RGB")) != expected).any()  # Pillow clips
    np.testing.assert_array_equal(np.asarray(convert(image, "L")), expected[..., 0])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_files(kind, tmp_path):
    """A grey picture has the same pixels whether it is stored as 16-bit grey or as 16-bit colour."""
    path = tmp_path / f"deep.{kind.lower()}"
    Image.fromarray(DEEP).save(path, kind)
    colour = nfjax.load_image(png16(np.repeat(DEEP[..., None], 3, axis=-1)))
    np.testing.assert_array_equal(np.asarray(nfjax.load_image(path)), np.asarray(colour))


@pytest.mark.parametrize("factor", [256, 257])
def test_eight_bits_made_sixteen_come_back(factor):
    image = Image.fromarray(RGB[..., 0].astype(np.uint16) * factor)
    np.testing.assert_array_equal(np.asarray(to_rgb(image))[..., 0], RGB[..., 0])


@pytest.mark.parametrize("pixels", [[[-1, 5]], [[0, 65536]]])
def test_integers_without_a_scale(pixels):
    with pytest.raises(ImageError, match=r"32-bit integers from -?\d+ to \d+; expected 16 bits, 0 to 65535"):
        to_rgb(Image.fromarray(np.array(pixels, np.int32)))


def test_floating_point():
    image = Image.fromarray(RGB[..., 0] + np.float32(0.25))
    image.putpixel((0, 0), 255.0)
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))
    black = Image.new("F", (3, 2))
    assert not np.asarray(to_rgb(black)).any()
    for pixels in ([0.0, 1.0], [0.5, 0.1], [-1.0, 200.0], [0.0, 256.0], [np.nan, 3.0], [np.inf, 3.0]):
        with pytest.raises(ImageError, match=r"floating-point pixels from .* expected 0 to 255"):
            to_rgb(Image.fromarray(np.array([pixels], np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_exif_orientation(orientation, deep, tmp_path):
    """The table of the EXIF standard: where row 0 and column 0 of the stored pixels belong."""
    pixels = DEEP if deep else RGB
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path, exif=exif)
    stored = np.repeat((DEEP >> 8)[..., None], 3, axis=-1) if deep else RGB
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: stored[::-1].swapaxes(0, 1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: stored[:, ::-1].swapaxes(0, 1),
    }[orientation]
    np.testing.assert_array_equal(np.asarray(nfjax.load_image(path)), stored)
    np.testing.assert_array_equal(np.asarray(nfjax.load_image(path, exif=True)), upright)
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.open(path), exif=True)), upright)


def test_files_and_paths(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(RGB).save(path)
    for file in (path, str(path), io.BytesIO(path.read_bytes())):
        image = nfjax.load_image(file)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), RGB)
    with open(path, "rb") as stream:
        np.testing.assert_array_equal(np.asarray(nfjax.load_image(stream)), RGB)
        assert not stream.closed
    grey = np.asarray(Image.fromarray(RGB).convert("L"))
    np.testing.assert_array_equal(np.asarray(nfjax.load_image(path, "L")), grey)


def test_the_first_frame(tmp_path):
    path = tmp_path / "moving.gif"
    frames = [Image.new("L", (4, 4), level) for level in (10, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert (np.asarray(nfjax.load_image(path)) == 10).all()


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_truncated_files(kind, tmp_path, monkeypatch):
    path = tmp_path / f"photo.{kind}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"photo\.{kind} (cannot be decoded: \w+: .+|is not an image)"):
        nfjax.load_image(path)
    if kind == "jpg":
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        assert nfjax.load_image(path).size == (64, 64)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it is empty"), (b"<!DOCTYPE html>", "it begins with b'<!DOCTYPE html>'"), (b"\xff\xd8\xff", "it begins")],
)
def test_files_that_are_no_images(content, reason, tmp_path):
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"page\.jpg is not an image that Pillow can read: {reason}"):
        nfjax.load_image(path)
    with pytest.raises(ImageError, match=reason):
        nfjax.load_image(io.BytesIO(content))


def large(form, size, mode="RGB"):
    """A picture that says it has any size: whoever decoded it would find that the rest is not there."""
    file = io.BytesIO()
    Image.new(mode, (7, 5)).save(file, form)
    content = bytearray(file.getvalue())
    if form == "TIFF":
        for tag, side in ((256, size[0]), (257, size[1])):
            at = content.index(tag.to_bytes(2, "little") + b"\4\0\1\0\0\0") + 8
            content[at : at + 4] = side.to_bytes(4, "little")
        return io.BytesIO(content)
    where = {"PNG": b"IHDR", "JPEG2000": b"ihdr", "JPEG": bytes([0xFF, 0xC0, 0, 8 + 3 * len(mode), 8])}
    at = content.index(where[form]) + len(where[form])
    there = struct.pack(
        {"PNG": ">II", "JPEG2000": ">II", "JPEG": ">HH"}[form], *(size if form == "PNG" else size[::-1])
    )
    content[at : at + len(there)] = there
    if form == "PNG":
        content[at + 13 : at + 17] = struct.pack(">I", zlib.crc32(content[at - 4 : at + 13]))
    return io.BytesIO(content)


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow's own limit, which is lower
@pytest.mark.parametrize(
    ("form", "mode", "size", "most"),
    [
        ("PNG", "RGB", (10247, 10247), "105,000,000"),
        ("PNG", "L", (1, 40_000_000), "105,000,000"),
        ("JPEG", "RGB", (10247, 10247), "105,000,000"),
        ("JPEG", "CMYK", (9400, 9400), "87,500,000"),
        ("TIFF", "RGBA", (9400, 9400), "87,500,000"),
        ("JPEG2000", "RGB", (6500, 6500), "42,000,000"),
    ],
)
def test_images_that_take_more_than_a_gigabyte(form, mode, size, most):
    """So much was measured: of the decoder's own memory, Pillow's, and that of the converted image."""
    said = f"{size[0]}x{size[1]} pixels; expected at most {most} in a {form} of mode {mode}, where each row counts as 2"
    with pytest.raises(ImageError, match=said):
        nfjax.load_image(large(form, size, mode))


@pytest.mark.parametrize("deep", [np.uint16, np.int32, np.float32])
def test_numbers_are_checked_in_parts(deep, monkeypatch):
    """All of a large image is not there twice."""
    monkeypatch.setattr("nfjax.images.PART", 1 << 12, raising=False)
    values = RNG.integers(0, 256, (301, 517)) * (1 if deep is np.float32 else 257)
    image = Image.fromarray(values.astype(deep))
    tracemalloc.start()
    found = np.asarray(convert(image, "L"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, values >> 8 if deep is not np.float32 else values)
    assert peak < 3.2 * found.nbytes  # what comes of it, and this copy of it


def test_other_wrong_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere\.jpg \(working directory"):
        nfjax.load_image("nowhere.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        nfjax.load_image(tmp_path)
    with pytest.raises(ImageError, match=r"found 3 bytes, expected a path or a file; .*BytesIO"):
        nfjax.load_image(b"abc")
    with pytest.raises(ImageError, match=r"found ndarray, expected a PIL image: .*fromarray"):
        to_rgb(RGB)
    with pytest.raises(ImageError, match="0x5 pixels"):
        to_rgb(Image.new("RGB", (0, 5)))
    with pytest.raises(ImageError, match="mode La cannot become RGB"):
        to_rgb(Image.new("La", (3, 2)))
    path = tmp_path / "signed.tif"
    Image.fromarray(np.array([[-5, 5]], np.int32)).save(path)
    with pytest.raises(ImageError, match=r"signed\.tif: an image of 32-bit integers from -5 to 5"):
        nfjax.load_image(path)

"""Evaluation preprocessing: the difference from timm's is 0, on every data config of the registry."""

import io
import math
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax.models.registry import MODELS
from nfjax.parity import oracle
from nfjax.transforms import INTERPOLATIONS

timm = oracle.timm()

PHOTOS = {
    "skimage": ["data/astronaut.png", "data/rocket.jpg", "data/chelsea.png", "data/coffee.png"],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
}
NAMES = sorted({data.name for entry in MODELS.values() for data in entry.data})


def resolve(name, test_size=False, **args):
    cfg = timm.get_pretrained_cfg(name).to_dict()
    return timm.data.resolve_data_config(args, pretrained_cfg=cfg, use_test_size=test_size)


def distinct():
    """One (name, use_test_size) for each way of preprocessing among all names."""
    found = {}
    for name in NAMES:
        for test_size in (False, True):
            found.setdefault(repr(sorted(resolve(name, test_size).items())), (name, test_size))
    return sorted(found.values())


@pytest.fixture(scope="module")
def photos():
    """Six photographs, as Pillow opens them: JPEG and PNG, landscape and square."""
    return [Image.open(io.BytesIO((files(p) / f).read_bytes())) for p, names in PHOTOS.items() for f in names]


@pytest.fixture(scope="module")
def pictures(photos):
    """210 images: the photographs, cuttings of them in many sizes and modes, noise, sides of one pixel."""
    rng = np.random.default_rng(0)
    images = list(photos)
    modes = ["RGB"] * 6 + ["L", "LA", "RGBA", "P", "CMYK", "1"]
    # Long thin images cost most, because all of them is resized: test_long_thin_images has those.
    widths = [*rng.integers(8, 90, 130), *rng.integers(110, 200, 14)]
    sizes = [(width, round(width * rng.uniform(0.6, 1.4))) for width in widths]
    for index, (width, height) in enumerate(sizes):
        photo = photos[index % len(photos)]
        left, top = rng.integers(0, photo.width - width), rng.integers(0, photo.height - height)
        cutting = photo.convert("RGB").crop((left, top, left + width, top + height))
        images.append(cutting.convert(modes[index % len(modes)]))
    odd = [(1, 1), (1, 2), (3, 1), (2, 5), (7, 3), (1, 1), (17, 50), (31, 19), (64, 64), (63, 65)]
    odd += [(side, side + rng.integers(0, side // 2)) for side in rng.integers(4, 60, 50)]
    images += [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in odd]
    assert len(images) == 210
    assert {i.mode for i in images} == set(modes)
    for image in images:
        image.load()
    return images


def difference(config, ours, images, mode="RGB"):
    """Largest absolute difference between timm's transform and ours."""
    theirs = timm.data.create_transform(**config, is_training=False)
    worst = 0.0
    for image in images:
        expected = theirs(image.convert(mode)).permute(1, 2, 0).numpy()
        found = ours(image)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        if not np.array_equal(found, expected):
            worst = np.maximum(worst, np.abs(found - expected).max())  # keeps a NaN, which fails either comparison
    return worst


CONFIGS = distinct()


@pytest.mark.parametrize(("name", "test_size"), CONFIGS, ids=str)
def test_every_data_config(name, test_size, pictures):
    """Each with a sixth of the pictures, the next one with the next sixth."""
    check_data_config(name, test_size, pictures[CONFIGS.index((name, test_size)) % 6 :: 6])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "test_size"), CONFIGS, ids=str)
def test_every_data_config_with_every_picture(name, test_size, pictures):
    check_data_config(name, test_size, pictures)


def check_data_config(name, test_size, images):
    ours = nfjax.create_transform(name, use_test_size=test_size)
    assert difference(resolve(name, test_size), ours, images) == 0


def fields(config):
    """timm's resolved data config as ours."""
    return nfjax.EvalTransform(size=config.pop("input_size")[1:], **config)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_resolves_like_timm(name):
    for test_size in (False, True):
        assert nfjax.create_transform(name, use_test_size=test_size) == fields(resolve(name, test_size))


@pytest.mark.parametrize("use_test_size", [False, True])
@pytest.mark.parametrize(
    "overrides",
    [
        {"img_size": 97},
        {"input_size": (3, 64, 96)},
        {"input_size": (3, 80, 48), "img_size": None},
        {"img_size": 64, "crop_pct": 0.5},
        {"crop_pct": 0.7, "crop_mode": "border", "interpolation": "box"},
        {"mean": (0.5,), "std": (0.25,)},
        {"mean": [0.1, 0.2, 0.3], "std": (1, 2, 3)},
    ],
    ids=str,
)
def test_overrides_resolve_like_timm(overrides, use_test_size):
    for name in ("eca_nfnet_l0", "dm_nfnet_f0", "vit_medium_patch16_reg4_gap_256"):
        ours = nfjax.create_transform(name, use_test_size=use_test_size, **overrides)
        assert ours == fields(resolve(name, use_test_size, **overrides))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(64, 64), (65, 50), (33, 80)], ids=str)
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.951, 0.6, 1.3])
def test_crops(crop_mode, size, crop_pct, pictures):
    """Square and not, with crops smaller than, as large as and larger than the resized image."""
    options = {"crop_mode": crop_mode, "input_size": (3, *size), "crop_pct": crop_pct}
    assert difference(resolve("nfnet_f0", **options), nfjax.create_transform("nfnet_f0", **options), pictures[::2]) == 0


@pytest.mark.parametrize("crop_mode", ["center", "border"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_interpolations(interpolation, crop_mode, pictures):
    options = {"crop_mode": crop_mode, "img_size": 72, "interpolation": interpolation}
    assert difference(resolve("nfnet_f0", **options), nfjax.create_transform("nfnet_f0", **options), pictures) == 0


def test_all_interpolations_of_timm_are_there():
    from timm.data.transforms import _str_to_pil_interpolation

    assert _str_to_pil_interpolation == INTERPOLATIONS


@pytest.mark.parametrize("crop_mode", ["center", "border"])
def test_one_channel(crop_mode, pictures):
    """What timm's scripts do for in_chans=1: images of mode L, and its loader's average of mean and std."""
    from timm.data.loader import adapt_to_chs

    options = {"input_size": (1, 64, 64), "crop_mode": crop_mode}
    config = resolve("eca_nfnet_l0", **options)
    config |= {key: adapt_to_chs(config[key], 1) for key in ("mean", "std")}
    ours = nfjax.create_transform("eca_nfnet_l0", **options)
    assert difference(config, ours, pictures, mode="L") == 0
    model = nfjax.load("test_nfnet", weights=None, in_chans=1)
    assert nfjax.create_transform(model)(pictures[0]).shape == (160, 160, 1)


def test_long_thin_images():
    """Sizes whose rounding is delicate: truncation in one place, halves to even in the others."""
    rng = np.random.default_rng(1)
    sizes = [(900, 17), (5, 160), (299, 300), (255, 256), (401, 3), *rng.integers(1, 400, (40, 2)).tolist()]
    images = [Image.new("RGB", size, (250, 120, 3)) for size in sizes if max(size) / min(size) < 60]
    for image in images:
        image.putpixel((0, 0), (0, 0, 0))
    for crop_mode in ("center", "squash", "border"):
        for size in ((48, 48), (48, 31)):
            options = {"input_size": (3, *size), "crop_mode": crop_mode}
            ours = nfjax.create_transform("nfnet_f0", **options)
            assert difference(resolve("nfnet_f0", **options), ours, images) == 0


def test_batches_of_files(photos, tmp_path):
    """Paths, decoded in threads: timm's reading and transform together."""
    config = resolve("test_nfnet")
    theirs = timm.data.create_transform(**config, is_training=False)
    paths = []
    for index, photo in enumerate(photos):
        paths.append(tmp_path / f"{index}.{'png' if index % 2 else 'jpg'}")
        photo.convert("L" if index == 2 else "RGB").save(paths[-1])
    expected = np.stack([theirs(Image.open(path).convert("RGB")).permute(1, 2, 0).numpy() for path in paths])
    np.testing.assert_array_equal(nfjax.create_transform("test_nfnet").batch(paths, threads=3), expected)


def test_the_comparison_can_fail(pictures, monkeypatch):
    """Near misses of each ingredient differ."""
    config = resolve("eca_nfnet_l0", img_size=64)
    right = nfjax.create_transform("eca_nfnet_l0", img_size=64)
    assert difference(config, right, pictures[:60]) == 0
    for wrong in (
        {"interpolation": "bilinear"},
        {"crop_mode": "squash"},
        {"crop_mode": "border"},
        {"mean": (0.485, 0.456, 0.4061)},
        {"std": (0.229, 0.224, 0.2251)},
    ):
        assert difference(config, nfjax.create_transform("eca_nfnet_l0", img_size=64, **wrong), pictures[:60]) > 1e-4
    rounded_up = property(lambda self: tuple(math.ceil(side / self.crop_pct) for side in self.size))  # 64 / 0.9 = 71.1
    monkeypatch.setattr(nfjax.EvalTransform, "scale_size", rounded_up)
    assert difference(config, right, pictures[:60]) > 0.1

"""Each operation against timm's and torchvision's at the same magnitude: the difference is 0."""

import io
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image, ImageOps

from nfjax.augment import ops
from nfjax.augment.ops import OPS, TRIVIAL_OPS
from nfjax.augment.policies import Settings
from nfjax.parity import oracle
from tests.helpers.replay import posterize

timm = oracle.timm()
PHOTOS = {
    "skimage": ["data/astronaut.png", "data/rocket.jpg", "data/coffee.png"],
    "sklearn": ["datasets/images/china.jpg"],
}
FILTERS = [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC]
FILL = {"RGB": (124, 116, 104), "L": 116}


class Fixed:
    """Random numbers that are known beforehand."""

    def __init__(self, chance):
        self.chance = chance

    def random(self):
        return self.chance

    def uniform(self, low, high):
        return low + (high - low) * self.chance


@pytest.fixture(scope="module")
def images():
    """Cuttings of photographs in colour and in grey, noise, and images of one level and of one pixel."""
    photos = [
        Image.open(io.BytesIO((files(p) / f).read_bytes())).convert("RGB") for p, fs in PHOTOS.items() for f in fs
    ]
    colour = [photo.resize((96, 64 + 8 * i), box=(0, 0, 300, 250)) for i, photo in enumerate(photos)]
    noise = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    colour += [Image.fromarray(noise), Image.new("RGB", (20, 20), (7, 130, 255)), Image.new("RGB", (1, 1), (9, 8, 7))]
    return colour + [image.convert("L") for image in colour[:2] + colour[4:]]


def difference(first, second):
    assert first.mode == second.mode
    assert first.size == second.size
    return int(np.abs(np.asarray(first, int) - np.asarray(second, int)).max())


def of_timm(name, magnitude, image, chance, resample):
    from timm.data import auto_augment

    hparams = {"img_mean": FILL[image.mode], "interpolation": resample, "magnitude_max": 20}
    op = auto_augment.AugmentOp(name, 1.0, magnitude, hparams)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_augment, "random", Fixed(chance))
        patch.setattr(ImageOps, "posterize", posterize)
        return op(image)


def ours(op, x, image, chance, resample):
    return Settings(FILL[image.mode], (resample,)).run(op, x, image, Fixed(chance))


@pytest.mark.parametrize("name", OPS)
def test_timms_operations(name, images):
    """Magnitudes from 0 to 12, of which those above 10 need mmax, with both signs."""
    op = OPS[name]
    for magnitude in np.arange(0, 12.1, 0.75).tolist() if op.argument else [10.0]:
        for chance in (0.25, 0.75) if op.random else (0.25,):
            for resample in FILTERS if op.geometric else FILTERS[:1]:
                for image in images:
                    expected = of_timm(name, magnitude, image, chance, resample)
                    assert difference(ours(op, magnitude / 10, image, chance, resample), expected) == 0


def test_no_operation_of_timms_policies_is_missing():
    from timm.data.auto_augment import NAME_TO_OP

    assert set(NAME_TO_OP) - set(OPS) == {"TranslateX", "TranslateY"}  # in none of timm's policies


@pytest.mark.parametrize("name", TRIVIAL_OPS)
def test_torchvisions_operations(name, images):
    """All magnitudes of TrivialAugmentWide."""
    from torchvision.transforms import InterpolationMode, autoaugment

    op = TRIVIAL_OPS[name]
    magnitudes, signed = autoaugment.TrivialAugmentWide()._augmentation_space(31)[name]
    first, last = (float(magnitudes[i]) for i in (0, -1)) if op.argument else (0.0, 0.0)
    first, last = round(first, 2), round(last, 2)

    def exact(step):
        return float(magnitudes[step]) if name == "Posterize" else first + (last - first) * (step / 30)

    assert signed == op.random
    assert (magnitudes.ndim > 0) == (op.argument is not None)
    modes = dict(
        zip(FILTERS, (InterpolationMode.NEAREST, InterpolationMode.BILINEAR, InterpolationMode.BICUBIC), strict=True)
    )
    for step in range(31 if op.argument else 1):
        x = step / 30
        for sign, chance in ((1, 0.25), (-1, 0.75)) if op.random else ((1, 0.25),):
            magnitude = sign * exact(step) if op.argument else 0.0
            if op.argument:  # torch's are float32
                assert magnitude == pytest.approx(sign * float(magnitudes[step]), rel=2e-7, abs=2e-7)
            for resample in FILTERS if op.geometric else FILTERS[:1]:
                for image in images[::2]:
                    expected = autoaugment._apply_op(image, name, magnitude, modes[resample], FILL[image.mode])
                    assert difference(ours(op, x, image, chance, resample), expected) == 0


@pytest.mark.parametrize(
    ("op", "reference", "values"),
    [
        (ops.brightness, "adjust_brightness", np.linspace(0, 2, 41)),
        (ops.contrast, "adjust_contrast", np.linspace(0, 2, 41)),
        (ops.color, "adjust_saturation", np.linspace(0, 2, 41)),
        (ops.hue, "adjust_hue", np.linspace(-0.5, 0.5, 41)),
    ],
)
def test_torchvisions_adjustments(op, reference, values, images):
    from torchvision.transforms import functional

    for value in values.tolist():
        for image in images:
            assert difference(op(image, value), getattr(functional, reference)(image, value)) == 0


def test_grey(images):
    from torchvision.transforms import functional

    for image in images:
        assert difference(ops.grayscale(image), functional.rgb_to_grayscale(image, len(image.getbands()))) == 0


def test_posterize_to_nothing_is_black(images):
    """Pillow 13 refuses 0 bits, which rand-m9-mstd0.5-inc1 reaches; 12 gave black."""
    for image in images:
        for bits in (0, -1):
            assert not np.asarray(ops.posterize(image, bits)).any()
        for bits in range(1, 9):
            assert difference(ops.posterize(image, bits), ImageOps.posterize(image, bits)) == 0


@pytest.mark.parametrize("table", [OPS, TRIVIAL_OPS], ids=["timm", "torchvision"])
def test_the_given_image_stays(table, images):
    for op in table.values():
        for image in images:
            before = image.copy()
            ours(op, 0.9, image, 0.25, FILTERS[2])
            assert difference(image, before) == 0


def test_the_comparison_can_fail(images):
    """Near misses of each ingredient differ."""
    image = images[0]

    def right(name, x=0.9):
        return of_timm(name, 10 * x, image, 0.25, FILTERS[2])

    for name, op in OPS.items():
        if op.random:
            assert difference(ours(op, 0.9, image, 0.75, FILTERS[2]), right(name)) > 3
        if op.geometric:
            assert difference(ours(op, 0.9, image, 0.25, FILTERS[1]), right(name)) > 3
            black = Settings((0, 0, 0), (FILTERS[2],)).run(op, 0.9, image, Fixed(0.25))
            assert difference(black, right(name)) > 100
        if op.argument and name not in ("PosterizeIncreasing", "PosterizeOriginal", "Posterize"):
            assert difference(ours(op, 0.88, image, 0.25, FILTERS[2]), right(name)) > 0
    wide = Settings(FILL["RGB"], (FILTERS[2],), translate_pct=0.44).run(OPS["TranslateXRel"], 0.9, image, Fixed(0.25))
    assert difference(wide, right("TranslateXRel")) > 3

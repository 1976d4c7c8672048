"""Policies and whole transforms against timm's: the same images for the same random numbers."""

import io
import pickle
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax.augment import Augment, create_train_transform
from nfjax.augment.ops import TRIVIAL_OPS
from nfjax.augment.policies import AugMix, RandAugment, Settings, TrivialAugment, create_policy
from nfjax.augment.transform import random_box
from nfjax.images import ImageError
from nfjax.parity import oracle
from tests.helpers.replay import replayed

timm = oracle.timm()
FILL, BICUBIC = (124, 116, 104), (Image.Resampling.BICUBIC,)
RAND = [
    "rand",
    "rand-m9-mstd0.5-inc1",
    "rand-m8-inc1-mstd1.0-n4",
    "rand-m9-n3-mstd0.5",
    "rand-m7-p0.8-inc0",
    "rand-m9-mstd101-inc1",
    "rand-m15-mmax20-mstd2-n3-inc1",
    "rand-n1-m0",
    "rand-m9-tweights-mstd0.5",
    "rand-m6-t3a-n1",
    "rand-t3aw-n5-p1.0-inc1",
]
AUTO = ["v0", "v0r", "original", "originalr", "original-mstd0.5", "v0-mstd1", "3a", "3a-mstd0.5"]
AUGMIX = ["augmix", "augmix-m5-w4-d2", "augmix-m1-w2-a0.5-mstd1"]


@pytest.fixture(scope="module")
def photo():
    return (
        Image.open(io.BytesIO((files("skimage") / "data/chelsea.png").read_bytes())).convert("RGB").resize((225, 150))
    )


def timms(text):
    from timm.data import auto_augment

    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC, "translate_const": 100}
    if text.startswith("rand"):
        return auto_augment.rand_augment_transform(text, hparams)
    if text.startswith("augmix"):
        return auto_augment.augment_and_mix_transform(text, hparams | {"translate_pct": 0.3})
    return auto_augment.auto_augment_transform(text, hparams)


def described(op):
    """What timm's AugmentOp and our Step with its settings have in common."""
    hparams = op.hparams
    settings = Settings(
        op.kwargs["fillcolor"],
        (op.kwargs["resample"],),
        magnitude_std=op.magnitude_std,
        magnitude_max=op.magnitude_max or 10.0,
        translate_pct=hparams.get("translate_pct", 0.45),
    )
    return op.name, op.prob, op.magnitude, settings


def steps(found, settings):
    return [(step.name, step.prob, step.magnitude, settings) for step in found]


@pytest.mark.parametrize("text", RAND + AUTO + AUGMIX)
def test_policies_have_timms_operations(text):
    expected, found = timms(text), create_policy(text, fill=FILL, resample=BICUBIC)
    if isinstance(found, RandAugment | AugMix):
        assert steps(found.steps, found.settings) == [described(op) for op in expected.ops]
    else:
        for ours, theirs in zip(found.policy, expected.policy, strict=True):
            assert steps(ours, found.settings) == [described(op) for op in theirs]
    if isinstance(found, RandAugment):
        assert found.num_layers == expected.num_layers
        assert (found.weights is None) == (expected.choice_weights is None)
        np.testing.assert_array_equal(found.weights or (), () if found.weights is None else expected.choice_weights)
    if isinstance(found, AugMix):
        assert (found.alpha, found.width, found.depth) == (expected.alpha, expected.width, expected.depth)


def test_policies_refuse_what_timm_overlooks():
    for text, match in {
        "rand-m9-mstd0.5-inc": "'inc' is not known; expected m, n, p, mstd, mmax, inc, t, each followed",
        "rand-w0": "'w0' is not known",
        "rand-m9-m8": "m is there twice",
        "rand-m9.5": "m9.5; expected a whole number",
        "rand-p0.5.1": r"p0\.5\.1 is not a number",
        "rand-tweight": "no set of operations 'weight'; known: 3a, 3aw, weights",
        "rand-t3aw-n15": "15 different operations of 14",
        "v0-m9": "'m9' is not known; expected mstd",
        "ta_wide-m9": "expected no options",
        "randaugment-m9": "begins with rand, augmix, ta_wide, original",
    }.items():
        with pytest.raises(ValueError, match=match):
            create_train_transform(32, auto_augment=text)


OPTIONS = {
    "default": {},
    "large": {"scale": (0.5, 1.0), "ratio": (1.0, 1.0), "interpolation": "bicubic", "color_jitter": 0.3},
    "flips": {"hflip": 0.2, "vflip": 0.7, "color_jitter": None, "interpolation": "lanczos"},
    "colours": {"color_jitter": (0.4, 0.0, 0.2, 0.1), "color_jitter_prob": 0.6, "grayscale_prob": 0.3},
    "none": {"hflip": 0.0, "color_jitter": None},
    "rkrc": {"train_crop_mode": "rkrc", "scale": (0.3, 1.0), "ratio": (0.5, 1.6)},
    "rkrr": {"train_crop_mode": "rkrr", "scale": (0.3, 1.0), "ratio": (0.5, 1.6), "interpolation": "bicubic"},
    "wide": {"ratio": (3.0, 9.0), "color_jitter": (0.1, 1.5, 0.2)},  # no part fits: the centre
} | {text: {"auto_augment": text, "interpolation": "bilinear"} for text in RAND + AUTO + AUGMIX}
OPTIONS |= {f"{text} random": {"auto_augment": text, "color_jitter": 0.2} for text in (RAND[1], "3a", "v0")}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_transforms_equal_timms(options, photo):
    """Same random numbers, same pixels, in colour and in grey, to squares and rectangles."""
    for size, mean in (((48, 48), (0.485, 0.456, 0.406)), ((40, 56), (0.5,))):
        ours = create_train_transform(size, mean=mean, **options)
        theirs = timm.data.create_transform(
            size, is_training=True, use_prefetcher=True, mean=mean, **{"interpolation": "random", **options}
        )
        image = photo.convert(ours.mode)
        for seed in range(12):
            rng = np.random.default_rng(seed)
            with replayed(rng):
                expected = theirs(image).permute(1, 2, 0).numpy()
            own = np.random.default_rng(seed)
            found = ours(image, own)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, expected)
            assert own.random() == rng.random()  # no draw more and none less


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5,)])
def test_blur_equals_torchvisions(photo, mean):
    """To a level, where a sum in another order is rounded the other way; and draws no more and no less."""
    options = {"gaussian_blur_prob": 0.7, "scale": (0.5, 1.0), "color_jitter": None}
    ours = create_train_transform(48, mean=mean, **options)
    theirs = timm.data.create_transform(
        48, is_training=True, use_prefetcher=True, mean=mean, interpolation="random", **options
    )
    image, differences = photo.convert(ours.mode), []
    for seed in range(6):
        rng, own = np.random.default_rng(seed), np.random.default_rng(seed)
        with replayed(rng):
            expected = theirs(image).permute(1, 2, 0).numpy()
        differences.append(np.abs(ours(image, own).astype(int) - expected))
        assert own.random() == rng.random()
    assert np.max(differences) <= 1
    assert np.mean(differences) < 1e-3


@pytest.mark.parametrize("name", ["eca_nfnet_l0", "vit_medium_patch16_reg4_gap_256"])
@pytest.mark.parametrize("options", [{}, {"auto_augment": "rand-m9-mstd0.5-inc1", "hflip": 0.2}], ids=["", "rand"])
def test_transforms_of_a_model_equal_timms(name, options, photo):
    """From the name alone, normalised, as a loop of one's own would use them."""
    ours = nfjax.create_transform(name, is_training=True, **options)
    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**data, is_training=True, **options)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        with replayed(rng):
            expected = theirs(photo.convert("RGB")).permute(1, 2, 0).numpy()
        found = ours(photo, np.random.default_rng(seed))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(ours(photo), ours(photo))


@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_trivial_augment_equals_torchvisions(interpolation, photo):
    from torchvision.transforms import InterpolationMode, TrivialAugmentWide

    image = photo.resize((40, 40))
    theirs = TrivialAugmentWide(interpolation=InterpolationMode(interpolation), fill=FILL)
    ours = create_policy("ta_wide", fill=FILL, resample=(Image.Resampling[interpolation.upper()],))
    for seed in range(300):
        rng = np.random.default_rng(seed)
        with replayed(rng):
            expected = theirs(image)
        np.testing.assert_array_equal(ours(image, np.random.default_rng(seed)), expected)


def test_all_trivial_operations_are_drawn():
    from torchvision.transforms import TrivialAugmentWide

    assert list(TrivialAugmentWide()._augmentation_space(31)) == list(TRIVIAL_OPS)
    assert isinstance(create_train_transform(32, auto_augment="ta_wide").policy, TrivialAugment)


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (1.0, 1.0), (0.2, 0.3), (4.0, 5.0)], ids=str)
def test_parts_equal_timms(ratio):
    from timm.data.transforms import RandomResizedCropAndInterpolation

    sizes = [(500, 375), (375, 500), (64, 64), (900, 17), (17, 900), (8, 8), *[(w, 31) for w in range(20, 60)]]
    for seed, (width, height) in enumerate(sizes * 5):
        image = Image.new("L", (width, height))
        for scale in ((0.08, 1.0), (0.9, 1.0), (0.08, 0.08)):
            rng = np.random.default_rng(seed)
            with replayed(rng):
                top, left, h, w = RandomResizedCropAndInterpolation.get_params(image, scale, ratio)
            found = random_box(width, height, scale, ratio, np.random.default_rng(seed))
            assert found == (left, top, left + w, top + h)


def test_tiny_images_have_parts():
    """timm asks for a part of 0 by 0 pixels."""
    for seed in range(50):
        left, top, right, bottom = random_box(1, 2, (0.08, 0.1), (3 / 4, 4 / 3), np.random.default_rng(seed))
        assert (left, right, bottom - top) == (0, 1, 1)
    found = create_train_transform(16)(Image.new("RGB", (1, 1), (9, 9, 9)), np.random.default_rng(0))
    assert found.shape == (16, 16, 3)


def test_no_aug_equals_timms(photo):
    """The model's own interpolation, as timm's train script has it."""
    data = nfjax.data_config("eca_nfnet_l0")
    ours = create_train_transform(data, img_size=(40, 56), no_aug=True, auto_augment="rand-m9", vflip=1.0)
    theirs = timm.data.create_transform(
        (40, 56), is_training=True, no_aug=True, use_prefetcher=True, interpolation=data.interpolation
    )
    expected = theirs(photo).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(ours(photo, np.random.default_rng(0)), expected)


def test_options_come_from_the_data_config():
    data = nfjax.data_config("dm_nfnet_f0")
    ours = create_train_transform(data, auto_augment="rand-m9", interpolation=None)
    assert ours.size == data.input_size[1:]
    assert ours.augment.interpolation == data.interpolation
    assert ours.policy.settings == Settings(FILL, BICUBIC)
    assert create_train_transform(data, img_size=96).size == (96, 96)
    grey = create_train_transform(28, mean=(0.5,), auto_augment="rand-m9")
    assert (grey.mode, grey.policy.settings.fill) == ("L", 128)


def test_the_defaults_are_those_of_timms_script():
    assert create_train_transform(32).augment == Augment()
    assert create_train_transform(32).resample == (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def test_the_result_depends_on_image_and_generator_alone(photo):
    transform = create_train_transform(32, auto_augment="rand-m9-mstd0.5-inc1", color_jitter_prob=0.5)
    copied = pickle.loads(pickle.dumps(transform))
    assert copied == transform
    first = [transform(photo, np.random.default_rng([7, i])) for i in range(20)]
    again = [copied(photo, np.random.default_rng([7, i])) for i in reversed(range(20))][::-1]
    np.testing.assert_array_equal(first, again)
    assert len({x.tobytes() for x in first}) == 20


def test_images_of_any_mode(photo):
    transform = create_train_transform(32, auto_augment="rand-m9-mstd0.5-inc1")
    for mode in ("L", "LA", "RGBA", "P", "CMYK", "1"):
        image = photo.convert(mode)
        found, expected = (transform(x, np.random.default_rng(3)) for x in (image, image.convert("RGB")))
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        transform(np.asarray(photo), np.random.default_rng(3)), transform(photo, np.random.default_rng(3))
    )
    for wrong in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), np.uint8)):
        with pytest.raises(ImageError, match=r"found an array \(4, 4.* expected uint8 \(height, width, 3\)"):
            transform(wrong, np.random.default_rng(0))
    with pytest.raises(ImageError, match="found str"):
        transform("photo.jpg", np.random.default_rng(0))


def test_options_are_checked():
    for options, match in [
        ({"colour_jitter": 0.4}, "unknown option 'colour_jitter'; did you mean color_jitter"),
        ({"interpolation": "cubic"}, "interpolation='cubic' is not known; choose one of random, nearest"),
        ({"hflip": 50}, "hflip=50; expected a probability"),
        ({"scale": (1.0, 0.08)}, r"scale=\(1.0, 0.08\); expected two positive numbers, the smaller one first"),
        ({"ratio": (0.0, 1.0)}, "ratio="),
        ({"color_jitter": (0.1, 0.1)}, r"color_jitter=\(0.1, 0.1\); expected one number"),
        ({"color_jitter": (0.1, 0.1, 0.1, 0.6)}, "at most 0.5, for hue"),
        ({"mean": (0.5, 0.5)}, "expected three numbers for RGB or one for greyscale"),
        ({"img_size": 0}, "at least 1 pixel"),
        ({"img_size": (1, 2, 3)}, r"image size \(1, 2, 3\); expected one number"),
    ]:
        with pytest.raises(ValueError, match=match):
            create_train_transform(nfjax.data_config("test_nfnet"), **options)


def test_the_replay_can_fail(photo):
    """A draw too many, and images differ."""
    ours = create_train_transform(48, auto_augment="rand-m9-mstd0.5-inc1")
    theirs = timm.data.create_transform(
        48, is_training=True, use_prefetcher=True, interpolation="random", auto_augment="rand-m9-mstd0.5-inc1"
    )
    same = 0
    for seed in range(10):
        rng, own = np.random.default_rng(seed), np.random.default_rng(seed)
        with replayed(rng):
            expected = theirs(photo).permute(1, 2, 0).numpy()
        own.random()
        same += np.array_equal(ours(photo, own), expected)
    assert same == 0

"""Mixup, cutmix and random erasing against timm's, for the same random numbers; and on several devices."""

import math
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from nfjax.parity import oracle
from tests.helpers.replay import Forward
from train.cli.fields import fields
from train.cli.mistakes import check
from train.config import Config, Mix
from train.device import mix as module
from train.device.mix import draw_mixing, make_erase, make_mix

timm = oracle.timm()
BATCH, CLASSES, KEY = 8, 5, jax.random.key(0)
# timm keeps shares by element in float32: areas of these images, and the shares below, are exact in it.
SHAPES = {"batch": (31, 50), "pair": (32, 16), "elem": (16, 32)}
OPTIONS = {
    "mixup": {"mixup": 0.8},
    "cutmix": {"cutmix": 1.0},
    "both": {"mixup": 0.8, "cutmix": 1.0, "mixup_switch_prob": 0.4},
    "sometimes": {"mixup": 0.2, "cutmix": 0.5, "mixup_prob": 0.6},
    "minmax": {"cutmix_minmax": (0.2, 0.8)},
    "minmax or mixup": {"cutmix_minmax": (0.1, 0.9), "mixup": 1.0, "mixup_prob": 0.7},
}


@pytest.fixture
def double_torch():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Numbers:
    """The functions of `jax.random` that are used, with random numbers that are kept."""

    def __init__(self, rng):
        self.rng = rng

    def split(self, key):
        return None, None

    def uniform(self, key, shape):
        self.chances = self.rng.random(shape)
        return jnp.asarray(self.chances)

    def beta(self, key, a, b, shape):
        assert (a > 0).all()
        self.shares = np.ceil(self.rng.random(shape) * 4094) / 4096
        return jnp.asarray(self.shares)

    def normal(self, key, shape, dtype):
        self.noise = self.rng.standard_normal(shape)
        return jnp.asarray(self.noise, dtype)

    def patch(self):
        return mock.patch.object(module, "jax", Forward(jax, random=self))


class TimmNumbers:
    """The same numbers in the order in which timm's Mixup asks numpy for them."""

    def __init__(self, numbers, mix):
        on, switch, *self.place = numbers.chances
        both = mix.mixup and (mix.cutmix or mix.cutmix_minmax)
        self.chances = [on, switch] if mix.mixup_mode == "batch" or not both else [switch, on]
        cut = switch < mix.mixup_switch_prob if both else np.full(len(on), not mix.mixup)
        self.rows = np.flatnonzero(cut & (on < mix.mixup_prob))
        self.shares, self.asked, self.needed = numbers.shares, 0, 4 if mix.cutmix_minmax else 2

    def rand(self, *size):
        values = self.chances.pop(0)
        return values if size else values[0]

    def beta(self, a, b, size=None):
        return self.shares if size else self.shares[0]

    def randint(self, low, high, size=None):
        row, index = divmod(self.asked, self.needed)
        self.asked += 1
        return int(low + (high - low) * self.place[index][self.rows[row]])


def timm_mixup(mix, smoothing):
    from timm.data.mixup import Mixup

    return Mixup(
        mixup_alpha=mix.mixup,
        cutmix_alpha=mix.cutmix,
        cutmix_minmax=mix.cutmix_minmax,
        prob=mix.mixup_prob,
        switch_prob=mix.mixup_switch_prob,
        mode=mix.mixup_mode,
        label_smoothing=smoothing,
        num_classes=CLASSES,
    )


def mixed_by_both(mix, seed, smoothing=0.1, low=-2.0):
    """The same batch mixed by ours, by timm's, and the count of images that cutmix changed."""
    from timm.data import mixup

    rng = np.random.default_rng(seed)
    images = rng.uniform(low, 2, (BATCH, *SHAPES[mix.mixup_mode], 3))
    labels = rng.integers(0, CLASSES, BATCH)
    numbers = Numbers(rng)
    with numbers.patch():
        ours = make_mix(mix, CLASSES, smoothing=smoothing)(jnp.asarray(images), jnp.asarray(labels), KEY, 0)
    timm_numbers = TimmNumbers(numbers, mix)
    with mock.patch.object(mixup, "np", Forward(np, random=timm_numbers)):
        x, y = timm_mixup(mix, smoothing)(
            torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
        )
    assert timm_numbers.asked == timm_numbers.needed * len(timm_numbers.rows)
    return ours, (x.permute(0, 2, 3, 1).numpy(), y.numpy()), len(timm_numbers.rows)


@pytest.mark.parametrize("mode", fields()["mix.mixup_mode"].choices)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_mixing_equals_timms(mode, options, x64, double_torch):
    mix, rectangles = Mix(mixup_mode=mode, **options), 0
    for seed in range(10):
        ours, theirs, cut = mixed_by_both(mix, seed)
        for found, expected in zip(ours, theirs, strict=True):
            assert found.dtype == jnp.float64
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        rectangles += cut
    assert (rectangles > 0) == (options.keys() != {"mixup"})


def test_the_comparison_can_fail(x64, double_torch):
    for wrong in (
        mock.patch.object(module, "corrected", lambda lam, cut, box, height, width: lam),
        mock.patch.object(module, "cutmix_box", lambda lam, y, x, h, w: jnp.stack([y, y + 9, x, x + 9], -1)),
    ):
        with wrong:
            ours, theirs, _ = mixed_by_both(Mix(cutmix=1.0, mixup_mode="elem"), 0)
        assert max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)) > 1e-3


def test_mixing_before_normalising_is_the_same(x64, double_torch):
    """uint8 images mixed and then normalised are timm's normalised images mixed."""
    from timm.data import mixup

    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for seed in range(10):
        mix = Mix(mixup=0.8, cutmix=1.0, mixup_mode="elem")
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (BATCH, *SHAPES["elem"], 3), dtype=np.uint8)
        labels = rng.integers(0, CLASSES, BATCH)
        numbers = Numbers(rng)
        with numbers.patch():
            found, _ = make_mix(mix, CLASSES)(jnp.asarray(images), jnp.asarray(labels), KEY, 0)
        with mock.patch.object(mixup, "np", Forward(np, random=TimmNumbers(numbers, mix))):
            x = torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2).copy())
            expected = timm_mixup(mix, 0.0)(x, torch.from_numpy(labels))[0].permute(0, 2, 3, 1)
        np.testing.assert_allclose((np.asarray(found) / 255 - mean) / std, expected, rtol=0, atol=1e-12)


class TimmErasing:
    """The same numbers in the order in which timm's RandomErasing asks for them."""

    def __init__(self, numbers, mix):
        sizes = np.cumsum([1, 1, 2 * mix.recount, module.ATTEMPTS * mix.recount])
        self.on, self.count, place, area, aspect = np.split(numbers.chances, sizes, -1)
        self.places = place.reshape(BATCH, mix.recount, 2)
        self.tries = [x.reshape(BATCH, mix.recount, module.ATTEMPTS) for x in (area, aspect)]
        self.noise, self.image, self.one = getattr(numbers, "noise", None), -1, mix.recount == 1

    def random(self):
        self.image, self.block, self.asked, self.place, self.counted = self.image + 1, 0, 0, [], self.one
        return self.on[self.image, 0]

    def randint(self, low, high):
        if not self.counted:
            self.counted = True
            return low + int((high + 1 - low) * self.count[self.image, 0])
        share = self.places[self.image, self.block, len(self.place)]
        self.place.append(low + int((high + 1 - low) * share))
        return self.place[-1]

    def uniform(self, low, high):
        if self.asked == 2 * module.ATTEMPTS:
            self.block, self.asked = self.block + 1, 0
        attempt, name = divmod(self.asked, 2)
        self.asked += 1
        return low + (high - low) * self.tries[name][self.image, self.block, attempt]

    def pixels(self, per_pixel, rand_color, patch_size, dtype, device):
        (top, left), block = self.place, self.block
        self.block, self.asked, self.place = block + 1, 0, []
        if per_pixel:
            values = self.noise[self.image, 0, top : top + patch_size[1], left : left + patch_size[2]]
        elif rand_color:
            values = self.noise[self.image, block]
        else:
            values = np.zeros((1, 1, patch_size[0]))
        return torch.from_numpy(values).permute(2, 0, 1)


@pytest.mark.parametrize("remode", fields()["mix.remode"].choices)
@pytest.mark.parametrize(("recount", "reprob"), [(1, 1.0), (1, 0.4), (3, 0.8)])
@pytest.mark.parametrize("shape", [(31, 50, 3), (64, 12, 1)], ids=str)
def test_erasing_equals_timms(remode, recount, reprob, shape, x64):
    from timm.data import random_erasing

    mix, erased = Mix(reprob=reprob, remode=remode, recount=recount), 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        images = rng.uniform(-2, 2, (BATCH, *shape))
        numbers = Numbers(rng)
        with numbers.patch():
            found = make_erase(mix)(jnp.asarray(images), KEY)
        same = TimmErasing(numbers, mix)
        with (
            mock.patch.object(random_erasing, "random", same),
            mock.patch.object(random_erasing, "_get_pixels", same.pixels),
        ):
            theirs = random_erasing.RandomErasing(reprob, mode=remode, max_count=recount, device="cpu")
            expected = theirs(torch.tensor(images).permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1).numpy()
        assert same.image == BATCH - 1
        np.testing.assert_array_equal(found, expected)
        erased += (expected != images).any((1, 2, 3)).mean() / 10
    assert 0.6 * reprob < erased <= min(1.0, 1.5 * reprob)


def test_numbers_have_timms_distribution():
    """What is really drawn, by its means."""
    count = 4000
    mix = Mix(mixup=0.4, cutmix=1.0, mixup_prob=0.8, mixup_switch_prob=0.3, mixup_mode="elem")
    drawn = jax.jit(lambda key: draw_mixing(key, mix, count, 64, 64))(jax.random.key(0))
    lam, cut, box = (np.asarray(a, float) for a in (drawn.lam, drawn.cut, drawn.box))
    mixed = (cut == 0) & (lam < 1)
    assert cut.mean() == pytest.approx(0.24, abs=0.03)
    assert mixed.mean() == pytest.approx(0.56, abs=0.03)
    assert lam[mixed].mean() == pytest.approx(0.5, abs=0.03)
    assert lam[mixed].var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.02)
    assert ((box[:, :2] >= 0) & (box[:, 2:] <= 64)).all()
    areas = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2]) / 64**2
    np.testing.assert_allclose(lam[cut > 0], 1 - areas[cut > 0], atol=1e-6)
    from timm.data.mixup import Mixup

    theirs = np.array([Mixup(0.4, 1.0, prob=0.8, switch_prob=0.3)._params_per_batch() for _ in range(count)], object)
    assert np.mean([not c and lam < 1 for lam, c in theirs]) == pytest.approx(mixed.mean(), abs=0.03)

    erase = jax.jit(make_erase(Mix(reprob=0.5, recount=2, remode="rand")))
    whole = erase(jnp.full((1000, 24, 24, 3), 9.0), jax.random.key(1))
    erased = np.asarray(whole != 9.0)
    assert erased.any((1, 2, 3)).mean() == pytest.approx(0.5, abs=0.05)
    assert erased[erased.any((1, 2, 3))].mean() == pytest.approx(0.165, abs=0.02)


def test_off_late():
    """From the step on: images and smoothed targets bit for bit, by the same compiled function."""
    mix = Mix(mixup=0.8, cutmix=1.0, mixup_mode="elem")
    apply = jax.jit(make_mix(mix, CLASSES, smoothing=0.1, off_step=100))
    images = jax.random.normal(jax.random.key(0), (BATCH, 16, 16, 3))
    labels = jnp.arange(BATCH) % CLASSES
    smoothed = jax.nn.one_hot(labels, CLASSES) * 0.9 + 0.1 / CLASSES
    before, _ = apply(images, labels, jax.random.key(3), 99)
    after, targets = apply(images, labels, jax.random.key(3), 100)
    assert (before != images).any()
    np.testing.assert_array_equal(after, images)
    np.testing.assert_array_equal(targets, smoothed)
    assert apply._cache_size() == 1


@pytest.mark.parametrize("mode", ["elem", *(pytest.param(m, marks=pytest.mark.slow) for m in ("batch", "pair"))])
def test_the_same_on_any_mesh(mode):
    """A batch spread over two devices: the same up to rounding; uint8 shares of it change places, once, and no more."""
    mesh = jax.make_mesh((2, 1), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))
    spread = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    mix = Mix(mixup=0.8, cutmix=1.0, mixup_mode=mode, reprob=0.5, recount=2)
    mixed, erase = make_mix(mix, CLASSES, smoothing=0.1), make_erase(mix)

    def apply(images, labels, key):
        images, targets = mixed(images, labels, key, 0)
        return erase(images / 255, jax.random.fold_in(key, 1)), targets

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 16, 16, 3), dtype=np.uint8)
    labels, key = np.arange(BATCH) % CLASSES, jax.random.key(2)
    compiled = (
        jax.jit(apply, in_shardings=(spread, spread, None), out_shardings=spread).lower(images, labels, key).compile()
    )
    found = compiled(*jax.device_put((images, labels), spread), key)
    for ours, expected in zip(found, jax.jit(apply)(images, labels, key), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-7)
    moved = re.findall(r" = (\S+) (all-\w+|collective-\w+|reduce-scatter)", compiled.as_text())
    images_moved = [(shape.split("{")[0], operation) for shape, operation in moved if "16,16" in shape]
    assert images_moved == [("u8[4,16,16,3]", "collective-permute")]


def test_nothing_to_do_is_none():
    assert make_mix(Mix(), 10) is None
    assert make_mix(Mix(mixup=1.0, mixup_prob=0.0), 10) is None
    assert make_erase(Mix(mixup=1.0)) is None


def test_half_precision_is_mixed_in_float32():
    images, key = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.bfloat16), jax.random.key(0)
    mixed, targets = jax.eval_shape(make_mix(Mix(mixup=1.0), 3), images, jnp.arange(4) % 3, key, 0)
    assert mixed.dtype == targets.dtype == jnp.float32
    assert jax.eval_shape(make_erase(Mix(reprob=1.0)), images, key).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mixup": -1.0}, "mix.mixup=-1.0: expected a finite number, at least 0"),
        ({"cutmix": math.nan}, "mix.cutmix=nan"),
        ({"mixup": 1.0, "mixup_mode": "half"}, "mix.mixup_mode='half': expected one of batch, pair, elem"),
        ({"mixup": 1.0, "mixup_prob": 1.5}, "mix.mixup_prob=1.5: expected a finite number, at least 0 and at most 1"),
        ({"cutmix_minmax": (0.8, 0.2)}, r"mix.cutmix_minmax=\(0.8, 0.2\); expected two shares"),
        ({"reprob": 2.0}, "mix.reprob=2.0: expected a finite number, at least 0 and at most 1"),
        ({"reprob": 0.1, "remode": "noise"}, "mix.remode='noise': expected one of const, rand, pixel"),
        ({"reprob": 0.1, "recount": 0}, "mix.recount=0: expected an integer, at least 1"),
    ],
    ids=str,
)
def test_options_are_checked(options, match):
    def run(mix):
        check(Config(mix=mix))
        make_mix(mix, 10)

    with pytest.raises(ValueError, match=match):
        run(Mix(**options))


def test_odd_batches_are_refused():
    with pytest.raises(ValueError, match="a batch of 3 images cannot be mixed in pairs"):
        make_mix(Mix(mixup=1.0), 10)(jnp.ones((3, 8, 8, 3)), jnp.arange(3), KEY, 0)

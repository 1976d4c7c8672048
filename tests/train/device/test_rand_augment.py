"""RandAugment on the device against the same operations by Pillow."""

import io
import re
from importlib.resources import files
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from nfjax.augment.ops import OPS
from nfjax.augment.policies import Settings, create_policy
from tests.helpers.replay import Forward
from train.device import rand_augment as device
from train.device.rand_augment import TABLE, arguments, change, make_rand_augment

FILL = (124, 116, 104)
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
NAMES = list(TABLE)
# In float64 too: Pillow mixes images in float32, and compilers contract the product and the sum of AutoContrast.
INEXACT = ("autocontrast", "brightness", "color", "contrast", "sharpness")


class Fixed:
    def __init__(self, chance):
        self.chance = chance

    def random(self):
        return self.chance


@pytest.fixture(scope="module")
def photos():
    """Two photographs, noise, and an image of few levels, `(4, 30, 44, 3)` uint8."""
    images = [
        Image.open(io.BytesIO((files("skimage") / f"data/{name}").read_bytes()))
        for name in ("coffee.png", "rocket.jpg")
    ]
    images = [np.asarray(image.convert("RGB").resize((44, 30), box=(100, 50, 320, 200))) for image in images]
    noise = np.random.default_rng(0).integers(0, 256, (2, 30, 44, 3), dtype=np.uint8)
    return np.stack([*images, noise[0], noise[1] // 100 + 40])


def by_pillow(name, x, chance, bicubic, image):
    settings = Settings(FILL, (FILTERS[int(bicubic)],))
    return np.asarray(settings.run(OPS[name], float(x), Image.fromarray(image), Fixed(chance)), int)


def differences(photos):
    """By operation: the largest difference, and the share of values that differ."""
    rng = np.random.default_rng(1)
    # Magnitudes at random: round ones put pixels on the very border, where rounding says whether they are inside.
    cases = [(n, x, u, b) for n in NAMES for x in rng.uniform(0, 1.1, 6) for u in (0.25, 0.75) for b in (False, True)]
    names, x, chance, bicubic = (np.repeat(column, len(photos)) for column in zip(*cases, strict=True))
    index = np.array([NAMES.index(name) for name in names])
    images = np.tile(photos, (len(cases), 1, 1, 1))

    def run(images, index, x, chance, bicubic):
        return change(images, *arguments(NAMES, index, x, chance), bicubic, FILL)

    run = jax.jit(
        run, compiler_options={"xla_backend_optimization_level": 3}
    )  # it computes for longer than it compiles

    found = np.asarray(run(images, index, jnp.asarray(x), jnp.asarray(chance), bicubic), int)
    expected = np.stack([by_pillow(*case) for case in zip(names, x, chance, bicubic, images, strict=True)])
    off = np.abs(found - expected)
    return {name: (off[names == name].max(), (off[names == name] > 0).mean()) for name in NAMES}


def test_within_one_level_of_pillow(photos):
    for name, (most, share) in differences(photos).items():
        assert most <= 1, name
        assert share < 0.005, name


def test_equal_to_pillow_in_float64(photos, x64):
    """Pillow moves pixels in float64."""
    for name, (most, share) in differences(photos).items():
        assert most <= (TABLE[name][0] in INEXACT), name
        assert share < 0.01, name


def test_the_comparison_can_fail(photos):
    def off(wrong):
        with wrong:
            return {name for name, (most, share) in differences(photos[:1]).items() if most > 1 or share >= 0.005}

    assert off(mock.patch.object(device, "_smooth", lambda images: images)) == {"Sharpness", "SharpnessIncreasing"}
    cubic = mock.patch.object(
        device, "_interpolate", lambda values, d, bicubic: values[1] + (values[2] - values[1]) * d
    )
    assert off(cubic) == {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "rand-m7-n3-p0.7-mstd101", "rand-m9-tweights-p1.0-n4"])
def test_policies(text, photos, x64):
    """Draws become operations as on the host: the whole policy, with numbers that are known."""
    policy, rng = create_policy(text, fill=FILL, resample=FILTERS), np.random.default_rng(0)
    count, layers = 24, policy.num_layers
    uniform, magnitude = rng.random((4, layers, count)), rng.standard_normal((layers, count)) * 0.5 + 0.5
    gumbel = rng.gumbel(size=(count, len(policy.steps)))
    fake = Forward(
        jax.random,
        uniform=lambda key, shape: jnp.asarray(uniform if len(shape) == 3 else magnitude.clip(0, 1)),
        normal=lambda key, shape: jnp.asarray(magnitude),
        gumbel=lambda key, shape: jnp.asarray(gumbel),
    )
    images = photos[rng.integers(2, size=count)]
    with mock.patch.object(device, "jax", Forward(jax, random=fake)):
        found = np.asarray(make_rand_augment(policy)(jnp.asarray(images), jax.random.key(0)), int)
    used = set()
    for i in range(count):
        image, exact = images[i], True
        chosen = (uniform[2, :, i] * len(policy.steps)).astype(int)
        if policy.weights is not None:
            chosen = np.argsort(-(np.log(policy.weights) + gumbel[i]))[:layers]
        for layer, index in enumerate(chosen):
            on, sign, _, resample = uniform[:, layer, i]
            step = policy.steps[index]
            if on < step.prob:
                spread = policy.settings.magnitude_std
                drawn = magnitude[layer, i]
                level = step.magnitude * np.clip(drawn, 0, 1) if spread == np.inf else step.magnitude + spread * drawn
                image = by_pillow(step.name, np.clip(level, 0, 10) / 10, sign, resample >= 0.5, image).astype(np.uint8)
                exact &= TABLE[step.name][0] not in INEXACT
                used.add(step.name)
        if exact:
            np.testing.assert_array_equal(found[i], image)
        else:
            assert np.abs(found[i] - image).mean() < 0.5
    assert len(used) >= 5


def test_spread_over_devices_nothing_is_moved(photos):
    mesh = jax.make_mesh((2, 1), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))
    spread = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    apply, key = (
        make_rand_augment(create_policy("rand-m9-mstd0.5-inc1", fill=FILL, resample=FILTERS)),
        jax.random.key(1),
    )
    compiled = jax.jit(apply, in_shardings=(spread, None), out_shardings=spread).lower(photos, key).compile()
    found = np.asarray(compiled(jax.device_put(photos, spread), key), int)
    assert (found != np.asarray(jax.jit(apply)(photos, key), int)).mean() < 0.005
    assert not re.findall(r"all-\w+\(|collective-\w+\(|reduce-scatter\(", compiled.as_text())


def test_what_is_not_there_is_refused():
    for text, resample in (
        ("v0", FILTERS),
        ("rand-t3a", FILTERS),
        ("ta_wide", FILTERS),
        ("rand", (Image.Resampling.LANCZOS,)),
    ):
        with pytest.raises(ValueError, match="on the device there is RandAugment, bilinear or bicubic"):
            make_rand_augment(create_policy(text, fill=FILL, resample=resample))

"""AutoAugment, RandAugment, 3-Augment, AugMix and TrivialAugment, from timm's strings.

A policy is a value, comparable and picklable, and a function `(image, rng) -> image`. It takes its random numbers from
`rng` in the order in which timm takes its own.
"""

import dataclasses
import math
import re
from collections.abc import Callable

import numpy as np
from PIL import Image

from nfjax.augment.ops import OPS, TRIVIAL_OPS, Fill, Op
from nfjax.augment.tables import AUGMIX_OPS, AUTO_POLICIES, RAND_INCREASING_OPS, RAND_OPS, RAND_SETS

Policy = Callable[[Image.Image, np.random.Generator], Image.Image]
LEVELS = 10.0  # magnitudes are tenths of an operation's range


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all operations of a policy share."""

    fill: Fill  # colour of what comes in from outside, by channel
    resample: tuple[Image.Resampling, ...]  # of geometric operations; one is drawn if there are several
    magnitude_std: float = 0.0  # standard deviation; infinity draws magnitudes evenly from 0 up
    magnitude_max: float = LEVELS
    translate_pct: float = 0.45  # translation at magnitude 10, as a share of the side

    def run(self, op: Op, x: float, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Apply one operation at a share `x` of its full magnitude."""
        arguments = []
        if op.argument is not None:
            arguments.append(op.argument(x, rng.random() if op.random else 0.0, self.translate_pct))
        if not op.geometric:
            return op.apply(image, *arguments)
        resample = self.resample[rng.integers(len(self.resample))] if len(self.resample) > 1 else self.resample[0]
        return op.apply(image, *arguments, resample, self.fill)


@dataclasses.dataclass(frozen=True)
class Step:
    """An operation of `nfjax.augment.ops.OPS` that is applied now and then (timm `AugmentOp`).

    `prob` says how often, and `magnitude`, in tenths of its range, how strongly.
    """

    name: str
    prob: float
    magnitude: float

    def __call__(self, image: Image.Image, rng: np.random.Generator, settings: Settings) -> Image.Image:
        if self.prob < 1 and rng.random() > self.prob:
            return image
        magnitude = self.magnitude
        if settings.magnitude_std == math.inf:
            magnitude = rng.uniform(0, magnitude)
        elif settings.magnitude_std > 0:
            magnitude = rng.normal(magnitude, settings.magnitude_std)
        magnitude = max(0.0, min(magnitude, settings.magnitude_max))
        return settings.run(OPS[self.name], magnitude / LEVELS, image, rng)


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """One of several fixed sequences of operations (1805.09501; timm `AutoAugment`)."""

    policy: tuple[tuple[Step, ...], ...]
    settings: Settings

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for step in self.policy[rng.integers(len(self.policy))]:
            image = step(image, rng, self.settings)
        return image


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """`num_layers` operations drawn from a set (1909.13719; timm `RandAugment`).

    `weights` say how likely each is, and add up to 1; none is then drawn twice. None: all alike, with repetitions.
    """

    steps: tuple[Step, ...]
    num_layers: int
    weights: tuple[float, ...] | None
    settings: Settings

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if self.weights is None:
            chosen = rng.integers(len(self.steps), size=self.num_layers)
        else:
            chosen = rng.choice(len(self.steps), self.num_layers, replace=False, p=self.weights)
        for index in chosen:
            image = self.steps[index](image, rng, self.settings)
        return image


@dataclasses.dataclass(frozen=True)
class AugMix:
    """The image mixed with a mixture of several augmented versions of it (1912.02781; timm `AugMixAugment`).

    There are `width` versions, of `depth` operations each (-1: 1, 2 or 3 at random); the shares of the mixture have a
    Dirichlet and a beta distribution with parameter `alpha`.
    """

    steps: tuple[Step, ...]
    alpha: float
    width: int
    depth: int
    settings: Settings

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        weights = rng.dirichlet([self.alpha] * self.width).astype(np.float32)
        share = np.float32(rng.beta(self.alpha, self.alpha))
        mixed = np.zeros_like(image, np.float32)
        for weight in weights:
            version = image
            depth = self.depth if self.depth > 0 else rng.integers(1, 4)
            for index in rng.integers(len(self.steps), size=depth):
                version = self.steps[index](version, rng, self.settings)
            mixed += weight * np.asarray(version, np.float32)
        levels = np.clip(mixed, 0, 255).astype(np.uint8)
        return Image.blend(image, Image.fromarray(levels), float(share))


@dataclasses.dataclass(frozen=True)
class TrivialAugment:
    """One operation at one magnitude, each drawn evenly (2103.10158; torchvision `TrivialAugmentWide`)."""

    settings: Settings

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        op = tuple(TRIVIAL_OPS.values())[rng.integers(len(TRIVIAL_OPS))]
        x = rng.integers(31) / 30 if op.argument is not None else 0.0
        return self.settings.run(op, float(x), image, rng)


def create_policy(text: str, *, fill: Fill, resample: tuple[Image.Resampling, ...]) -> Policy:
    """The policy that a string describes.

    Sections are separated by dashes; the first says which policy, the others are a name and a number each:

    * "rand-m9-mstd0.5-inc1" (timm `rand_augment_transform`): m magnitude (10), n operations per image (2), p
      probability of each (0.5), mstd standard deviation of the magnitude, or above 100 evenly from 0 up to it (0), mmax
      largest magnitude (10), inc1 operations whose effect grows with the magnitude (0), t another set of operations:
      "t3a", "t3aw" or "tweights".
    * "original-mstd0.5", "originalr", "v0", "v0r", "3a" (timm `auto_augment_transform`): mstd.
    * "augmix-m5-w4-d2" (timm `augment_and_mix_transform`): m magnitude (3), w versions (3), d operations each (-1: 1 to
      3), a alpha (1), mstd (evenly up to m from 0).
    * "ta_wide": TrivialAugment; the name of torchvision's reference scripts.

    Anything else is a ValueError, where timm ignores some mistakes. `fill` and `resample` are those of `Settings`.
    """
    name, *sections = text.split("-")
    if name == "rand":
        return _rand_augment(_Options(text, sections, "m n p mstd mmax inc t"), fill, resample)
    if name == "augmix":
        return _augmix(_Options(text, sections, "m w d a mstd"), fill, resample)
    if name == "ta_wide":
        _Options(text, sections, "")
        return TrivialAugment(Settings(fill, resample))
    if name in AUTO_POLICIES:
        mstd = _Options(text, sections, "mstd").number("mstd", 0.0)
        policy = tuple(tuple(Step(*step) for step in steps) for steps in AUTO_POLICIES[name])
        return AutoAugment(policy, Settings(fill, resample, magnitude_std=mstd))
    raise ValueError(
        f"auto_augment={text!r} is not known; it begins with rand, augmix, ta_wide, {', '.join(AUTO_POLICIES)}, as in "
        "'rand-m9-mstd0.5-inc1'."
    )


class _Options:
    """The sections of a policy's string, by name."""

    def __init__(self, text: str, sections: list[str], known: str) -> None:
        self.text, self.values = text, dict[str, str]()
        for section in sections:
            found = re.fullmatch(r"(t)(.+)" if section.startswith("t") else r"([a-z]+)(\d.*)", section)
            if found is None or found[1] not in known.split():
                expected = f"{', '.join(known.split())}, each followed by its value" if known else "no options"
                raise ValueError(f"auto_augment={text!r}: section {section!r} is not known; expected {expected}.")
            if found[1] in self.values:
                raise ValueError(f"auto_augment={text!r}: {found[1]} is there twice.")
            self.values[found[1]] = found[2]

    def number(self, name: str, default: float) -> float:
        try:
            return float(self.values.get(name, default))
        except ValueError:
            raise ValueError(f"auto_augment={self.text!r}: {name}{self.values[name]} is not a number.") from None

    def integer(self, name: str, default: int) -> int:
        value = self.number(name, default)
        if value != int(value):
            raise ValueError(f"auto_augment={self.text!r}: {name}{self.values[name]}; expected a whole number.")
        return int(value)


def _rand_augment(options: _Options, fill: Fill, resample: tuple[Image.Resampling, ...]) -> RandAugment:
    mstd = options.number("mstd", 0.0)
    settings = Settings(fill, resample, math.inf if mstd > 100 else mstd, options.integer("mmax", 0) or LEVELS)
    chosen: tuple[str, ...] | dict[str, float] = RAND_INCREASING_OPS if options.integer("inc", 0) else RAND_OPS
    name = options.values.get("t")
    if name in RAND_SETS:
        chosen = RAND_SETS[name]
    elif name is not None:
        raise ValueError(
            f"auto_augment={options.text!r}: no set of operations {name!r}; known: {', '.join(RAND_SETS)}."
        )
    weights = None
    if isinstance(chosen, dict):
        weights = tuple((np.array(list(chosen.values())) / np.sum(list(chosen.values()))).tolist())
    steps = tuple(Step(op, options.number("p", 0.5), options.integer("m", 10)) for op in chosen)
    count = options.integer("n", 2)
    if weights is not None and count > len(steps):
        raise ValueError(
            f"auto_augment={options.text!r}: {count} different operations of {len(steps)}; take a smaller n."
        )
    return RandAugment(steps, count, weights, settings)


def _augmix(options: _Options, fill: Fill, resample: tuple[Image.Resampling, ...]) -> AugMix:
    settings = Settings(fill, resample, magnitude_std=options.number("mstd", math.inf), translate_pct=0.3)
    steps = tuple(Step(op, 1.0, options.integer("m", 3)) for op in AUGMIX_OPS)
    return AugMix(steps, options.number("a", 1.0), options.integer("w", 3), options.integer("d", -1), settings)

"""timm's and torchvision's random draws taken from a numpy Generator, in the order in which they ask for them."""

import contextlib
from unittest import mock

import numpy as np
from PIL import Image, ImageOps


class Forward:
    """A module with some of its attributes replaced."""

    def __init__(self, module, **replaced):
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)


class Random:
    """Python's `random` module."""

    def __init__(self, rng):
        self.rng = rng
        self.random, self.uniform, self.gauss = rng.random, rng.uniform, rng.normal

    def randint(self, low, high):
        return int(self.rng.integers(low, high + 1)) if low else int(self.rng.integers(high + 1))

    def choice(self, values):
        return values[self.rng.integers(len(values))]


class NumpyRandom:
    """`numpy.random`."""

    def __init__(self, rng):
        self.rng = rng
        self.beta, self.dirichlet, self.randint = rng.beta, rng.dirichlet, rng.integers

    def choice(self, values, size, replace=True, p=None):
        plain = replace and p is None
        count = len(values)
        indices = self.rng.integers(count, size=size) if plain else self.rng.choice(count, size, replace=replace, p=p)
        return [values[i] for i in indices]


class Empty:
    """`torch.empty(1)`."""

    def __init__(self, rng):
        self.uniform_ = lambda *bounds: np.float64(rng.uniform(*bounds))


def posterize(image, bits, pillows=ImageOps.posterize):
    """Pillow's. From version 13 on it refuses to keep no bits, and timm fails; before, that was black."""
    try:
        return pillows(image, bits)
    except ValueError:
        if bits > 0:
            raise
        return Image.new(image.mode, image.size)


@contextlib.contextmanager
def replayed(rng):
    """Within it, timm's transforms and torchvision's draw from `rng`."""
    import torch
    import torchvision.transforms.autoaugment
    import torchvision.transforms.transforms
    from timm.data import auto_augment, transforms

    def randint(high, size, dtype=None):
        # A sign: torchvision draws a bit, the policies here the upper half of [0, 1).
        return torch.tensor(int(rng.random() > 0.5) if high == 2 else int(rng.integers(high)))

    fake = Forward(
        torch,
        rand=lambda size: rng.random(),
        randperm=rng.permutation,
        empty=lambda size: Empty(rng),
        randint=randint,
        linspace=lambda *args: torch.linspace(*args, dtype=torch.float64),
    )
    with (
        mock.patch.object(auto_augment, "random", Random(rng)),
        mock.patch.object(auto_augment, "np", Forward(np, random=NumpyRandom(rng))),
        mock.patch.object(transforms, "random", Random(rng)),
        mock.patch.object(ImageOps, "posterize", posterize),
        mock.patch.object(torchvision.transforms.transforms, "torch", fake),
        mock.patch.object(torchvision.transforms.autoaugment, "torch", fake),
    ):
        yield

"""From a batch of uint8 images to what the model is given, on the device, inside the compiled step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nfjax.augment.policies import Policy
from train.config import Config
from train.device.mix import make_erase, make_mix
from train.device.rand_augment import make_rand_augment

Inputs = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Normalize:
    """uint8 images to what the model was made for, on the device."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: Any = jnp.float32

    def __call__(self, images: jax.Array) -> jax.Array:
        mean, std = jnp.array(self.mean, self.dtype), jnp.array(self.std, self.dtype)
        return (images.astype(self.dtype) / 255 - mean) / std


def make_inputs(
    config: Config, normalize: Normalize, *, num_classes: int, steps_per_epoch: int, policy: Policy | None = None
) -> Inputs:
    """What a training batch goes through: `(images, labels, key, step) -> (inputs, targets)`, in timm's order.

    RandAugment, where the host leaves it to the device; mixup and cutmix; normalising; random erasing. Images are uint8
    `(batch, height, width, channels)` and labels `(batch,)`; targets are `(batch, num_classes)` where batches are
    mixed, smoothed already, and the labels elsewhere.

    Args:
        config: `augment`, `mix` and `loss.smoothing` matter here.
        normalize: from uint8 images to the model's input.
        num_classes: of the targets.
        steps_per_epoch: for `mix.mixup_off_epoch`.
        policy: of the training transform, for `augment.on_device`.

    Raises:
        ValueError: for options that mean nothing, naming them.
    """
    rand_augment = None
    if config.augment.on_device:
        if policy is None:
            raise ValueError("augment.on_device=True, and there is no augment.auto_augment to leave to the device.")
        rand_augment = make_rand_augment(policy)
    off_step = config.mix.mixup_off_epoch * steps_per_epoch or None
    mix = make_mix(config.mix, num_classes, smoothing=config.loss.smoothing, off_step=off_step)
    erase = make_erase(config.mix)

    def inputs(images: jax.Array, labels: jax.Array, key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(key, 3)
        if rand_augment is not None:
            images = rand_augment(images, keys[0])
        if mix is not None:
            images, labels = mix(images, labels, keys[1], step)
        images = normalize(images)
        return images if erase is None else erase(images, keys[2]), labels

    return inputs

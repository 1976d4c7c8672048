"""From a batch of uint8 images to what the model is given, on the device, inside the compiled step."""

import dataclasses
from collections.abc import Callable

import jax
from jaxtyping import PRNGKeyArray

from nfjax.augment.policies import Policy
from train.config import Config
from train.device.mix import Labels, Step, Targets, make_erase, make_mix, make_targets
from train.device.normalize import Images, Inputs, Normalize
from train.device.rand_augment import make_rand_augment


@dataclasses.dataclass(frozen=True)
class BatchTransform:
    """What a training batch goes through, in timm's order.

    Where batches are mixed, it gives targets, smoothed already, instead of labels; of several labels an image always.
    """

    targets: Callable[..., jax.Array] | None  # of several labels an image
    rand_augment: Callable[..., jax.Array] | None  # where the host leaves it to the device
    mix: Callable[..., tuple[jax.Array, jax.Array]] | None
    normalize: Normalize
    erase: Callable[..., jax.Array] | None

    def __call__(
        self, images: Images, labels: Labels, key: PRNGKeyArray, step: Step
    ) -> tuple[Inputs, Labels | Targets]:
        keys = jax.random.split(key, 3)
        if self.targets is not None:
            labels = self.targets(labels)
        if self.rand_augment is not None:
            images = self.rand_augment(images, keys[0])
        if self.mix is not None:
            images, labels = self.mix(images, labels, keys[1], step)
        images = self.normalize(images)
        return images if self.erase is None else self.erase(images, keys[2]), labels


def make_batch_transform(
    config: Config,
    normalize: Normalize,
    *,
    num_classes: int,
    steps_per_epoch: int,
    policy: Policy | None = None,
    several: bool = False,
) -> BatchTransform:
    """The transform of a run.

    Args:
        config: `augment`, `mix` and `loss.smoothing` matter here.
        normalize: from uint8 images to the model's input.
        num_classes: of the targets.
        steps_per_epoch: for `mix.mixup_off_epoch`.
        policy: of the training transform, for `augment.on_device`.
        several: an image may have several labels.

    Raises:
        ValueError: for options that mean nothing, naming them.
    """
    if config.augment.on_device and policy is None:
        raise ValueError("augment.on_device=True, and there is no augment.auto_augment to leave to the device.")
    off_step = config.mix.mixup_off_epoch * steps_per_epoch or None
    smoothing = config.loss.smoothing
    return BatchTransform(
        make_targets(num_classes, smoothing, normalize.dtype) if several else None,
        make_rand_augment(policy) if config.augment.on_device and policy is not None else None,
        make_mix(config.mix, num_classes, smoothing=smoothing, off_step=off_step, several=several),
        normalize,
        make_erase(config.mix),
    )

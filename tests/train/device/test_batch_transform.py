"""What a batch goes through on the device, in which order, and from which random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfjax.augment.policies import create_policy
from train import config as c
from train.cli.mistakes import check
from train.device.batch_transform import make_batch_transform
from train.device.mix import make_erase, make_mix
from train.device.normalize import Normalize
from train.device.rand_augment import make_rand_augment

IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 24, 20, 3), np.uint8))
LABELS = jnp.arange(8)
NORMALIZE = Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
KEY = jax.random.key(7)


def run(config, step=0, policy=None):
    transform = make_batch_transform(config, NORMALIZE, num_classes=10, steps_per_epoch=5, policy=policy)
    return jax.jit(transform)(IMAGES, LABELS, KEY, step)


def test_without_options_images_are_normalised_and_labels_stay():
    images, labels = run(c.Config())
    expected = (IMAGES / 255 - np.array(NORMALIZE.mean)) / np.array(NORMALIZE.std)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    np.testing.assert_array_equal(labels, LABELS)


def test_the_order_is_timms():
    """RandAugment, mixing, normalising, erasing: each with random numbers of its own."""
    mix, loss = c.Mix(mixup=0.8, cutmix=1.0, reprob=1.0), c.Loss(smoothing=0.1)
    config = c.Config(augment=c.Augment(on_device=True), mix=mix, loss=loss)
    policy = create_policy("rand-m9-mstd0.5-inc1", fill=(128, 100, 80), resample=(2, 3))
    images, targets = run(config, policy=policy)
    keys = jax.random.split(KEY, 3)
    expected = jax.jit(make_rand_augment(policy))(IMAGES, keys[0])
    expected, expected_targets = make_mix(mix, 10, smoothing=0.1)(expected, LABELS, keys[1], 0)
    expected = make_erase(mix)(NORMALIZE(expected), keys[2])
    np.testing.assert_allclose(images, expected, atol=1e-5)
    np.testing.assert_allclose(targets, expected_targets, atol=1e-6)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    assert np.count_nonzero(targets > 0.011) > 8  # they were mixed


def test_mixing_ends_with_the_epoch_and_smoothing_does_not():
    config = c.Config(mix=c.Mix(mixup=1.0, mixup_off_epoch=2), loss=c.Loss(smoothing=0.1))
    _, last = run(config, step=9)
    images, after = run(config, step=10)
    assert not np.allclose(last, after)
    np.testing.assert_allclose(after, 0.9 * np.eye(10)[:8] + 0.01, atol=1e-6)
    np.testing.assert_allclose(images, NORMALIZE(IMAGES), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (c.Config(augment=c.Augment(on_device=True)), "no augment.auto_augment to leave to the device"),
        (c.Config(mix=c.Mix(mixup=-1.0)), "mix.mixup=-1.0"),
        (c.Config(mix=c.Mix(reprob=2.0)), "mix.reprob=2.0"),
    ],
)
def test_what_means_nothing_is_refused(config, message):
    def checked(config):
        check(config)
        run(config)

    with pytest.raises(ValueError, match=message):
        checked(config)

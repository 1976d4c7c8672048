"""Losses, their gradients and the accuracy against timm's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from nfjax.parity import oracle
from train.cli.mistakes import check
from train.config import Config, Loss
from train.optim.losses import class_weights, make_loss, top_k

oracle.timm()
BATCH, CLASSES = 6, 11


def logits(scale=3.0):
    return scale * np.random.default_rng(0).standard_normal((BATCH, CLASSES))


def labels(soft):
    rng = np.random.default_rng(1)
    return rng.dirichlet(np.full(CLASSES, 0.2), BATCH) if soft else rng.integers(0, CLASSES, BATCH)


def theirs(loss, soft):
    from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

    if loss.name == "bce":
        return BinaryCrossEntropy(loss.smoothing, loss.bce_target_thresh, sum_classes=loss.bce_sum)
    if soft:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(loss.smoothing) if loss.smoothing else torch.nn.CrossEntropyLoss()


@pytest.mark.parametrize("soft", [False, True], ids=["classes", "targets"])
@pytest.mark.parametrize(
    "loss",
    [
        Loss(),
        Loss(smoothing=0.1),
        Loss("bce"),
        Loss("bce", smoothing=0.1),
        Loss("bce", smoothing=0.1, bce_target_thresh=0.2),
        Loss("bce", bce_target_thresh=0.0),
        Loss("bce", smoothing=0.2, bce_sum=True),
        Loss("bce", smoothing=0.3, bce_target_thresh=0.3 / CLASSES, bce_sum=True),  # exactly the off value: > is strict
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [3.0, 300.0])
def test_value_and_gradient_are_timms(loss, soft, scale, x64):
    x, y = logits(scale), labels(soft)
    tensor = torch.from_numpy(x).requires_grad_()
    expected = theirs(loss, soft)(tensor, torch.from_numpy(y))
    expected.backward()
    value, gradient = jax.jit(jax.value_and_grad(make_loss(loss)))(x, y)
    assert value.shape == ()
    assert float(value) == pytest.approx(expected.item(), rel=1e-14)
    np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", ["ce", "bce"])
def test_the_loss_has_the_dtype_of_the_logits(name):
    value = make_loss(Loss(name, smoothing=0.1))(jnp.zeros((2, 3), jnp.float32), jnp.array([0, 2]))
    assert value.dtype == jnp.float32
    with jax.enable_x64(True):
        targets = jnp.full((2, 3), 1 / 3, jnp.float64)
        assert make_loss(Loss(name))(jnp.zeros((2, 3), jnp.float32), targets).dtype == jnp.float32


def test_top_k_is_timms_accuracy():
    from timm.utils import accuracy

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((100, CLASSES), np.float32), rng.integers(0, CLASSES, 100)
    theirs, x, y = (torch.from_numpy(x), torch.from_numpy(y)), jnp.asarray(x), jnp.asarray(y)
    for k in (1, 2, 5, CLASSES, CLASSES + 3):
        expected = accuracy(*theirs, topk=(k,))[0].item() / 100
        assert float(top_k(x, y, k).mean()) == pytest.approx(expected)
        assert np.array_equal(top_k(x, jax.nn.one_hot(y, CLASSES), k), top_k(x, y, k))
    assert 0 < top_k(x, y, 2).mean() < 1


def test_equal_logits_go_to_the_lower_class():
    x = jnp.zeros((4, 4))
    assert top_k(x, jnp.arange(4), 2).tolist() == [True, True, False, False]


def test_what_is_not_a_number_is_never_right():
    x = np.full((2, 4), np.nan, np.float32)
    x[1, 0] = 1
    assert top_k(jnp.asarray(x), jnp.array([0, 0]), 1).tolist() == [False, False]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Loss("mse"), r"loss\.name='mse': expected one of ce, bce"),
        (Loss(smoothing=1.0), r"loss\.smoothing=1\.0: expected a finite number, at least 0 and less than 1"),
        (Loss(bce_sum=True), r"are for loss\.name='bce'; found loss\.name='ce'"),
    ],
)
def test_what_means_nothing_is_refused(loss, message):
    def run(loss):
        check(Config(loss=loss))
        make_loss(loss)

    with pytest.raises(ValueError, match=message):
        run(loss)


@pytest.mark.parametrize("soft", [False, True], ids=["classes", "targets"])
@pytest.mark.parametrize("name", ["ce", "bce"])
def test_class_weights_are_torchs(name, soft, x64):
    """torch divides by the number of images where targets are probabilities, and so do we always."""
    loss = Loss(name, smoothing=0.1, class_weights=tuple(np.linspace(0, 3, CLASSES).tolist()))
    weights = class_weights(loss, CLASSES, None)
    target = labels(soft)
    if not soft:
        target = np.eye(CLASSES)[target] * 0.9 + 0.1 / CLASSES
    given = torch.tensor(np.array(loss.class_weights))
    both = {"ce": torch.nn.CrossEntropyLoss(given), "bce": torch.nn.BCEWithLogitsLoss(given)}
    x = torch.tensor(logits(), requires_grad=True)
    expected = both[name](x, torch.tensor(target))
    expected.backward()
    value, grad = jax.value_and_grad(make_loss(loss, weights))(jnp.asarray(logits()), jnp.asarray(labels(soft)))
    assert float(value) == pytest.approx(float(expected.detach()), rel=1e-13)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-12, atol=1e-16)


def test_class_weights_of_the_sizes():
    labels = np.repeat([0, 1, 3], [1, 10, 100])
    found = class_weights(Loss(balance=1.0), 4, labels)
    assert found[2] == 0  # has no images
    np.testing.assert_allclose(found[[0, 1, 3]] / found[3], [100, 10, 1])
    assert found[labels].mean() == pytest.approx(1)
    assert class_weights(Loss(), 4, labels) is None
    for loss in (Loss(class_weights=(1.0,)), Loss(class_weights=(0.0,) * 4), Loss(balance=1, class_weights=(1.0,) * 4)):
        with pytest.raises(ValueError, match="class_weights"):
            class_weights(loss, 4, labels)
    with pytest.raises(ValueError, match=r"loss\.balance needs all labels"):
        class_weights(Loss(balance=0.5), 4, None)

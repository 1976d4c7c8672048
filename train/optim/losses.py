"""What is minimised, and what is counted."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Integer

from train.config import Loss
from train.optim.state import Scalar

ASL_EPS = 1e-8  # the least probability whose logarithm is taken, timm's
OTHER = {"ce": "asl", "asl": "ce"}  # what there is instead

Logits = Float[Array, "batch classes"]
Targets = Integer[Array, "batch"] | Float[Array, "batch classes"]
Correct = Bool[Array, "batch"]


def class_weights(loss: Loss, num_classes: int, labels: np.ndarray | None) -> np.ndarray | None:
    """The factor on the loss of each class, `(classes,)`; None if all are 1.

    Args:
        loss: `class_weights` and `balance` matter here.
        num_classes: outputs of the model.
        labels: of all training images `(images,)`, where they are known.

    Raises:
        ValueError: another number of weights, all of them 0, both options, or labels that are not known.
    """
    if loss.class_weights and loss.balance:
        raise ValueError("loss.class_weights are factors, and loss.balance would make others; give one of them.")
    if loss.class_weights and (len(loss.class_weights) != num_classes or not any(loss.class_weights)):
        raise ValueError(
            f"loss.class_weights={loss.class_weights}; expected a number for each of the {num_classes} classes, "
            "not all of them 0."
        )
    if loss.class_weights:
        return np.array(loss.class_weights)
    if not loss.balance:
        return None
    if labels is None:
        raise ValueError("loss.balance needs all labels at once, which these images tell only as they are read.")
    if labels.ndim == 2:
        raise ValueError("loss.balance is for images with one label each; of several, give loss.pos_weight.")
    sizes = np.bincount(labels, minlength=num_classes)
    weights = np.where(sizes, np.power(np.maximum(sizes, 1), -loss.balance), 0)
    return weights * (sizes.sum() / (weights * sizes).sum())


def make_loss(
    loss: Loss, weights: np.ndarray | None = None, *, several: bool = False
) -> Callable[[Logits, Targets], Scalar]:
    """The mean loss of a batch, in the dtype of the logits.

    With `weights` of the classes each class's part of the loss is multiplied by its own, and the sum over the images is
    divided by their number (torch with class probabilities as targets; with classes it divides by the weights' sum).

    With `several` labels an image, targets are of each class, smoothed already, and NaN where they are unknown: those
    count for nothing. "bce" is then the mean over the labels that are known (timm `BinaryCrossEntropy`), or with
    `bce_sum` over the images; "asl" the sum over classes, averaged over images (timm `AsymmetricLossMultiLabel`).

    Labels are smoothed, targets of each class are not (timm `LabelSmoothingCrossEntropy`, `SoftTargetCrossEntropy` and
    `BinaryCrossEntropy`).

    Raises:
        ValueError: for options of the other loss.
    """
    if loss.name == "ce" and (loss.bce_target_thresh is not None or loss.bce_sum):
        raise ValueError("loss.bce_target_thresh and loss.bce_sum are for loss.name='bce'; found loss.name='ce'.")
    if loss.name == "ce" and loss.pos_weight is not None:
        raise ValueError("loss.pos_weight is for loss.name='bce' and 'asl'; found loss.name='ce'.")
    if several != (loss.name == "asl") and loss.name != "bce":
        found = "one label" if loss.name == "asl" else "several labels"
        raise ValueError(f"loss.name={loss.name!r}: images have {found} each; expected 'bce' or {OTHER[loss.name]!r}.")
    if several:
        return _of_several(loss, weights)

    def targets(logits: Logits, labels: Targets) -> Logits:
        if labels.ndim == logits.ndim:
            return labels.astype(logits.dtype)
        return optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), loss.smoothing)

    def weighted(values: Logits) -> Logits:
        return values if weights is None else values * jnp.asarray(weights, values.dtype)

    def cross_entropy(logits: Logits, labels: Targets) -> Scalar:
        return optax.softmax_cross_entropy(logits, weighted(targets(logits, labels))).mean()

    def binary_cross_entropy(logits: Logits, labels: Targets) -> Scalar:
        target = targets(logits, labels)
        values = weighted(_binary(loss, logits, target))
        return values.sum(-1).mean() if loss.bce_sum else values.mean()

    return cross_entropy if loss.name == "ce" else binary_cross_entropy


def _of_several(loss: Loss, weights: np.ndarray | None) -> Callable[[Logits, Targets], Scalar]:
    each = _asymmetric if loss.name == "asl" else _binary

    def of_several(logits: Logits, targets: Targets) -> Scalar:
        targets = targets.astype(logits.dtype)
        known = ~jnp.isnan(targets)
        values = jnp.where(known, each(loss, logits, jnp.where(known, targets, 0)), 0)
        values = values if weights is None else values * jnp.asarray(weights, values.dtype)
        if loss.bce_sum or loss.name == "asl":
            return values.sum(-1).mean()
        return values.sum() / jnp.maximum(known.sum(), 1).astype(values.dtype)

    return of_several


def _binary(loss: Loss, logits: Logits, target: Logits) -> Logits:
    """Binary cross-entropy of each class, `-(w t log p + (1 - t) log(1 - p))` with w = `pos_weight`."""
    if loss.bce_target_thresh is not None:
        target = (target > loss.bce_target_thresh).astype(logits.dtype)
    if loss.pos_weight is None:
        return optax.sigmoid_binary_cross_entropy(logits, target)
    weight = jnp.asarray(loss.pos_weight, logits.dtype)
    return -(weight * target * jax.nn.log_sigmoid(logits) + (1 - target) * jax.nn.log_sigmoid(-logits))


def _asymmetric(loss: Loss, logits: Logits, target: Logits) -> Logits:
    """The asymmetric loss of each class (2009.14119 equation 5; timm `AsymmetricLossMultiLabel`)."""
    there = jax.nn.sigmoid(logits)
    absent = jnp.minimum(1 - there + loss.asl_clip, 1)
    weight = 1.0 if loss.pos_weight is None else jnp.asarray(loss.pos_weight, logits.dtype)
    value = target * jnp.log(jnp.maximum(there, ASL_EPS)) * weight
    value += (1 - target) * jnp.log(jnp.maximum(absent, ASL_EPS))
    gamma = loss.asl_gamma_pos * target + loss.asl_gamma_neg * (1 - target)
    sure = there * target + absent * (1 - target)
    return -value * jnp.power(1 - sure, gamma)


def top_k(logits: Logits, labels: Targets, k: int) -> Correct:
    """Whether the label is among the k largest logits; of equal logits the lower class goes first.

    Of targets the largest counts. NaN is larger than any number, as for `torch.topk`.
    """
    if labels.ndim == logits.ndim:
        labels = labels.argmax(-1)
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
    behind = (own > logits) | ((own == logits) & ~earlier)
    return jnp.sum(~behind, axis=-1) < k

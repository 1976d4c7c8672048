"""What is minimised, and what is counted."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Integer

from train.config import Loss
from train.optim.state import Scalar

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
    sizes = np.bincount(labels, minlength=num_classes)
    weights = np.where(sizes, np.power(np.maximum(sizes, 1), -loss.balance), 0)
    return weights * (sizes.sum() / (weights * sizes).sum())


def make_loss(loss: Loss, weights: np.ndarray | None = None) -> Callable[[Logits, Targets], Scalar]:
    """The mean loss of a batch, in the dtype of the logits.

    With `weights` of the classes each class's part of the loss is multiplied by its own, and the sum over the images is
    divided by their number (torch with class probabilities as targets; with classes it divides by the weights' sum).

    Labels are smoothed, targets of each class are not (timm `LabelSmoothingCrossEntropy`, `SoftTargetCrossEntropy` and
    `BinaryCrossEntropy`).

    Raises:
        ValueError: for options of the other loss.
    """
    if loss.name == "ce" and (loss.bce_target_thresh is not None or loss.bce_sum):
        raise ValueError("loss.bce_target_thresh and loss.bce_sum are for loss.name='bce'; found loss.name='ce'.")

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
        if loss.bce_target_thresh is not None:
            target = (target > loss.bce_target_thresh).astype(logits.dtype)
        values = weighted(optax.sigmoid_binary_cross_entropy(logits, target))
        return values.sum(-1).mean() if loss.bce_sum else values.mean()

    return cross_entropy if loss.name == "ce" else binary_cross_entropy


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

"""What is minimised, and what is counted."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Integer

from train.config import Loss
from train.optim.state import Scalar

Logits = Float[Array, "batch classes"]
Targets = Integer[Array, "batch"] | Float[Array, "batch classes"]
Correct = Bool[Array, "batch"]


def make_loss(loss: Loss) -> Callable[[Logits, Targets], Scalar]:
    """The mean loss of a batch, in the dtype of the logits.

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

    def cross_entropy(logits: Logits, labels: Targets) -> Scalar:
        return optax.softmax_cross_entropy(logits, targets(logits, labels)).mean()

    def binary_cross_entropy(logits: Logits, labels: Targets) -> Scalar:
        target = targets(logits, labels)
        if loss.bce_target_thresh is not None:
            target = (target > loss.bce_target_thresh).astype(logits.dtype)
        values = optax.sigmoid_binary_cross_entropy(logits, target)
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

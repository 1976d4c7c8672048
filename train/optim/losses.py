"""What is minimised, and what is counted."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from train.config import Loss


def make_loss(loss: Loss) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The mean loss of a batch: `(logits (batch, classes), labels) -> scalar`, in the dtype of the logits.

    Labels are classes, `(batch,)` integers, or targets, `(batch, classes)`, which are not smoothed again (timm
    `LabelSmoothingCrossEntropy`, `SoftTargetCrossEntropy` and `BinaryCrossEntropy`).

    Raises:
        ValueError: for options of the other loss.
    """
    if loss.name == "ce" and (loss.bce_target_thresh is not None or loss.bce_sum):
        raise ValueError("loss.bce_target_thresh and loss.bce_sum are for loss.name='bce'; found loss.name='ce'.")

    def targets(logits: jax.Array, labels: jax.Array) -> jax.Array:
        if labels.ndim == logits.ndim:
            return labels.astype(logits.dtype)
        return optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), loss.smoothing)

    def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy(logits, targets(logits, labels)).mean()

    def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
        target = targets(logits, labels)
        if loss.bce_target_thresh is not None:
            target = (target > loss.bce_target_thresh).astype(logits.dtype)
        values = optax.sigmoid_binary_cross_entropy(logits, target)
        return values.sum(-1).mean() if loss.bce_sum else values.mean()

    return cross_entropy if loss.name == "ce" else binary_cross_entropy


def top_k(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether the label is among the k largest logits, `(batch,)` bool; of equal logits the lower class goes first.

    Labels are classes or targets, whose largest counts. NaN is larger than any number, as for `torch.topk`.
    """
    if labels.ndim == logits.ndim:
        labels = labels.argmax(-1)
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
    behind = (own > logits) | ((own == logits) & ~earlier)
    return jnp.sum(~behind, axis=-1) < k

"""What a model is told by its teacher (timm's distillation tasks)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from train.optim.state import Scalar
from train.settings.teaching import Distill

Outputs = Float[Array, "batch width"]


def make_distill_loss(distill: Distill) -> Callable[[Outputs, Outputs], Scalar]:
    """The mean loss of a batch, of what the model and its teacher say: logits, or for "features" what enters the
    classifier, both in the model's dtype."""
    each, t = KINDS[distill.kind], distill.temperature
    return lambda own, told: each(own, told.astype(own.dtype), t)


def _kl(own: Outputs, told: Outputs, t: float) -> Scalar:
    """Divergence of the softmax from the teacher's at a temperature (1503.02531; timm `LogitDistillationTask`)."""
    ours, theirs = jax.nn.log_softmax(own / t), jax.nn.log_softmax(told / t)
    return jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1).mean() * t**2


def _hard(own: Outputs, told: Outputs, t: float) -> Scalar:
    """Cross-entropy with the teacher's most probable class (2012.12877; timm `TokenDistillationTask`)."""
    return -jnp.take_along_axis(jax.nn.log_softmax(own), told.argmax(-1, keepdims=True), axis=-1).mean()


def _bce(own: Outputs, told: Outputs, t: float) -> Scalar:
    """Binary cross-entropy with the teacher's probability of each class, at a temperature."""
    there = jax.nn.sigmoid(told / t)
    ours = own / t
    return -(there * jax.nn.log_sigmoid(ours) + (1 - there) * jax.nn.log_sigmoid(-ours)).mean() * t**2


def _features(own: Outputs, told: Outputs, t: float) -> Scalar:
    """The mean squared difference (timm `FeatureDistillationTask`)."""
    return jnp.square(own - told).mean()


KINDS: dict[str, Any] = {"kl": _kl, "hard": _hard, "bce": _bce, "features": _features}

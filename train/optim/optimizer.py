"""From gradients to updates, in timm's order: clipping, decay, the optimiser, the learning rate."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, Float

from port.messages import require_name
from train.config import Optim
from train.optim.clip import MODES
from train.optim.parameters import Treatments
from train.optim.state import Params, Scalar
from train.optim.transforms import (
    add_decay,
    lookahead,
    momentum,
    partition,
    scale_by_adan,
    scale_by_lamb,
    scale_by_muon,
    scale_by_nadam,
    scale_by_rms_tf,
    suits_muon,
)
from train.optim.trees import for_any_tree


class Settings(NamedTuple):
    """What an optimiser can be told; decay by parameter path."""

    momentum: float
    betas: tuple[float, float]
    eps: float
    decay: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What sets an optimiser apart."""

    direction: Callable[[Settings], optax.GradientTransformation]  # from gradients to directions
    eps: float = 1e-8  # where the config has none, as in timm; the betas too
    betas: tuple[float, float] = (0.9, 0.999)
    # "coupled", added to the gradient; "decoupled", of the parameters themselves; or "inside" the direction
    decay: str = "decoupled"
    adaptive: bool = False  # its learning rate goes by the square root of the batch size
    late_momentum: bool = False  # momentum sums up updates that are already multiplied by the learning rate


def _adopt(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    return optax.contrib.scale_by_adopt(b1, b2, eps, clip_value_fn=lambda step: step**0.333)  # as timm's clip_exp


def _muon(s: Settings, nesterov: bool) -> optax.GradientTransformation:
    adam = scale_by_nadam if nesterov else optax.scale_by_adam
    return partition(suits_muon, scale_by_muon(s.momentum, s.eps, nesterov), adam(*s.betas, s.eps))


KINDS: dict[str, Kind] = {
    "sgd": Kind(lambda s: momentum(s.momentum, nesterov=True), decay="coupled"),
    "momentum": Kind(lambda s: momentum(s.momentum), decay="coupled"),
    "adamw": Kind(lambda s: optax.scale_by_adam(*s.betas, s.eps), adaptive=True),
    "nadamw": Kind(lambda s: scale_by_nadam(*s.betas, s.eps), adaptive=True),
    "lamb": Kind(lambda s: scale_by_lamb(*s.betas, s.eps, s.decay), eps=1e-6, decay="inside", adaptive=True),
    "rmsproptf": Kind(lambda s: scale_by_rms_tf(s.eps), eps=1e-10, decay="coupled", late_momentum=True),
    "lion": Kind(lambda s: optax.scale_by_lion(*s.betas), betas=(0.9, 0.99)),
    "muon": Kind(lambda s: _muon(s, nesterov=False), eps=1e-7, betas=(0.9, 0.95)),
    "nmuon": Kind(lambda s: _muon(s, nesterov=True), eps=1e-7, betas=(0.9, 0.95)),
    "adopt": Kind(lambda s: _adopt(*s.betas, s.eps), eps=1e-6, betas=(0.9, 0.9999), decay="coupled"),
    "adanw": Kind(lambda s: scale_by_adan(*s.betas, s.eps), betas=(0.98, 0.92), adaptive=True),
}


def make_optimizer(
    optim: Optim, treatments: Treatments, learning_rate: float | optax.Schedule | None = None
) -> optax.GradientTransformationExtraArgs:
    """`update(grads, state, params, learning_rate=...)`: what to add to the parameters, and the next state.

    Parameters and gradients are dicts by path, or an `nnx.State` of the same parameters, of all or of some; the updates
    are like them. The state has nothing of frozen parameters, whose gradients count for nothing either; their updates
    are 0.

    Args:
        optim: which optimiser; of its fields `lr`, `lr_base_size`, `layer_decay` and others are in the treatments or
            the learning rate.
        treatments: of every parameter, by path.
        learning_rate: a number, or a function of how many updates there were; None where each `update` is given one.
    """
    tx = for_any_tree(_with_frozen(_chain(optim, treatments), treatments))
    return tx if learning_rate is None else _at_rate(tx, learning_rate)


def _at_rate(
    tx: optax.GradientTransformationExtraArgs, learning_rate: float | optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """With a learning rate of its own."""

    def init(params: Any) -> Any:
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), tx.init(params)

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        (count,), inner = state
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        updates, inner = tx.update(grads, inner, params, learning_rate=rate, **extra)
        return updates, (optax.ScaleByScheduleState(optax.safe_increment(count)), inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _with_frozen(
    inner: optax.GradientTransformationExtraArgs, treatments: Treatments
) -> optax.GradientTransformationExtraArgs:
    """Of all parameters, where `inner` is of those that are trained."""

    def trained(tree: Params) -> Params:
        return {path: value for path, value in tree.items() if not treatments[path].frozen}

    def init(params: Params) -> Any:
        return inner.init(trained(params))

    def update(grads: Params, state: Any, params: Params | None = None, **extra: Any) -> tuple[Params, Any]:
        if params is None:
            raise ValueError("the optimiser needs the parameters.")
        some = trained(params)
        updates, state = inner.update({path: grads[path] for path in some}, state, some, **extra)
        return {path: updates[path] if path in some else jnp.zeros_like(params[path]) for path in params}, state

    return optax.GradientTransformationExtraArgs(init, update)


def _chain(optim: Optim, treatments: Treatments) -> optax.GradientTransformationExtraArgs:
    require_name("optim.name", optim.name, KINDS)
    kind = KINDS[optim.name]
    decay = {path: treatment.weight_decay for path, treatment in treatments.items()}
    scale = {path: treatment.lr_scale for path, treatment in treatments.items()}
    coupled = kind.decay == "coupled" and not optim.decoupled_decay
    decoupled = kind.decay != "inside" and not coupled
    return optax.chain(
        MODES[optim.clip_mode](optim.clip_grad, treatments) if optim.clip_grad else optax.identity(),
        add_decay(decay) if coupled else optax.identity(),
        kind.direction(settings(optim, decay)),
        _descend(scale),
        momentum(optim.momentum) if kind.late_momentum else optax.identity(),
        _shrink(decay, scale) if decoupled else optax.identity(),
        lookahead(optim.lookahead, optim.lookahead_steps) if optim.lookahead else optax.identity(),
    )


def settings(optim: Optim, decay: Mapping[str, float]) -> Settings:
    """What the config says, and the optimiser's own where it says nothing."""
    kind = KINDS[optim.name]
    return Settings(optim.momentum, optim.betas or kind.betas, kind.eps if optim.eps is None else optim.eps, decay)


def _descend(scale: Mapping[str, float]) -> optax.GradientTransformationExtraArgs:
    """`-learning_rate * scale * update`."""

    def descend(updates: Params, state: Any, params: Any = None, *, learning_rate: Scalar | float, **_: Any) -> Any:
        return {path: u * _rate(learning_rate, -scale[path], u) for path, u in updates.items()}, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, descend)


def _shrink(decay: Mapping[str, float], scale: Mapping[str, float]) -> optax.GradientTransformationExtraArgs:
    """`update - learning_rate * scale * decay * parameter`."""

    def shrink(updates: Params, state: Any, params: Params, *, learning_rate: Scalar | float, **_: Any) -> Any:
        return {
            path: u + params[path] * _rate(learning_rate, -scale[path] * decay[path], u) if decay[path] else u
            for path, u in updates.items()
        }, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, shrink)


def _rate(learning_rate: Scalar | float, factor: float, like: Float[Array, "..."]) -> Scalar:
    return jnp.asarray(learning_rate * factor, like.dtype)


def base_lr(optim: Optim, batch_size: int) -> float:
    """The peak learning rate of a run with `batch_size` images a step, over all devices (timm `train.py`).

    With `lr_base_size` it is scaled linearly, or by the square root for Adam and LAMB.
    """
    if optim.lr_base_size is None:
        return optim.lr
    ratio = batch_size / optim.lr_base_size
    return optim.lr * (ratio**0.5 if KINDS[optim.name].adaptive else ratio)

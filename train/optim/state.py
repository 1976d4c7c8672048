"""The training state: all that a step changes."""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from train.config import Ema

Arrays = dict[str, jax.Array]
Params = dict[str, Float[Array, "..."]]
Scalar = Float[Array, ""]
Step = Integer[Array, ""]


@typing.no_type_check  # of a run's shapes or shardings there are such trees too
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that a step changes, and the key of all its random choices; dicts are keyed by parameter path."""

    step: jax.Array  # how many steps were done, int32
    params: Arrays  # that may be trained, float32 or float64; with adapters the rest is in `base`
    opt_state: Any  # of the optimiser
    ema: Arrays  # moving average of the parameters; empty if there is none
    key: jax.Array  # base key, as uint32 data
    plateau: Any  # what the schedule remembers of evaluations; empty for those that depend on the step alone
    base: Arrays = dataclasses.field(default_factory=dict)  # what no step changes and no checkpoint holds

    @property
    def eval_params(self) -> dict[str, Any]:
        """What is evaluated and saved: the moving average where there is one."""
        return self.base | (self.ema or self.params)

    @property
    def kept(self) -> "State":
        """What a checkpoint holds."""
        return dataclasses.replace(self, base={})


def ema_decay(ema: Ema, step: Step) -> Scalar:
    """Share of the moving average that step `step`, counted from 0, keeps (timm `ModelEmaV3.get_decay`)."""
    warm = 1 - (1 + step.astype(float)) ** (-2 / 3) if ema.warmup else ema.decay
    return jnp.where(step > 0, jnp.minimum(warm, ema.decay), 0.0)

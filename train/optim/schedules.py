"""The learning rate as a function of the step, and how long a run is (timm `create_scheduler_v2`)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.config import Schedule
from train.optim.state import Scalar, Step

# From progress in [0, 1) through a cycle to the share of the way from `min_lr` to the peak.
CYCLES: dict[str, Callable[[Scalar, Schedule], Scalar]] = {
    "cosine": lambda progress, s: 0.5 * (1 + jnp.cos(jnp.pi * progress**s.k_decay)),
    "linear": lambda progress, s: 1 - progress,
    "poly": lambda progress, s: (1 - progress**s.k_decay) ** s.power,
    "tanh": lambda progress, s: jax.nn.sigmoid(14 - 20 * progress),  # half of 1 - tanh from -7 to 3
}


class Plateau(NamedTuple):
    """What a plateau schedule remembers."""

    best: Scalar  # metric so far
    bad: Step  # evaluations since then, or since the last decay
    lr: Scalar  # the learning rate after warm-up


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, so that it can be jitted
class LearningRate:
    """`(step, plateau) -> learning rate`, a traceable function of the steps done; and how long the run is.

    Times are in steps if the schedule changes with every step, otherwise in epochs, and may be fractions.
    """

    config: Schedule
    lr: float  # its peak
    period: int  # steps to a unit of time
    epochs: int  # of the run, without those that the schedule adds
    main: float  # time of the schedule without what is added to it
    warmup: float  # time of the warm-up
    decay: float  # time between two decays of "step", or of the decay of "wsd"
    total_steps: int  # steps of the whole run, with the epochs that warm-up, cycles and cooldown add

    def init(self) -> Any:
        """The plateau before the first evaluation; empty unless the schedule has one."""
        if self.config.name != "plateau":
            return ()
        return Plateau(jnp.array(-jnp.inf), jnp.zeros((), jnp.int32), jnp.asarray(self.lr, float))

    def __call__(self, step: Step, plateau: Any = ()) -> Scalar:
        """The learning rate of the step that follows `step` others: float64 if jax has it, else float32."""
        time, start = jnp.asarray(step // self.period, float), self.config.warmup_lr
        match self.config.name:
            case "plateau":
                value = plateau.lr
            case "constant":
                value = jnp.asarray(self.lr, float)
            case "step":
                value = self._steps(time)
            case "multistep":
                value = self._multisteps(time)
            case "wsd":
                value = self._wsd(time)
            case _:
                value = self._cycles(time)
        if not self.warmup:
            return value
        top: Any = self.lr
        if self.config.name == "tanh" and not self.config.warmup_prefix:  # where its curve is by then, as in timm
            top = self._cycles(jnp.asarray(self.warmup, float))
        return jnp.where(time < self.warmup, start + time * ((top - start) / self.warmup), value)

    def evaluated(self, plateau: Any, metric: Scalar, step: Step) -> Any:
        """The plateau after an evaluation, whose metric is better the larger it is; those in the warm-up do not count.

        As torch's `ReduceLROnPlateau` with a relative threshold; of a loss, give the negative.
        """
        if self.config.name != "plateau":
            return plateau
        best, bad, lr = plateau
        better = metric > best + self.config.threshold * jnp.where(jnp.isfinite(best), jnp.abs(best), 0)
        bad = jnp.where(better, 0, bad + 1)
        lower = jnp.maximum(lr * self.config.decay_rate, self.config.min_lr)
        decays = bad > self.config.patience_epochs
        after = Plateau(
            jnp.where(better, metric, best).astype(best.dtype),
            jnp.where(decays, 0, bad),
            jnp.where(decays & (lr - lower > 1e-8), lower, lr),
        )
        counts = jnp.asarray(step // self.period) > self.warmup
        return jax.tree.map(lambda new, old: jnp.where(counts, new, old), after, plateau)

    def _cycles(self, time: Scalar) -> Scalar:
        """Each cycle falls from its own peak to `min_lr`, where it stays after the last one."""
        c = self.config
        time = time - self.warmup if c.warmup_prefix else time
        number = np.arange(c.cycle_limit)
        length, peak = self.main * np.power(c.cycle_mul, number), self.lr * np.power(c.cycle_decay, number)
        end = jnp.asarray(np.cumsum(length), float)
        cycle = jnp.sum(time >= end)
        progress = 1 + (time - end[cycle]) / jnp.asarray(length, float)[cycle]
        value = c.min_lr + (jnp.asarray(peak, float)[cycle] - c.min_lr) * CYCLES[c.name](progress, c)
        return jnp.where(cycle < c.cycle_limit, value, c.min_lr)

    def _steps(self, time: Scalar) -> Scalar:
        time = time - self.warmup if self.config.warmup_prefix else time
        return self.lr * self.config.decay_rate ** (time // self.decay)

    def _multisteps(self, time: Scalar) -> Scalar:
        """timm counts a milestone from the unit of time before it, unlike torch."""
        time = time - self.warmup if self.config.warmup_prefix else time
        unit = self.main / self.epochs
        past = jnp.sum(jnp.asarray(self.config.milestones, float) * unit <= time + 1)
        return self.lr * self.config.decay_rate**past

    def _wsd(self, time: Scalar) -> Scalar:
        """Stable, then down by one minus the root of the progress through the decay (2405.18392)."""
        stable = max(self.lr, self.config.min_lr)
        progress = (time - self.warmup - (self.main - self.decay)) / self.decay
        return self.config.min_lr + (stable - self.config.min_lr) * (1 - jnp.sqrt(jnp.clip(progress, 0, 1)))


def make_schedule(schedule: Schedule, *, lr: float, epochs: int, steps_per_epoch: int) -> LearningRate:
    """The schedule of a run with `lr` as its peak; `epochs` are without those that the schedule adds.

    Raises:
        ValueError: for numbers that mean nothing together.
    """
    if schedule.name == "step" and schedule.decay_epochs < 1:
        raise ValueError(
            f"schedule.decay_epochs={schedule.decay_epochs}; expected at least 1 for schedule.name='step'."
        )
    if bool(schedule.milestones) != (schedule.name == "multistep") or list(schedule.milestones) != sorted(
        schedule.milestones
    ):
        raise ValueError(
            f"schedule.milestones={schedule.milestones} and schedule.name={schedule.name!r}; expected epochs in rising "
            "order for 'multistep', and none for others."
        )
    if epochs < 1 or steps_per_epoch < 1:
        raise ValueError(f"a schedule needs epochs and steps; found epochs={epochs}, {steps_per_epoch} steps each.")
    unit = steps_per_epoch if schedule.on_updates else 1
    main: float = epochs * unit
    warmup, cooldown, decay = (getattr(schedule, f"{part}_epochs") * unit for part in ("warmup", "cooldown", "decay"))
    prefix = warmup if schedule.warmup_prefix else 0
    if schedule.name == "wsd":
        main -= warmup - prefix  # its warm-up always comes first, so that this is what remains
        decay = round(schedule.decay_epochs * main if schedule.decay_epochs < 1 else decay)
        if not 0 < decay <= main:
            raise ValueError(
                f"schedule.decay_epochs={schedule.decay_epochs} is a decay of {decay / unit:g} epochs; expected more "
                f"than 0 and no more than the {main / unit:g} that the warm-up leaves."
            )
        length = main + warmup + cooldown
    elif schedule.name in CYCLES:
        length = math.floor(sum(main * schedule.cycle_mul**i for i in range(schedule.cycle_limit))) + prefix + cooldown
    else:
        length = main + prefix
    total = math.floor(length / unit) * steps_per_epoch  # whole epochs, as timm's loop
    return LearningRate(schedule, lr, steps_per_epoch // unit, epochs, main, warmup, decay, total)

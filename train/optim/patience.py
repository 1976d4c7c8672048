"""When a run ends before its last step: a metric of the evaluations that no longer improves."""

import dataclasses
import math
from typing import Any

from train.config import EarlyStop


@dataclasses.dataclass
class Patience:
    """What early stopping remembers; a checkpoint keeps it, so that a run that was killed stops at the same step."""

    config: EarlyStop
    best: float | None = None  # the metric so far
    best_step: int = 0
    bad: int = 0  # evaluations since then

    def evaluated(self, step: int, scores: dict[str, float]) -> None:
        """Take note of an evaluation: an improvement is one by more than `min_delta`; NaN is none."""
        if self.config.patience is None:
            return
        value, sign = scores[f"test_{self.config.metric}"], -1 if self.config.metric == "loss" else 1
        better = self.best is None or sign * (value - self.best) > self.config.min_delta
        if better and not math.isnan(value):
            self.best, self.best_step, self.bad = value, step, 0
        else:
            self.bad += 1

    @property
    def is_over(self) -> bool:
        return self.config.patience is not None and self.bad >= self.config.patience

    @property
    def memory(self) -> dict[str, Any]:
        """What a checkpoint keeps, for JSON."""
        return {"best": self.best, "best_step": self.best_step, "bad": self.bad}

    def remember(self, memory: dict[str, Any]) -> None:
        for name, value in memory.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        least = f" by more than {self.config.min_delta:g}" if self.config.min_delta else ""
        best = "none" if self.best is None else f"{self.best:.4f}, after step {self.best_step}"
        return f"test {self.config.metric} has not improved{least} in {self.bad} evaluations; the best was {best}"

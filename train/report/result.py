"""What a run came to."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class RunResult:
    """Test accuracies in [0, 1], and how many steps led to them.

    Attributes:
        scores: by name: top1, top5 and loss; of several labels an image map, f1, macro_f1 and loss.
        steps: how many were done.
        workdir: of the run.
    """

    scores: dict[str, float]
    steps: int
    workdir: Path | str

    @property
    def top1(self) -> float:
        return self.scores["top1"]

    @property
    def top5(self) -> float:
        return self.scores["top5"]

    def __str__(self) -> str:
        shown = [f"{name}={value:.4f}" for name, value in self.scores.items() if name != "loss"]
        return " ".join([*shown, f"steps={self.steps} workdir={self.workdir}"])

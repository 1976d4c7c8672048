"""Types of numbers that lie within bounds: what an option takes, for a reader and for the check of a config alike."""

import dataclasses
import math
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, without the end ("low" or "high") that is `open`."""

    low: float
    high: float = math.inf
    open: str = ""

    def __contains__(self, number: float) -> bool:
        ends = {"low": self.low, "high": self.high}
        return self.low <= number <= self.high and number != ends.get(self.open)

    def __str__(self) -> str:
        low = f"{'more than' if self.open == 'low' else 'at least'} {self.low}"
        high = f" and {'less than' if self.open == 'high' else 'at most'} {self.high}"
        return low if self.high == math.inf else low + high


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**63 - 1)]  # of jax.random
Positive = Annotated[float, Range(0, open="low")]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]  # probabilities too
ShareAbove0 = Annotated[float, Range(0, 1, open="low")]
ShareBelow1 = Annotated[float, Range(0, 1, open="high")]

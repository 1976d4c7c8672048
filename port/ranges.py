"""Types with bounds: what an option takes, for a reader and for the check of a config alike."""

import dataclasses
import math
from typing import Annotated, Any


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


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.values))}"


@dataclasses.dataclass(frozen=True)
class Length:
    """What has at least `low` and at most `high` items, or letters."""

    low: int
    high: int

    def __contains__(self, value: Any) -> bool:
        return self.low <= len(value) <= self.high

    def __str__(self) -> str:
        return f"from {self.low} to {self.high} of them"


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Width = Annotated[int, Range(1, 65536)]  # channels of a layer, or pixels of a side
Seed = Annotated[int, Range(0, 2**63 - 1)]  # of jax.random
Positive = Annotated[float, Range(0, open="low")]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]  # probabilities too
ShareAbove0 = Annotated[float, Range(0, 1, open="low")]
ShareBelow1 = Annotated[float, Range(0, 1, open="high")]

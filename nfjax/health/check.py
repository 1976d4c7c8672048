"""One thing that is looked at, and what was found."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

from port.text import cut, one_line

Status = Literal["ok", "warning", "problem"]


class Check(NamedTuple):
    """A line of the report.

    Attributes:
        todo: what to do about it, a sentence; empty where there is nothing to do.
    """

    name: str
    status: Status
    found: str
    todo: str = ""


Look = tuple[str, Callable[[], Iterable[Check]]]


def run_all(looks: Iterable[Look]) -> list[Check]:
    """What all of them find, in their order; they look at the same time. One that fails itself is a problem."""

    def run(look: Look) -> list[Check]:
        name, function = look
        try:
            return list(function())
        except Exception as error:  # whatever is broken must not hide the others
            told = cut(one_line(f"{type(error).__name__}: {error}"), 300)
            return [Check(name, "problem", f"could not be looked at: {told}")]

    looks = list(looks)
    with ThreadPoolExecutor(len(looks)) as pool:
        return [check for checks in pool.map(run, looks) for check in checks]

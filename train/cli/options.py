"""How to run, as opposed to what: the flags of a command line that are no fields of the config."""

import dataclasses
import re
from typing import Annotated, Any, Literal

from tyro.constructors import PrimitiveConstructorSpec

from port.ranges import Count, CountOrZero

HELP = {"--help", "-h", "--helpfull"}
SETTLING_STEPS = 10  # before a trace of so many steps: compilation, and the first, slower ones


class UsageError(ValueError):
    """The command line, or the config that it names, cannot be used."""


def _written(value: Any) -> list[str]:
    """A value as the command line takes it."""
    if isinstance(value, tuple) and "," not in "".join(map(str, value)):
        return [",".join(map(str, value))]
    return ["none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)]


class Texts(list[str]):
    """What stands after a flag, as it was given: it has yet to be read."""


def texts(metavar: str, choices: tuple[str, ...] | None = None) -> PrimitiveConstructorSpec[Any]:
    """How tyro takes a value: as texts. None of its own mistakes can occur, and none is told in its words."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=Texts,
        is_instance=lambda value: True,
        str_from_instance=_written,
        choices=choices,
    )


@dataclasses.dataclass(frozen=True)
class Profile:
    """Which steps to trace: `stop - start` of them.

    Attributes:
        start: the first one, counted from 1 as in metrics.jsonl; None for a little after this process began.
        stop: the one after the last; the number of steps if `start` is None.
    """

    start: int | None
    stop: int

    @classmethod
    def of(cls, text: str) -> "Profile":
        """The steps that --profile=TEXT asks for."""
        match = re.fullmatch(r"(?:(\d+):)?(\d+)", text)
        if match is None:
            raise UsageError(f"--profile={text}: expected a number of steps, or START:STOP.")
        start, stop = None if match[1] is None else int(match[1]), int(match[2])
        if start == 0 or stop <= (start or 0):
            raise UsageError(f"--profile={text}: no step lies in it; the first is 1, and STOP itself is not traced.")
        return cls(start, stop)

    def steps(self, done: int) -> range:
        """The steps to trace in a process that begins after `done` steps."""
        start = done + 1 + SETTLING_STEPS if self.start is None else self.start
        return range(start, start + self.stop if self.start is None else self.stop)


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run, as opposed to what: none of it changes the result, so none of it is part of the config.

    Attributes:
        profile: trace N steps, a little after the start, into WORKDIR/profile; or the steps START to STOP - 1.
        coordinator: HOST:PORT of process 0 of a run on several machines, where no cluster tells; with the next two.
        num_processes: how many processes the run has.
        process_id: which one this is, from 0.
        distributed: wait for the run's other processes: always, never, or where a cluster is detected.
        verbosity: least severe messages of the libraries that are shown.
    """

    profile: Annotated[Profile | None, texts("N|START:STOP")] = None
    coordinator: str | None = None
    num_processes: Count | None = None
    process_id: CountOrZero | None = None
    distributed: Literal["auto", "on", "off"] = "auto"
    verbosity: Literal["debug", "info", "warning", "error"] = "warning"

    def check(self) -> None:
        """Refuse flags that contradict each other."""
        explicit = {name: getattr(self, name) for name in ("coordinator", "num_processes", "process_id")}
        missing = [f"--{name}" for name, value in explicit.items() if value is None]
        if 0 < len(missing) < len(explicit):
            raise UsageError(
                f"--coordinator, --num_processes, --process_id go together; missing: {', '.join(missing)}."
            )
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            return
        if not re.fullmatch(r".+:\d+", self.coordinator):
            raise UsageError(f"--coordinator={self.coordinator}: expected HOST:PORT, for example localhost:12345.")
        if self.process_id >= self.num_processes:
            raise UsageError(
                f"--process_id={self.process_id}: expected 0 to {self.num_processes - 1}, below --num_processes."
            )
        if self.distributed == "off":
            raise UsageError("--distributed=off and --coordinator contradict each other; leave one of them out.")

"""How to run, as opposed to what: the flags of a command line that are no fields of the config."""

import dataclasses
import re
from typing import Annotated, ClassVar, Literal

from port.ranges import Count, CountOrZero
from train.cli.help import shown
from train.machine.timeouts import HEARTBEAT_TIMEOUT, INIT_TIMEOUT

SETTLING_STEPS = 10  # before a trace of so many steps: compilation, and the first, slower ones


class UsageError(ValueError):
    """The command line, or the config that it names, cannot be used."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """Which steps to trace: `stop - start` of them."""

    start: int | None  # the first, counted from 1 as in metrics.jsonl; None for a little after this process began
    stop: int  # the one after the last; how many steps if `start` is None

    EXPECTED: ClassVar[str] = "a number of steps, or START:STOP"

    @classmethod
    def of(cls, text: str) -> "Profile":
        """The steps that --profile=TEXT asks for."""
        match = re.fullmatch(r"(?:(\d+):)?(\d+)", text)
        if match is None:
            raise UsageError(f"--profile={text}: expected {cls.EXPECTED}.")
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
        init_timeout: seconds until all processes must be there.
        heartbeat_timeout: seconds without a sign of life until a process is taken for dead, and the others end.
    """

    profile: Annotated[Profile | None, shown("N|START:STOP")] = None
    coordinator: str | None = None
    num_processes: Count | None = None
    process_id: CountOrZero | None = None
    distributed: Literal["auto", "on", "off"] = "auto"
    verbosity: Literal["debug", "info", "warning", "error"] = "warning"
    init_timeout: Count = INIT_TIMEOUT
    heartbeat_timeout: Count = HEARTBEAT_TIMEOUT

    @property
    def processes(self) -> tuple[str, str | None, int | None, int | None, int, int]:
        """The arguments of `train.machine.processes.initialize`."""
        who = self.distributed, self.coordinator, self.num_processes, self.process_id
        return *who, self.init_timeout, self.heartbeat_timeout

    def check(self) -> None:
        """Refuse flags that contradict each other."""
        explicit = {name: getattr(self, name) for name in ("coordinator", "num_processes", "process_id")}
        missing = [f"--{name}" for name, value in explicit.items() if value is None]
        if 0 < len(missing) < len(explicit):
            raise UsageError(
                f"{', '.join(f'--{name}' for name in explicit)} go together; missing: {', '.join(missing)}."
            )
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            return
        if not re.fullmatch(r".+:\d+", self.coordinator):
            raise UsageError(f"--coordinator={self.coordinator}: expected HOST:PORT, for example localhost:12345.")
        if self.process_id >= self.num_processes:
            top = self.num_processes - 1
            raise UsageError(f"--process_id={self.process_id}: expected 0 to {top}, below --num_processes.")
        if self.distributed == "off":
            raise UsageError("--distributed=off and --coordinator contradict each other; leave one of them out.")

"""What a run measures, written where people look: metrics.jsonl, and the sinks that the config asks for."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from train import config
from train.report.screen import expendable
from train.report.sinks import SINKS, TITLES, Sink

FILE = "metrics.jsonl"


class Metrics:
    """Measurements by step, from process 0 to every sink that the config asks for; the other processes write nothing.

    WORKDIR/metrics.jsonl has one JSON object a line: `step`, the number of steps done, and what was measured then. A
    value that is not finite is null. Lines must come in the order of their steps, and those of a step before its
    checkpoint is saved: then a run that was killed and continued leaves the same file as one that was not.

    A sink that cannot be written to any more is given up, which `say` hears once; but metrics.jsonl, which a run
    needs, is an OSError. Use it as a context manager: leaving closes the sinks. What was written about steps after
    `start` is dropped.

    Raises:
        ValueError: if metrics.jsonl is damaged elsewhere than at its end.
        ImportError: if a sink needs a package that is not installed.
    """

    def __init__(self, workdir: Path, log: config.Log, start: int, say: Callable[[str], Any] = print):
        self._sinks: list[Sink] = []
        self._start, self._say = start, say
        if jax.process_index() != 0:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        lines = JsonLines(workdir / FILE, start)
        self._sinks.append(lines)
        # What the step `start` has been measured by already: a finished run that is started again adds nothing.
        self._known = [line.keys() - {"step"} for line in lines.at_start]
        try:
            for field, make in SINKS.items():
                if value := getattr(log, field):
                    with expendable(TITLES[field], say):
                        self._sinks.append(make(workdir, value, start))
        except BaseException:
            self._close(failed=True)
            raise

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._close(failed=kind is not None)

    def _close(self, failed: bool) -> None:
        for sink in self._sinks:
            with contextlib.suppress(OSError):  # each line was written at once: nothing is lost here
                sink.close(failed)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add what was measured after `step` steps, unless the run that is continued has already written it."""
        if self._sinks and step == self._start and values.keys() in self._known:
            return
        for sink in list(self._sinks):
            needed = isinstance(sink, JsonLines)
            with contextlib.nullcontext() if needed else expendable(type(sink).__name__, self._say):
                self._write(sink, step, values)

    def _write(self, sink: Sink, step: int, values: Mapping[str, float]) -> None:
        try:
            sink.write(step, values)
        except OSError:
            self._sinks.remove(sink)
            with contextlib.suppress(OSError):
                sink.close(failed=True)
            raise


class JsonLines:
    """metrics.jsonl, open for more lines; those after step `start` are cut off, and a last one that is incomplete."""

    def __init__(self, path: Path, start: int):
        self.at_start: list[dict[str, Any]] = []
        length = 0
        for line, end in _complete_lines(path):
            if line["step"] > start:
                break
            if line["step"] == start:
                self.at_start.append(line)
            length = end
        self._file = path.open("a")
        os.truncate(path, length)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._file.write(json.dumps({"step": step} | finite) + "\n")
        self._file.flush()  # at once: a process that is killed loses nothing

    def close(self, failed: bool) -> None:
        self._file.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none if there is no such file."""
    return [line for line, _ in _complete_lines(workdir / FILE)]


def _complete_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each line, and the offset of its end. A kill may have cut the last one short: it is left out."""
    if not path.exists():
        return
    end = 0
    lines = path.read_bytes().splitlines(keepends=True)
    for number, text in enumerate(lines, 1):
        end += len(text)
        try:
            line = json.loads(text)
            complete = isinstance(line["step"], int) and text.endswith(b"\n")
        except (ValueError, KeyError, TypeError):
            complete = False
        if complete:
            yield line, end
        elif number < len(lines):
            raise ValueError(
                f"{path}, line {number} is {text[:60]!r}; expected a JSON object with the key step. "
                "Repair the line or move the file away."
            )

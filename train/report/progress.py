"""What a person sees while a run goes on: a bar in a terminal, a line now and then in the log of a batch job."""

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import jax
from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TaskID

from nfjax.support.meter import LINES, bar, duration, print_line

REFRESH = 1.0  # seconds between redrawings of the bar: each takes a millisecond from the loop
MEMORY = 30.0  # seconds of training that the shown speed is about the mean of


class Progress:
    """Where a run is, how fast, and for how long; only process 0 shows it.

    It reads no arrays, and has no thread but while something compiles: it is told numbers, and draws when it is told of
    a step. Use it as a context manager; inside, print on the same console, or the bar is torn.

    Args:
        total: steps of the run.
        start: steps done before.
        say: prints a line above the bar; on the console unless given.
        averaged: what is evaluated is a moving average.
        clock: seconds from any origin.
    """

    def __init__(
        self,
        total: int,
        start: int,
        *,
        images_per_step: int,
        steps_per_epoch: float,
        console: Console | None = None,
        say: Callable[[str], None] | None = None,
        averaged: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._total, self._images, self._per_epoch = total, images_per_step, steps_per_epoch
        self._step, self._first = start, start + 1
        self._console = console or Console()
        self._say, self._of = (
            say or functools.partial(print_line, self._console),
            " of the moving average" if averaged else "",
        )
        self._shown = jax.process_index() == 0
        self._speed = Speed(start, clock)
        self._clock = clock
        self._drawn = self._printed = -math.inf
        self._note, self._compiles = "", ""
        self._bar: Bar | None = None
        if self._shown and self._console.is_terminal:
            width = min(max(self._console.width - 90, 8), 40)  # the numbers matter more
            self._bar = bar(self._console, width, auto_refresh=False)
            self._training = self._bar.add_task("training", total=total, completed=start, note="")

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
            self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.stop()

    @property
    def images_per_second(self) -> float | None:
        """The speed of late, without compilation and evaluation; None until something was measured."""
        per_step = self._speed.seconds_per_step
        return None if per_step is None else self._images / per_step

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Around a compilation: it is announced, and the bar shows how long it takes."""
        began, done = self._clock(), threading.Event()
        self.print(f"compiling {what}")

        def tick() -> None:
            while self._bar is not None and not done.is_set():
                self._compiles = f"compiling, {duration(self._clock() - began)}"
                self._draw()
                done.wait(REFRESH)

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._compiles = ""
        self.print(f"compiled in {self._clock() - began:.1f} s")

    def step(self, step: int) -> None:
        """`step` steps have been started; to be called after each, it is cheap."""
        self._step = step
        if step == self._first:  # before it were compilation and the first batch; it starts on the device now
            self._speed.restart(step - 1)
        if self._bar is not None and self._clock() - self._drawn > REFRESH:
            self._draw()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """What was measured after `step` steps, all of them finished: whoever has the numbers has waited for them."""
        self._step = step
        self._speed.measure(step)
        shown = {"loss": "{:.4g}", "lr": "{:.3g}"}
        parts = [f"{key} {form.format(values[key])}" for key, form in shown.items() if key in values]
        self._note = " ".join(parts)
        due = self._clock() - self._printed >= LINES or step == self._total
        if self._shown and self._bar is None and due:
            self._printed = self._clock()
            self.print(f"step {step}/{self._total} {self._status()}")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no step, while none is under way: kept out of the speed, counted in the time that is left."""
        began = self._clock()
        try:
            yield
        finally:
            self._speed.pause(self._clock() - began)

    @contextlib.contextmanager
    def evaluation(self, total: int) -> Iterator[Callable[[], None]]:
        """Around an evaluation of `total` batches, which is `paused`; gives a function to call after each batch."""
        task: TaskID | None = None
        if self._bar is not None:
            task = self._bar.add_task("evaluation", total=total, note="")
            self._draw()

        def advance() -> None:
            if self._bar is not None and task is not None:
                self._bar.advance(task)
                if self._clock() - self._drawn > REFRESH:
                    self._draw()

        try:
            with self.paused():
                yield advance
        finally:
            if self._bar is not None and task is not None:
                self._bar.remove_task(task)
                self._draw()

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """Print the result of an evaluation after `step` steps: keys such as "test_top1", shares in percent."""
        parts = []
        for key, value in values.items():
            name = key.removeprefix("test_")
            parts.append(f"{name} {100 * value:.2f} %" if name not in ("loss",) else f"{name} {value:.4g}")
        where = f"step {step}/{self._total} epoch {step / self._per_epoch:.2f}"
        self.print(f"{where} evaluation{self._of}: {', '.join(parts)}")

    def print(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._shown:
            self._say(text)

    def _draw(self) -> None:
        assert self._bar is not None
        self._drawn = self._clock()
        self._bar.update(self._training, completed=self._step, note=self._compiles or self._status())
        self._bar.refresh()

    def _status(self) -> str:
        if self._step < self._first:
            return ""
        parts = [f"epoch {self._step / self._per_epoch:.2f}", self._note]
        if self.images_per_second is not None:
            left = self._speed.left(self._total - self._step)
            parts += [f"{self.images_per_second:.4g} images/s", f"ETA {duration(left)}"]
        return " ".join(part for part in parts if part)


class Speed:
    """Seconds a step, without what comes before the first one, and without pauses.

    Steps are started ahead of the device, so that the time is taken only at those that are known to be finished.
    """

    def __init__(self, start: int, clock: Callable[[], float]):
        self._start, self._clock = start, clock
        self._since, self._step, self._paused = clock(), start, 0.0
        self._seconds, self._steps = 0.0, 0.0  # of late: what lies back counts less and less
        self._pauses = 0.0

    @property
    def seconds_per_step(self) -> float | None:
        """The mean of late; None before the first measurement."""
        return self._seconds / self._steps if self._steps else None

    def restart(self, step: int) -> None:
        """Forget the time up to now."""
        self._since, self._step, self._paused = self._clock(), step, 0.0

    def pause(self, seconds: float) -> None:
        """So much of the time was no step's."""
        self._paused += seconds
        self._pauses += seconds

    def measure(self, step: int) -> None:
        """`step` steps are finished."""
        seconds, steps = self._clock() - self._since - self._paused, step - self._step
        self.restart(step)
        if steps > 0 and seconds > 0:
            keep = math.exp(-seconds / MEMORY)
            self._seconds = keep * self._seconds + seconds
            self._steps = keep * self._steps + steps

    def left(self, steps: int) -> float:
        """Seconds for so many more steps, with pauses as often and as long as up to now."""
        done = max(self._step - self._start, 1)
        return steps * ((self.seconds_per_step or 0.0) + self._pauses / done)

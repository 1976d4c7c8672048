"""Being asked to stop: finish the step, save, and leave."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import jax

from port import interrupts

# A preempted machine, a closed terminal, Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
TOGETHER = 0.5  # seconds in which signals are one: a terminal and a launcher may both pass on the same Ctrl-C


class Interrupt:
    """Whether the run was asked to stop: by a signal, or because nobody reads its output.

    What Ctrl-C does is said at once, also while something compiles. A second one ends our command there and then,
    without saving; so does the first one while there is `nothing_to_save`. Elsewhere, and of SIGTERM, a second one acts
    as usual.

    Use it as a context manager. Of several processes all answer alike, at the same step: the coordination service,
    which listens for SIGTERM, tells them all when one was asked to stop.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None  # why to stop, once all have agreed
        self.nothing_to_save = False
        self.log: Callable[[str], None] = lambda text: None  # hears of an end that nobody else can tell of
        self._asked: signal.Signals | None = None
        self._program = interrupts.is_program()
        self._handlers: dict[signal.Signals, Any] = {}
        self._hears = interrupts.heard_by(self._heard)
        self._first = -float("inf")  # when Ctrl-C came
        self._calls = 0

    def __enter__(self) -> "Interrupt":
        several = jax.process_count() > 1
        here = threading.current_thread() is threading.main_thread()
        taken = [n for n in SIGNALS if here and not (several and n is signal.SIGTERM)]
        for number in taken:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # by `nohup`
                self._handlers[number] = signal.signal(number, self._received)
        self._hears.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._hears.__exit__(*exception)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def stop(self, number: signal.Signals) -> None:
        """Ask to stop, as if the signal had come."""
        first, self._asked = self._asked is None, self._asked or number
        if first and jax.process_count() > 1:
            signal.raise_signal(signal.SIGTERM)  # which the coordination service passes on

    def _received(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if received is signal.SIGTERM or not self._program:
            signal.signal(received, self._handlers[received])
        self.stop(received)

    def _heard(self, number: signal.Signals) -> None:
        """In a thread of its own, at once."""
        if number is not signal.SIGINT or not self._program:
            return
        now, first = time.monotonic(), self._first
        if now - first < TOGETHER:
            return
        if self.nothing_to_save:
            self._end("SIGINT: interrupted; nothing new was there to save.")
        if first > 0:
            self._end("SIGINT again: ended at once. The same command continues from the last checkpoint.")
        self._first = now
        print(
            "\nSIGINT: the run stops and saves when the step, or what is compiled, is done; again to end at once.",
            file=sys.stderr,
            flush=True,
        )

    def _end(self, message: str) -> NoReturn:
        self.log(message)
        interrupts.end(message)

    def __call__(self) -> bool:
        """Whether to stop now. All processes must ask equally often."""
        self._calls += 1
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(self._calls):
                self.signal = self._asked or signal.SIGTERM
        else:
            self.signal = self._asked
        return self.signal is not None

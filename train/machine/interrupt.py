"""Being asked to stop: finish the step, save, and leave."""

import signal
from types import FrameType
from typing import Any

import jax


class Interrupt:
    """Whether SIGTERM (a preempted machine) or SIGINT (Ctrl-C) has come; a second one acts as usual.

    Use it as a context manager. Of several processes all answer alike, at the same step: the coordination service,
    which listens for SIGTERM, tells them all when one was asked to stop.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._calls = 0

    def __enter__(self) -> "Interrupt":
        signals = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
        self._handlers = {number: signal.signal(number, self._received) for number in signals}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self._handlers[self.signal])

    def __call__(self) -> bool:
        """Whether to stop now. All processes must ask equally often."""
        self._calls += 1
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(self._calls):
                self.signal = signal.SIGTERM
        return self.signal is not None

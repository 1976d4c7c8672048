"""Signals while the main thread computes: Python's own handlers wait until a compilation has ended."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

INTERRUPTED = 130  # exit status after Ctrl-C: 128 and the number of SIGINT, as shells have it
_PROGRAMS = ("nfjax", "port", "train")


def is_program() -> bool:
    """Whether this process is one of our commands, and not a notebook or program of the user's that calls one."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    name = spec.name if spec else os.path.basename(getattr(main, "__file__", None) or "")
    return name.partition(".")[0] in _PROGRAMS if spec else name == "nfjax"


@contextlib.contextmanager
def heard_by(hear: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `hear`, in a thread of its own and at once, for each signal that a Python handler is set for.

    Inside another such block only the inner one hears. Without effect outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, pythons = os.pipe()
    os.set_blocking(pythons, False)
    before = signal.set_wakeup_fd(pythons, warn_on_full_buffer=False)

    def listen() -> None:
        while number := os.read(ours, 1)[0]:
            hear(signal.Signals(number))

    thread = threading.Thread(target=listen, daemon=True, name="signals")
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(pythons, b"\0")
        thread.join()
        os.close(ours)
        os.close(pythons)


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Ctrl-C ends the process there and then: one line, status 130, no traceback; files are whole or not there."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, or somebody else's
        yield
        return

    def hear(number: signal.Signals) -> None:
        if number is signal.SIGINT:
            end("interrupted.")

    with heard_by(hear):
        # Else KeyboardInterrupt would be raised wherever the main thread is, in the middle of a compiler too.
        signal.signal(signal.SIGINT, lambda *_: None)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def end(message: str, status: int = INTERRUPTED) -> NoReturn:
    """End the process with a line, without waiting for anything that it does."""
    from port.atomic import remove_partial

    remove_partial()
    # The output so far; in a thread, because whoever holds its lock may be stuck.
    flush = threading.Thread(target=lambda: _say(message), daemon=True)
    flush.start()
    flush.join(1.0)
    os._exit(status)


def _say(message: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        cursor = "\r\x1b[K\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar has hidden it
        print(f"{cursor}{message}", file=sys.stderr, flush=True)

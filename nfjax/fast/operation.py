"""An operation has two forms: the plain formula, and the same written for the sake of speed or memory.

The formula comes first and says what is computed; the other is registered below it:

    @operation
    def matmul(x, kernel):
        return x @ kernel

    @matmul.faster
    def _matmul(x, kernel): ...

Calls of `matmul` go to the second, within `plain_formulas()` to the first. Tests compare the two.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

OPERATIONS: dict[str, "Operation[Any, Any]"] = {}

_PLAIN: ContextVar[bool] = ContextVar("plain_formulas", default=False)


@contextmanager
def plain_formulas() -> Iterator[None]:
    """What is traced within takes the plain formula of every operation."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


class Operation(Generic[P, R]):
    """A function in two forms, `plain` and `fast`, with the same arguments and the same value."""

    def __init__(self, plain: Callable[P, R]):
        functools.update_wrapper(self, plain)
        self.plain = self.fast = plain
        OPERATIONS[plain.__name__] = self

    def faster(self, function: F) -> F:
        """A decorator of the form that calls take from now on."""
        self.fast = function
        return function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return (self.plain if _PLAIN.get() else self.fast)(*args, **kwargs)


operation = Operation

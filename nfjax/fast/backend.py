"""What the program that is being traced will run on, and what its compiler is told."""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import jax

from nfjax.fast.operation import operation

_TRACED_FOR: ContextVar[str | None] = ContextVar("traced_for", default=None)
Gather = Callable[[Any], Any]
_GATHER: ContextVar[Gather | None] = ContextVar("gather", default=None)
_ROUTE: ContextVar[str | None] = ContextVar("route", default=None)


@contextmanager
def _within(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def traced_for(name: str) -> AbstractContextManager[None]:
    """What is traced within is for another backend than this process has; for "any" it is the same on all."""
    return _within(_TRACED_FOR, name)


def route(name: str) -> AbstractContextManager[None]:
    """What is traced within computes grouped convolutions this way, one of `nfjax.fast.groups.ROUTES`: to compare."""
    return _within(_ROUTE, name)


def asked_route() -> str | None:
    """What `route` says, if anything."""
    return _ROUTE.get()


def gathered_where_used(gather: Gather) -> AbstractContextManager[None]:
    """What is traced within gathers a kernel, which devices hold a part of each, for its product alone.

    And once more for the product of the backward pass, when that is due: no device keeps it meanwhile.
    """
    return _within(_GATHER, gather)


def gathering() -> Gather | None:
    """What `gathered_where_used` says, if anything."""
    return _GATHER.get()


def backend() -> str:
    """What is traced for: "cpu", "gpu" or "tpu", or what `traced_for` says."""
    return _TRACED_FOR.get() or jax.default_backend()


@operation
def compiler_options() -> dict[str, str]:
    """For `jax.jit(..., compiler_options=...)`: what makes XLA's programs faster and smaller on this machine."""
    return {}


@compiler_options.faster
def _compiler_options() -> dict[str, str]:
    return _cpu_options() if backend() == "cpu" else {}


@functools.cache
def _cpu_options() -> dict[str, str]:
    """Options of XLA for a CPU, if it knows them.

    It gives products, sums and convolutions to the library YNN. Its convolutions use one core if they have
    64 output channels or fewer, where those of Eigen use all: on two cores 1.5 to 2.3 times as fast (jaxlib 0.10.2).
    And it drops the barriers of `jax.checkpoint` before it orders the operations, so that what should be computed twice
    is computed at once and kept: with them the arrays of a step of vit_medium_patch16_reg4_gap_256 take a sixth.
    """
    options = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE",
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # another version of XLA may know no such option
        return {}
    return options

"""The same model in both libraries, with the same weights and images."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

import nfjax
from nfjax.parity import oracle
from nfjax.parity.verify import relative

TOLERANCE = 1e-5  # of float32 logits, as everywhere in the project
Calls = dict[str, Callable[[], Any]]


class OutputsDiffer(Exception):
    """What was to be timed does not compute the same."""


def threads(count: int | None = None) -> int:
    """Give both libraries `count` cores, or all that the process has, and say how many. Call it before using jax."""
    import torch

    cores = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, cores)
    count = len(cores)
    torch.set_num_threads(count)
    return count


def pair(name: str, size: tuple[int, int] | None = None) -> tuple[Any, nfjax.ImageModel]:
    """timm's model in channels_last and ours, every parameter the same random numbers, for images of a size."""
    import torch

    state = oracle.random_state(oracle.build(name))
    theirs = oracle.build(name, state).to(memory_format=torch.channels_last)
    if size is not None and hasattr(theirs, "patch_embed"):
        theirs.set_input_size(img_size=size)
    return theirs, nfjax.load(name, weights=state, img_size=size)


def timm_calls(model: Any, images: np.ndarray, *, compiled: bool = True) -> tuple[Calls, str]:
    """timm's ways to the logits, as numpy arrays `(batch, classes)`, and why torch.compile is not among them if so."""
    import torch

    x = torch.from_numpy(images).permute(0, 3, 1, 2)  # NHWC in memory: that is channels_last

    def call(function: Any) -> Callable[[], Any]:
        def run() -> np.ndarray:
            with torch.inference_mode():
                return function(x).numpy()

        return run

    calls, why = {"timm eager": call(model)}, "" if compiled else "not asked for"
    if compiled:
        try:
            torch.compiler.reset()
            calls["torch.compile"] = call(torch.compile(model))
            calls["torch.compile"]()
        except Exception as error:  # whatever a missing or broken C++ compiler raises
            del calls["torch.compile"]
            why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return calls, why


def agree(calls: Calls, expected: np.ndarray) -> dict[str, float]:
    """How far each is from `expected`, relative to its largest number; OutputsDiffer if beyond float32's rounding."""
    far = {name: relative(call(), expected) for name, call in calls.items()}
    if bad := {name: value for name, value in far.items() if not value <= TOLERANCE}:
        found = ", ".join(f"{name} {value:.1e}" for name, value in bad.items())
        raise OutputsDiffer(f"not reported, since outputs differ from timm's by more than {TOLERANCE:.0e}: {found}.")
    return far

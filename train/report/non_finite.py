"""Reading what steps measured without waiting for them, and stopping when it is not finite."""

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

Batch = dict[str, np.ndarray]


class NonFiniteError(ValueError):
    """A step's loss or gradient was NaN or infinite."""


class Watch:
    """The metrics of the last few steps, still being computed.

    Reading a metric waits for its step. So that the host stays ahead of the devices, they are read `depth` steps late;
    the batches are kept as long, to name the one that went wrong.
    """

    def __init__(self, workdir: Path, depth: int = 2):
        self._workdir, self._depth = workdir, depth
        self._pending: deque[tuple[int, Batch, Any]] = deque()

    def add(self, step: int, batch: Batch, metrics: Any) -> Iterator[tuple[int, dict[str, float]]]:
        """Remember a step, and give what older ones measured.

        Raises:
            NonFiniteError: naming the step and its images; the batch is saved in the work folder.
        """
        self._pending.append((step, batch, metrics))
        return self._read(self._depth)

    def flush(self) -> Iterator[tuple[int, dict[str, float]]]:
        """What all remaining steps measured; waits for the last one."""
        return self._read(0)

    def _read(self, keep: int) -> Iterator[tuple[int, dict[str, float]]]:
        while len(self._pending) > keep:
            step, batch, metrics = self._pending.popleft()
            values = {key: float(value) for key, value in jax.device_get(metrics).items()}
            bad = [key for key in ("loss", "grad_norm") if not math.isfinite(values[key])]
            if bad:
                raise NonFiniteError(self._message(step, batch, {key: values[key] for key in bad}))
            yield step, values

    def _message(self, step: int, batch: Batch, values: dict[str, float]) -> str:
        path = self._workdir / f"nonfinite_step_{step}.process_{jax.process_index()}.npz"
        np.savez(path, **batch)  # type: ignore[arg-type] # its stubs know of no keyword but allow_pickle
        found = " and ".join(f"{key} = {value}" for key, value in values.items())
        images = ", ".join(map(str, batch["index"][:8])) + (", ..." if len(batch["index"]) > 8 else "")
        return f"step {step}: {found}. Its batch, training images {images}, is in {path}."

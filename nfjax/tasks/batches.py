"""A model over many things that become images, some at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from nfjax.infer import compile
from nfjax.models.base import ImageModel
from nfjax.onnx.reading import OnnxModel
from nfjax.support.meter import Meter

T = TypeVar("T")


def outputs(
    model: ImageModel | OnnxModel,
    items: Sequence[T],
    read: Callable[[T], np.ndarray | None],
    batch_size: int,
    what: str = "images",
) -> Iterator[tuple[T, np.ndarray]]:
    """Yield each item with the model's float32 output for it; how far it is, is told on standard error.

    Args:
        read: called in threads: an item as the model takes it, `(height, width, channels)`, or None to pass it over.
        batch_size: so many are computed at once.
        what: the items are, a plural.
    """
    batch_size = min(batch_size, len(items))
    compiled: Callable[[Any], Any] | None = None
    meter = Meter(what, len(items), model=model.name)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool, meter:
        for start in range(0, len(items), max(batch_size, 1)):
            some = items[start : start + batch_size]
            loaded = [(item, x) for item, x in zip(some, pool.map(read, some), strict=True) if x is not None]
            if loaded:
                batch = np.stack([x for _, x in loaded])
                # Always the same shape, so that nothing is compiled twice.
                padded = np.zeros((batch_size, *batch.shape[1:]), np.float32)
                padded[: len(batch)] = batch
                if compiled is None:
                    compiled = model if isinstance(model, OnnxModel) else compile(model, jnp.asarray(padded))
                found = jax.device_get(compiled(jnp.asarray(padded)))
                for (item, _), output in zip(loaded, found, strict=False):
                    yield item, np.asarray(output, np.float32)
            meter.advance(len(some))

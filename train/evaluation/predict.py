"""A model over the images of a split, on all devices of all processes."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

import nfjax
from nfjax.fast.backend import compiler_options
from nfjax.images import ImageError
from nfjax.onnx.reading import OnnxModel
from nfjax.params import merge, split
from train.config import Data
from train.data import Batch, Split, test_batches
from train.data.sources.base import Selection
from train.device.normalize import Normalize
from train.evaluation.predictions import TOP, Predictions
from train.machine.mesh import batch_sharding, put_batch, replicated
from train.machine.processes import from_any_process

T = TypeVar("T")
Rows = dict[str, Any]  # arrays of a batch, a row an image
Step = Callable[[Rows], Rows]


def predict(
    model: nfjax.ImageModel | OnnxModel,
    test: Split,
    data: Data,
    mesh: jax.sharding.Mesh,
    normalize: Normalize,
    places: np.ndarray,
    *,
    batch_size: int,
    start: int = 0,
    restrict: bool = False,
) -> Iterator[Predictions]:
    """The predictions for each batch, in order; every image once, on every process.

    Args:
        model: with a classifier; float32 parameters, any compute dtype. An ONNX file runs in the one process there is.
        test: what to read.
        data: `workers` and `stall_seconds` matter here.
        mesh: of the devices.
        normalize: from uint8 images to the model's input.
        places: the model's output for each label.
        batch_size: of all processes; a multiple of the number of devices.
        start: place of the first image.
        restrict: outputs that are no class of the data set do not compete.

    Raises:
        nfjax.images.ImageError: while iterating: images cannot be read.
        ValueError: while iterating: logits that are not finite.
    """
    allowed = np.isin(np.arange(model.num_classes), places) if restrict else None
    k = min(TOP, model.num_classes)

    def judged(logits: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        finite = jnp.isfinite(logits).all(axis=-1)
        if allowed is not None:
            logits = jnp.where(allowed, logits, -jnp.inf)
        own = jnp.take_along_axis(logits, batch["label"][:, None], axis=-1)[:, 0]
        total = jax.nn.logsumexp(logits, axis=-1)
        best, classes = jax.lax.top_k(logits, k)
        return {
            "index": batch["index"],
            "label": batch["label"],
            "finite": finite,
            "loss": total - own,
            "classes": classes,
            "probabilities": jnp.exp(best - total[:, None]),
        }

    step = (
        _in_onnxruntime(model, normalize, judged)
        if isinstance(model, OnnxModel)
        else _in_jax(model, normalize, judged, mesh)
    )
    rest = Split(Selection([(test.source, np.arange(start, len(test)))]), test.transform, test.shape)
    steps = math.ceil(len(rest) / batch_size)
    batches = fed(test_batches(rest, data, batch_size), rest, steps, batch_size)
    found = (step(_device_rows(batch, places)) for batch in batches)
    for number, rows in enumerate(_ahead(found)):
        part = _on_host(rows, rest)
        if len(part) < min(batch_size, len(rest) - number * batch_size):
            for later in found:  # a process met an image that it cannot read: go on to the end, to hear of all
                jax.block_until_ready(later)
        yield part


def _in_jax(
    model: nfjax.ImageModel, normalize: Normalize, judged: Callable[..., Rows], mesh: jax.sharding.Mesh
) -> Step:
    """One program on all devices, from pixels to what is said of them."""
    graphdef, params = split(model)
    whole, spread, options = replicated(mesh), batch_sharding(mesh), compiler_options()

    def step(params: dict[str, jax.Array], batch: Rows) -> Rows:
        return judged(merge(graphdef, params)(normalize(batch["image"])).astype(normalize.dtype), batch)

    compiled = jax.jit(step, in_shardings=(whole, spread), out_shardings=whole, compiler_options=options)
    params = jax.device_put(params, whole)
    return lambda batch: compiled(params, put_batch(mesh, batch))


def _in_onnxruntime(model: OnnxModel, normalize: Normalize, judged: Callable[..., Rows]) -> Step:
    prepare, judge = jax.jit(normalize), jax.jit(judged)
    return lambda batch: judge(model(prepare(batch.pop("image"))), batch)


def _device_rows(batch: Batch, places: np.ndarray) -> dict[str, np.ndarray]:
    index = batch["index"].astype(np.int32)  # of padding -1
    return {"image": batch["image"], "label": places[batch["label"]], "index": index}


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, each after the next one was asked for: one is fetched while the devices work on another."""
    before = list(itertools.islice(items, 1))
    for item in items:
        yield before.pop()
        before.append(item)
    yield from before


def fed(batches: Iterator[Batch], split: Split, steps: int, size: int) -> Iterator[Batch]:
    """The batches; where images cannot be read, this process works on padding, lest others wait for it in vain.

    Raises:
        ImageError: at the end, on all processes.
    """
    failure = ""
    for _ in range(steps):
        if not failure:
            try:
                yield next(batches)
                continue
            except ImageError as error:
                if jax.process_count() == 1:
                    raise
                failure = str(error)
        rows = size // jax.process_count()
        blank = np.zeros((rows, *split.shape), np.uint8)
        yield {"image": blank, "label": np.zeros(rows, np.int32), "index": np.full(rows, -1)}
    elsewhere = from_any_process(failure)
    if failure or elsewhere:
        raise ImageError(failure or elsewhere)


def _on_host(found: dict[str, jax.Array], split: Split) -> Predictions:
    """A batch in the order of the source and without padding."""
    rows = jax.device_get(found)
    order = np.argsort(rows["index"])  # devices need not be in that of the processes
    order = order[rows["index"][order] >= 0]
    finite = rows["finite"][order]
    if not finite.all():
        key = split.source.key(int(rows["index"][order][~finite][0]))
        raise ValueError(f"the logits of {key} are not finite; check the weights, or try --dtype=float32.")
    return Predictions(*(rows[name][order] for name in ("label", "loss", "classes", "probabilities")))

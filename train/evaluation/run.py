"""One model after the other on the same images: what is skipped, continued, counted and written."""

import argparse
import contextlib
import dataclasses
import functools
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

import nfjax
from nfjax import cache
from nfjax.images import ImageError
from nfjax.labels import synsets
from nfjax.models.known import is_onnx
from nfjax.onnx.reading import OnnxModel, load_onnx
from nfjax.params import named_params
from nfjax.support.meter import Meter
from port.text import counted, printable
from train import config
from train.config import Data
from train.data import Source, Split, classes, find_sources
from train.data.dataset import Evaluation, evaluation_source
from train.data.sources.base import digest
from train.device.normalize import Normalize
from train.evaluation import models, real, report, several
from train.evaluation.predict import predict
from train.evaluation.predictions import TOP, Predictions, PredictionsFile
from train.evaluation.table import Table
from train.machine.mesh import make_mesh
from train.machine.processes import from_first_process, initialize, together

FAILURES = (ValueError, KeyError, OSError, ImportError, jax.errors.JaxRuntimeError)
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Task:
    """What all models of a call are evaluated on, and how."""

    data: Data  # where the images are, and what differs from the models' own preprocessing
    source: Source
    out: Path
    weights: str | None = "pretrained"  # "pretrained", None or a file, as for `nfjax.load`
    weights_key: str | None = None  # which weights of it, likewise
    dtype: str = "float32"  # to compute in
    restrict: bool = False  # only the classes of the data set compete
    real: list[list[int]] | None = None  # the reassessed labels of each image, or None


def run(args: argparse.Namespace, given: dict[str, Any]) -> int:
    """Evaluate the models of a command line: what `train.evaluation.options.parse` gives.

    Returns:
        1 where a model or an image failed, else 0.

    Raises:
        ValueError, OSError, ImportError: nothing could be evaluated.
    """
    logging.set_verbosity(logging.WARNING)  # the libraries below tell of every step they take
    cache.enable()
    initialize(args.distributed, args.coordinator, args.num_processes, args.process_id)
    names = models.expand(args.model, pretrained=args.weights != "none")
    if args.weights not in ("pretrained", "none") and len(names) > 1:
        raise ValueError(f"--weights={args.weights} is one file or folder, and these are {len(names)} models.")
    data, source = _images(given, names)
    weights = None if args.weights == "none" else args.weights
    labels = real.read_labels(args.real, map(source.key, range(len(source)))) if args.real else None
    task = Task(data, source, args.out, weights, args.weights_key, args.dtype, args.restrict_classes, labels)
    args.out.mkdir(parents=True, exist_ok=True)
    if source.several and (args.real or args.restrict_classes):
        raise ValueError("--real and --restrict-classes are for images with one label; these may have several.")
    table = Table(args.out / several.RESULTS, several.COLUMNS) if source.several else Table(args.out / "results.csv")
    failed = []
    for name in names:
        try:
            evaluate(name, task, table)
        except ImageError as error:  # no other model could read it either
            print(f"error: {printable(error)}", file=sys.stderr)
            return 1
        except FAILURES as error:
            failed.append(name)
            _say(f"{name}: FAILED: {_reason(error)}", sys.stderr)
    if len(failed) < len(names):
        _say(f"all results: {table.path}")
    if failed and len(names) > 1:
        _say(f"{len(failed)} of {len(names)} models failed: {', '.join(failed)}", sys.stderr)
    return 1 if failed else 0


def evaluate(name: str, task: Task, table: Table) -> None:
    """Evaluate a model, unless the table has it, and write all that is to be written; all processes call this.

    Raises:
        nfjax.images.ImageError: images cannot be read; names them.
        ValueError, KeyError, OSError, ImportError, JaxRuntimeError: the model cannot be evaluated.
    """
    with contextlib.ExitStack() as stack:
        origin = _together(lambda: stack.enter_context(models.opened(name, task.weights, task.weights_key)))
        onnx = load_onnx(origin.name) if is_onnx(origin.name) else None
        transform = _together(lambda: _transform(onnx.data_config if onnx else origin.name, task.data))
        images = task.source.fingerprint()
        fingerprint = digest([origin.identity, images, repr(transform), task.dtype, str(task.restrict)])
        row = table.find(fingerprint)
        known = row is not None and (task.real is None or bool(row["real_count"]))
        if from_first_process([int(known)])[0]:
            _say(f"{name}: passed over, {table.path} has it with these images and this preprocessing")
            return
        model = _together(lambda: _checked(onnx, transform, task) if onnx else _load(origin, transform, task))
    places = classes.outputs(task.source.class_names, model, in_order=task.data.class_map is not None)
    names = classes.display_names(task.source.class_names, model, places)
    word = re.sub("[^A-Za-z0-9_.-]+", "_", name)[-60:].lstrip("._-")  # no hidden folder, for "../run"
    folder = task.out / f"{word or 'model'}-{fingerprint[:8]}"
    if task.source.several:
        if isinstance(model, OnnxModel):
            raise ValueError(f"{name}: an ONNX file is evaluated on images with one label each; these have several.")
        _several(name, model, transform, task, places, folder, table, fingerprint)
        return
    file = PredictionsFile(folder / "predictions.csv", task.source.key, min(TOP, model.num_classes))
    found, speed = _predictions(name, model, transform, task, places, file)
    if jax.process_index() > 0:
        return
    result = {"model": name, **found.scores(), **_facts(model, transform, task, fingerprint)}
    if task.real is not None:
        imagenet = np.arange(1000) if model.num_classes == 1000 else classes.outputs(synsets(1000), model)
        result |= real.scores(found.classes, task.real, imagenet)
    report.write(folder, found, names, task.source)
    table.put(result)
    _say(_line(result, speed, len(set(places.tolist())) if task.restrict else model.num_classes))
    _say(f"{name}: predictions, classes and pictures are in {folder}")


def _facts(
    model: nfjax.ImageModel | OnnxModel, transform: nfjax.EvalTransform, task: Task, fingerprint: str
) -> dict[str, Any]:
    """What stands beside the scores in a row of the results."""
    return {
        "param_count": round(_count(model) / 1e6, 2),
        "img_size": transform.size[1],
        "crop_pct": transform.crop_pct,
        "interpolation": transform.interpolation,
        "dtype": task.dtype,
        "fingerprint": fingerprint,
    }


def _several(
    name: str,
    model: nfjax.ImageModel,
    transform: nfjax.EvalTransform,
    task: Task,
    places: np.ndarray,
    folder: Path,
    table: Table,
    fingerprint: str,
) -> None:
    """Evaluate a model on images with several labels; such an evaluation begins anew after a kill."""
    mesh = make_mesh(config.Mesh())
    batch_size = math.ceil(task.data.batch_size / mesh.size) * mesh.size
    test = Split(task.source, Evaluation(transform), (*transform.size, len(transform.mean)))
    normalize = Normalize(transform.mean, transform.std, jnp.float32)
    precision = "highest" if task.dtype == "float32" else "default"
    with jax.default_matmul_precision(precision):
        found = several.predict(model, test, task.data, mesh, normalize, places, batch_size=batch_size)
    if jax.process_index() > 0:
        return
    result = {
        "model": name,
        **several.write(folder, *found, task.source),
        **_facts(model, transform, task, fingerprint),
    }
    table.put(result)
    shares = ", ".join(f"{key} {result[key]:.2f} %" for key in ("map", "f1", "macro_f1"))
    _say(f"{name}: {shares}, loss {result['loss']:.4f}, {counted(result['count'], 'image')}, {result['img_size']} px")
    _say(f"{name}: predictions, classes and thresholds are in {folder}")


def _predictions(
    name: str,
    model: nfjax.ImageModel | OnnxModel,
    transform: nfjax.EvalTransform,
    task: Task,
    places: np.ndarray,
    file: PredictionsFile,
) -> tuple[Predictions, float | None]:
    """What a model says of all images, those of an earlier call included, and images per second."""
    mesh, first = make_mesh(config.Mesh()), jax.process_index() == 0
    batch_size = math.ceil(task.data.batch_size / mesh.size) * mesh.size
    total, k = len(task.source), min(TOP, model.num_classes)
    before = _together(lambda: file.restore(total, batch_size) if first else Predictions.none(k))
    start = from_first_process([len(before)])[0]
    if start:
        _say(f"{name}: going on after {start} of {counted(total, 'image')}")
    test = Split(task.source, Evaluation(transform), (*transform.size, len(transform.mean)))
    # An accelerator would otherwise round the factors of float32 products to fewer bits.
    precision = "highest" if task.dtype == "float32" else "default"
    parts = [before]
    with Meter(name, total, start, model=name) as meter, jax.default_matmul_precision(precision):
        normalize = Normalize(transform.mean, transform.std, jnp.float32)
        of_model = functools.partial(predict, model, test, task.data, mesh, normalize, places)
        for part in of_model(batch_size=batch_size, start=start, restrict=task.restrict):
            if first:
                file.append(part, start)
                parts.append(part)
            start += len(part)
            meter.advance(len(part))
        speed = meter.images_per_second
    return Predictions.joined(parts), speed


def _transform(name: str | nfjax.DataConfig, data: Data) -> nfjax.EvalTransform:
    """The preprocessing that a model's weights are best tested with, unless the config says otherwise."""
    names = ("crop_pct", "crop_mode", "interpolation", "mean", "std")
    changed: dict[str, Any] = {name: getattr(data, name) for name in names}
    # Crops go with sizes: another size than the one for testing is cropped as in training, as in timm's results.
    return nfjax.create_transform(name, use_test_size=data.test_size is None, img_size=data.test_size, **changed)


def _load(origin: models.Origin, transform: nfjax.EvalTransform, task: Task) -> nfjax.ImageModel:
    key, dtype = task.weights_key, jnp.dtype(task.dtype)
    model = nfjax.load(origin.name, origin.weights, weights_key=key, img_size=transform.size, dtype=dtype)
    if not model.num_classes:
        raise ValueError(f"{model.name} has no classifier, so that there is nothing to count; train one first.")
    return model


def _checked(file: OnnxModel, transform: nfjax.EvalTransform, task: Task) -> OnnxModel:
    """An ONNX file, if it can do what is asked for."""
    if transform.size != file.data_config.input_size[1:]:
        height, width = file.data_config.input_size[1:]
        raise ValueError(f"{file.path} takes images of {height}x{width} pixels; leave out --data.test_size.")
    if task.dtype != "float32":
        raise ValueError(f"{file.path} computes as it was written; leave out --dtype {task.dtype}.")
    if jax.process_count() > 1:
        raise ValueError(f"{file.path} runs in one process, and these are {jax.process_count()}.")
    return file


def _count(model: nfjax.ImageModel | OnnxModel) -> int:
    """Of parameters."""
    if isinstance(model, OnnxModel):
        return model.param_count
    return sum(var.get_value().size for var in named_params(model).values())


def _images(given: dict[str, Any], names: Sequence[str]) -> tuple[Data, Source]:
    """The images to evaluate on: those that are named, or those that the first model was tested on while it trained."""
    run = models.run_of(names[0])
    if "name" in given or "root" in given:
        data = Data(**{"name": "folder"} | given)
        source, split = evaluation_source(data)
        if split == data.train_split and data.val_split is None:
            _say(f"there is only the split {split!r}: all of it is evaluated, also what a model was trained on")
        return data, source
    if run is None:
        raise ValueError(
            "which images? --data=DIR names a folder, DIR/val/CLASS/*.jpg or DIR/CLASS/*.jpg; --data=tfds/NAME a data "
            "set of TensorFlow Datasets. Only runs, as --model=WORKDIR, know theirs."
        )
    data = dataclasses.replace(models.run_data(run), **given)
    return data, evaluation_source(data)[0] if data.val_split else find_sources(data)[1]


def _together(act: Callable[[], T]) -> T:
    return together(act, FAILURES, lambda reason: ValueError(f"another process failed: {reason}"))


def _reason(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error) or type(error).__name__
    if "RESOURCE_EXHAUSTED" in text:
        return f"the device has too little memory; give a smaller --data.batch_size. {text.splitlines()[0]}"
    return text


def _line(result: dict[str, Any], speed: float | None, classes: int) -> str:
    """What is printed of a model; among as few `classes` as five top-5 is always 100 %."""
    parts = [f"top-1 {result['top1']:.3f} % ({result['top1_count']} of {result['count']})"]
    parts += [f"top-5 {result['top5']:.3f} % ({result['top5_count']})"] if classes > TOP else []
    parts.append(f"loss {result['loss']:.4f}")
    if "real_count" in result:
        parts.append(f"ReaL {result['real_top1']:.3f} % and {result['real_top5']:.3f} % of {result['real_count']}")
    parts.append(f"{result['img_size']} px, crop {result['crop_pct']:g}, {result['interpolation']}, {result['dtype']}")
    if speed is not None:
        parts.append(f"{speed:.4g} images/s")
    return f"{result['model']}: {', '.join(parts)}"


def _say(text: str, file: Any = None) -> None:
    """Print a line, once for all processes."""
    if jax.process_index() == 0:
        print(printable(text), file=file, flush=True)

"""What `nfjax embed` and `classify` do where the output is a folder: see `nfjax.many`."""

import argparse
import itertools
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

import nfjax
from nfjax.cli.common import each_image, load_model, require_batch_size
from nfjax.many.folder import Folder
from nfjax.many.inputs import ENDINGS, Files, Inputs, Source, open_file
from nfjax.many.work import Job, work
from nfjax.support.early import STDIN, find
from nfjax.support.tables import Strings
from nfjax.tasks.embeddings import identity
from port.messages import require
from port.text import counted, one_line

PART_SIZE, PATIENCE = 8192, 120.0
SHOWN = 10  # skipped images that are named at the end
Write = Callable[[list[str], np.ndarray, Path], object]


def require_file_options(args: argparse.Namespace) -> None:
    """Refuse options that are for a folder where the output is none."""
    for option in ("part_size", "column", "patience"):
        if getattr(args, option) is not None:
            raise ValueError(
                f"--{option.replace('_', '-')} is for an output that is a folder, and {args.output} is none."
            )


def in_parts(
    args: argparse.Namespace, task: str, noun: str, writer: Callable[[nfjax.ImageModel], Write], **options: Any
) -> int:
    """Compute with other processes what the folder `args.output` does not have yet; the exit status.

    Args:
        task: the command, for the plan.
        noun: what comes out for an image.
        writer: makes, for the model, what `Job.write` is.
        options: of `nfjax.load`.
    """
    require("pyarrow", "parquet files")
    require_batch_size(args.batch_size)
    part_size = PART_SIZE if args.part_size is None else args.part_size
    patience = PATIENCE if args.patience is None else args.patience
    for name, value in (("part-size", part_size), ("patience", patience)):
        if value < 1:
            raise ValueError(f"--{name}={value:g}; expected at least 1.")
    inputs = Inputs(list(_sources(args.images, args.column)))
    if not len(inputs):
        raise ValueError(f"there are no images in {', '.join(args.images)}.")
    model, transform = load_model(args, **options)
    batch_size = min(args.batch_size, part_size, len(inputs))
    job = Job(inputs, model, transform, args.exif, batch_size, part_size, writer(model))
    folder = Folder(args.output, job.parts, patience)
    plan = {
        "task": task,
        "model": model.name,
        "weights and preprocessing": identity(model, transform, args.exif),
        "images": len(inputs),
        "inputs": inputs.digest(),
        "part-size": part_size,
        "batch-size": batch_size,
        **{name: getattr(args, name) for name in ("normalize", "topk") if hasattr(args, name)},
        "machine": _machine(),
    }
    if other := folder.agree(plan):
        told = f"another machine: {other}; numbers of parts may differ in their last digits."
        print(one_line(f"{args.output} was begun on {told}"), file=sys.stderr)
    written = work(job, folder)
    skipped = folder.skipped()
    first = list(itertools.islice(skipped, SHOWN))
    count = len(first) + sum(1 for _ in skipped)
    print(
        f"{args.output}: {counted(len(inputs) - count, noun)} from {model.name} in {counted(job.parts, 'part')}, "
        f"{written or 'none'} of them by this process"
    )
    for name, reason in first:
        print(one_line(f"skipped {name}: {reason}"), file=sys.stderr)
    if count:
        were = "was" if count == 1 else "were"
        total = counted(len(inputs), "image")
        print(f"{count} of {total} {were} skipped; all are in {args.output}/skipped.", file=sys.stderr)
    return 1 if count else 0


def _sources(patterns: Sequence[str], column: str | None) -> Iterator[Source]:
    """What the arguments stand for, in their order; images that two of them have are taken once."""
    if STDIN in patterns:
        raise ValueError(f"{STDIN} is read once, and an output in parts may be gone on with: give a file.")
    for many, some in itertools.groupby(patterns, lambda name: os.path.splitext(name)[1].lower() in ENDINGS):
        if many:
            files = dict.fromkeys(place for pattern in some for place in find(pattern))
            yield from (open_file(file, column) for file in files)
        else:
            yield Files(Strings(dict.fromkeys(map(str, each_image(list(some))))))


def _machine() -> dict[str, Any]:
    """What can change the last digits of a number, or the bytes of a file with the same numbers in it."""
    device = jax.devices()[0]
    found: dict[str, Any] = {"device": device.device_kind}
    if device.platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        found = {"device": platform.machine(), "cores": cores}
    return found | {name: version(name) for name in ("jax", "jaxlib", "numpy", "pillow", "pyarrow")}

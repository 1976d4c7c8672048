"""A plan, as it is printed, line by line as it becomes known."""

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from port.atomic import replacing, require_writable
from train.config import Config
from train.data import Dataset
from train.plan.devices import Devices
from train.plan.estimate import Estimate, changed, dataset_of, estimate, largest_batch

WIDTH = 34


def report(config: Config, devices: Devices, args: argparse.Namespace) -> int:
    """Print the plan; 1 if the config does not fit, 0 if it does."""
    if args.json:
        require_writable(args.json)
    dataset = dataset_of(config, args.images, args.classes)
    print(f"compiling the training step of {config.model.name} for {devices} ...", flush=True)
    with _quiet():
        first = estimate(config, dataset, devices)
    _tell(first, dataset)
    found = {"as it is": first}
    if args.variants:
        print(f"\n{'what would change':<{WIDTH}}{'memory':>12}{'share':>8}{'least ms':>10}{'least hours':>13}")
        _row("as it is", first, dataset)
        for name, other in _variants(first, dataset):
            _row(name, other, dataset)
            found[name] = other
    if args.json:
        rows = {name: _numbers(other, dataset) for name, other in found.items()}
        with replacing(args.json) as partial:
            partial.write_text(json.dumps({"devices": str(devices), "plans": rows}, indent=2) + "\n", encoding="utf-8")
        print(f"\n{args.json}")
    return 0 if first.fits else 1


def _variants(first: Estimate, dataset: Dataset) -> Iterator[tuple[str, Estimate]]:
    """The largest batch that fits, and settings that are not yet chosen; two are compiled at a time."""
    config, count = first.config, first.devices.count
    wider = math.gcd(count, 16)
    fields: dict[str, Any] = {}
    if config.mesh.fsdp == 1 and wider > 1:
        fields |= {"mesh.fsdp": wider}
    if not config.model.grad_checkpointing:
        fields |= {"model.grad_checkpointing": True}
    parts = config.grad_accum_steps * 2
    if config.data.batch_size % (count * parts) == 0:
        fields |= {"grad_accum_steps": parts}
    with _quiet(), ThreadPoolExecutor(2) as pool:
        largest = pool.submit(largest_batch, first, dataset)
        others = {
            f"{name}={str(value).lower()}": pool.submit(
                estimate, changed(config, **{name: value}), dataset, first.devices
            )
            for name, value in fields.items()
        }
    best = largest.result()
    if best is not None and best is not first:
        yield f"data.batch_size={best.config.data.batch_size}, the largest", best
    yield from ((name, other.result()) for name, other in others.items())


def _tell(plan: Estimate, dataset: Dataset) -> None:
    kind, data = plan.devices.kind, plan.config.data
    height, width, _ = dataset.train.shape
    each = data.batch_size // plan.devices.count
    print(
        f"\n{plan.config.model.name} at {height}x{width} in {plan.config.model.dtype} on {plan.devices} "
        f"({kind.title}): {data.batch_size:,} images a step, {each:,} a device; compiled in {plan.compiled_in:.0f} s"
    )
    print("\nmemory of each device")
    for name, count in plan.memory.items():
        print(f"  {name:<{WIDTH - 2}}{_size(count):>12}")
    verdict = "it fits" if plan.fits else "IT DOES NOT FIT"
    print(f"  {'all':<{WIDTH - 2}}{_size(plan.total):>12} of {_size(plan.devices.memory)}: {verdict}")
    if not math.isfinite(kind.bandwidth) or not plan.moved:
        return
    float32 = plan.config.model.dtype != "bfloat16"
    peak = kind.peak_float32 if float32 else kind.peak
    rows = {
        "memory": f"{_size(plan.moved)} read and written at {kind.bandwidth / 1e12:.2f} TB/s",
        "products": f"{plan.flops / 1e12:.2f} TFLOP at {peak / 1e12:.0f} TFLOP/s",
        "links": f"{_size(plan.sent)} sent at {plan.devices.link / 1e9:.0f} GB/s",
    }
    print("\nleast time of a step, ms")
    for name, seconds in plan.least.items():
        print(f"  {name:<{WIDTH - 2}}{seconds * 1e3:>12.3f}   {rows[name]}")
    steps, hours = _run(plan, dataset)
    print(
        f"  {data.batch_size / plan.seconds:,.0f} images a second at most; {steps:,} steps in {plan.config.epochs} "
        f"epochs take at least {hours:.2f} hours, {hours * plan.devices.count:.1f} device-hours, without evaluations"
    )


def _row(name: str, plan: Estimate, dataset: Dataset) -> None:
    share, hours = plan.total / plan.devices.memory, _run(plan, dataset)[1]
    times = f"{plan.seconds * 1e3:>10.2f}{hours:>13.2f}" if hours else ""
    print(f"{name:<{WIDTH}}{_size(plan.total):>12}{share:>8.1%}{times}", flush=True)


def _run(plan: Estimate, dataset: Dataset) -> tuple[int, float]:
    """Steps of a run, and the least hours that they take; 0 where nothing is known of the devices."""
    steps = math.ceil(len(dataset.train) / plan.config.data.batch_size) * plan.config.epochs
    return steps, steps * plan.seconds / 3600


def _size(count: float) -> str:
    """Bytes, as people read them."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _numbers(plan: Estimate, dataset: Dataset) -> dict[str, Any]:
    steps, hours = _run(plan, dataset)
    return {
        "batch_size": plan.config.data.batch_size,
        "fits": plan.fits,
        "bytes": plan.memory | {"all": plan.total, "of": plan.devices.memory},
        "moved": plan.moved,
        "flops": plan.flops,
        "sent": plan.sent,
        "least_seconds": plan.least,
        "steps": steps,
        "least_hours": hours,
        "compiled_in": plan.compiled_in,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what compilers for other devices print from the screen."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)

"""`nfjax bench`: how fast a model is on this device. Its weights are fresh ones, whose values do not matter for it."""

import argparse
import json
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nfjax
from nfjax.cli.common import img_size_of
from nfjax.cli.output import print_tables, table_of
from nfjax.profile import profile
from port.commands import one_model

LEAST_CALLS = 5  # however long each of them takes


def run(args: argparse.Namespace) -> int:
    size = img_size_of(args)
    model = nfjax.load(one_model(args), weights=None, dtype=args.dtype, img_size=size)
    size = size or model.data_config.input_size[1:]
    rows = []
    for batch in args.batch_size:
        print(f"compiling {model.name} for a batch of {batch} ...", file=sys.stderr, flush=True)
        rows.append(_measured(model, (batch, *size, model.in_chans), args.seconds))
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    table = table_of(
        ["model", "pixels", "dtype", "device"],
        ["batch", "compiled in s", "ms a call", "least", "most", "images/s", "GFLOP/s"],
    )
    for row in rows:
        table.add_row(
            row["model"],
            "x".join(map(str, row["img_size"])),
            row["dtype"],
            row["device"],
            str(row["batch_size"]),
            f"{row['compile_seconds']:.1f}",
            *(f"{row[name] * 1e3:.2f}" for name in ("median_seconds", "least_seconds", "most_seconds")),
            f"{row['images_per_second']:.1f}",
            f"{row['flops_per_second'] / 1e9:.0f}",
        )
    print_tables(table)
    return 0


def _measured(model: nfjax.ImageModel, shape: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """One row: the time to compile, and of each call until some seconds have passed."""
    batch, *size, _ = shape
    x = jax.device_put(np.random.default_rng(0).standard_normal(shape, np.float32))
    start = time.perf_counter()
    call = nfjax.compile(model, x)
    jax.block_until_ready(call(x))
    compiled = time.perf_counter() - start
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(call(x))
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    return {
        "model": model.name,
        "img_size": size,
        "batch_size": batch,
        "dtype": jnp.dtype(model.dtype).name,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "calls": len(times),
        "compile_seconds": compiled,
        "median_seconds": median,
        "least_seconds": min(times),
        "most_seconds": max(times),
        "images_per_second": batch / median,
        "flops_per_second": 2 * profile(model, (size[0], size[1])).macs * batch / median,
    }

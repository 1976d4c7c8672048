"""Time to the logits of a batch, float32.

ours compiled: `nfjax.compile`; ours folded: `jax.jit(nfjax.fold(model))`; ours: `jax.jit(model)`, which standardises
its weights in every call, as timm does. They and timm's eager (channels_last) and torch.compile take turns.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import nfjax
from benchmarks import measure, peer, report
from nfjax.params import merge, split
from nfjax.profile import profile

OURS = ("ours compiled", "ours folded", "ours")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what infer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["eca_nfnet_l0"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--size", type=int, help="side of the images; each model's own by default")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="processor time on one core, not the clock's: for a busy machine",
    )
    parser.add_argument("--no-torch-compile", action="store_true", help="it takes a minute for each model and batch")
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the JSON and the PNG")
    args = parser.parse_args(argv)
    clock = time.process_time if args.cpu_time else time.perf_counter
    threads = peer.threads(1 if args.cpu_time else None)
    ceiling = measure.ceiling(args.rounds, clock)
    print(f"{report.machine()}, {threads} threads, matrix product {ceiling / 1e9:.0f} GFLOP/s")
    rows = []
    try:
        for name in args.models:
            for batch in args.batch:
                rows.append(row(name, batch, args, ceiling, clock))
                print_row(rows[-1])
                gc.collect()
    except peer.OutputsDiffer as error:
        print(error, file=sys.stderr)
        return 1
    header = {"threads": threads, "clock": clock.__name__, "ceiling_flops": ceiling, "rounds": args.rounds}
    path = report.write("infer", header, rows, args.out)
    print(f"{path} and {path.with_suffix('.png').name}")
    return 0


def our_calls(model: nfjax.ImageModel, images: np.ndarray) -> peer.Calls:
    """Our ways to the logits; parameters are arguments, so that XLA does not compute with them while it compiles."""

    def jitted(model: nfjax.ImageModel) -> Any:
        graphdef, params = split(model)
        call = jax.jit(lambda params, x: merge(graphdef, params)(x)).lower(params, x).compile()
        return lambda: call(params, x).block_until_ready()

    x = jax.device_put(images)
    compiled = nfjax.compile(model, x)
    calls = lambda: compiled(x).block_until_ready(), jitted(nfjax.fold(model)), jitted(model)
    return dict(zip(OURS, calls, strict=True))


def row(name: str, batch: int, args: argparse.Namespace, ceiling: float, clock: Callable[[], float]) -> dict[str, Any]:
    """One model and batch: seconds, ratios to timm's best, images/s, FLOP/s and its fraction of the ceiling."""
    theirs, ours = peer.pair(name, (args.size, args.size) if args.size else None)
    height, width = (args.size, args.size) if args.size else ours.data_config.input_size[1:]
    images = np.random.default_rng(0).standard_normal((batch, height, width, ours.in_chans), np.float32)
    rivals, missing = peer.timm_calls(theirs, images, compiled=not args.no_torch_compile)
    calls = our_calls(ours, images)
    differences = peer.agree(calls | rivals, rivals["timm eager"]())
    times = measure.interleave(calls | rivals, args.rounds, clock=clock)
    median = {key: statistics.median(values) for key, values in times.items()}
    best = min(rivals, key=median.__getitem__)
    flops = 2 * profile(ours, (height, width)).macs * batch
    return {
        "title": f"{name}\n{height}x{width}, batch {batch}",
        "model": name,
        "size": [height, width],
        "batch": batch,
        "flops": flops,
        "timm_best": best,
        "no_torch_compile": missing,
        "differences": differences,
        "seconds": times,
        "ratios": {key: measure.ratio(values, times[best]) for key, values in times.items()},
        "images_per_second": {key: batch / value for key, value in median.items()},
        "flops_per_second": {key: flops / value for key, value in median.items()},
        "fraction_of_ceiling": {key: flops / value / ceiling for key, value in median.items()},
    }


def print_row(row: dict[str, Any]) -> None:
    print(f"\n{row['title'].replace(chr(10), ' at ')}, {row['flops'] / 1e9:.1f} GFLOP; timm's best: {row['timm_best']}")
    if row["no_torch_compile"]:
        print(f"torch.compile is missing: {row['no_torch_compile']}")
    print(f"{'':<15}{'ms':>28}{'of timm best':>20}{'images/s':>10}{'GFLOP/s':>9}{'ceiling':>9}{'differs':>9}")
    for key, times in row["seconds"].items():
        print(
            f"{key:<15}{measure.spread(times, 1e3):>28}{measure.spread(row['ratios'][key], form='.2f'):>20}"
            f"{row['images_per_second'][key]:>10.1f}{row['flops_per_second'][key] / 1e9:>9.0f}"
            f"{row['fraction_of_ceiling'][key]:>9.2f}{row['differences'][key]:>9.1e}",
            flush=True,
        )

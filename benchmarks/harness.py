"""What the comparisons of whole calls have in common: their options, and the way from rivals to a table."""

import argparse
import dataclasses
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from benchmarks import measure, peer, report

Make = Callable[[], Callable[[], Any]]


@dataclasses.dataclass(frozen=True)
class Case:
    """What is computed.

    Attributes:
        model: its name.
        size: side of the images; None for the model's own.
        batch: images in a call.
        dtype: of the computation, float32 or bfloat16; parameters are float32.
    """

    model: str
    size: int | None
    batch: int
    dtype: str = "float32"


class Task(Protocol):
    """One case, ready to be computed by every rival.

    Attributes:
        size: height and width of the images.
        flops: of one call.
        ours: our ways; each makes a function that does the work once and waits for it.
        theirs: timm's ways; what they raise counts as not being there.
    """

    size: tuple[int, int]
    flops: int
    ours: dict[str, Make]
    theirs: dict[str, Make]

    def check(self, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """How far each rival is from the reference; `peer.OutputsDiffer` if too far. Called once, before timing."""
        ...


def main(
    what: str,
    description: str | None,
    prepare: Callable[[Case], Task],
    argv: list[str] | None,
    *,
    size: int | None,
    batch: list[int],
) -> int:
    """Time `prepare(case)` for every case asked for, and report it; 1 without a report if the outputs differ."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks --what {what}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["eca_nfnet_l0"])
    parser.add_argument("--batch", nargs="+", type=int, default=batch)
    own = "each model's own" if size is None else size
    parser.add_argument("--size", type=int, default=size, help=f"side of the images; {own} by default")
    parser.add_argument("--dtype", choices=peer.DTYPES, help="of the computation; bfloat16 on a GPU, else float32")
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
    if args.cpu_time and peer.on_gpu():
        parser.error("--cpu-time says nothing about a GPU; leave it out, or set JAX_PLATFORMS=cpu")
    dtype = args.dtype or peer.default_dtype()
    try:
        peer.set_up(dtype)
    except OSError as error:
        parser.error(str(error))
    ceiling = measure.ceiling(args.rounds, clock, dtype)
    print(f"{report.machine()}, {threads} threads, matrix product {ceiling / 1e9:.0f} GFLOP/s in {dtype}")
    rows = []
    try:
        for name in args.models:
            for count in args.batch:
                task = prepare(Case(name, args.size, count, dtype))
                rows.append(_row(name, count, task, args, ceiling, clock))
                _print_row(rows[-1])
                del task
                gc.collect()
    except peer.OutputsDiffer as error:
        print(error, file=sys.stderr)
        return 1
    header = {"threads": threads, "clock": clock.__name__, "dtype": dtype, "ceiling_flops": ceiling}
    path = report.write(what, header | {"rounds": args.rounds}, rows, args.out)
    print(f"{path} and {path.with_suffix('.png').name}")
    return 0


def _row(
    name: str, batch: int, task: Task, args: argparse.Namespace, ceiling: float, clock: Callable[[], float]
) -> dict[str, Any]:
    """One model and batch: seconds, ratios to timm's best, images/s, FLOP/s and its fraction of the ceiling."""
    theirs, missing = {}, {}
    for key, make in task.theirs.items():
        if args.no_torch_compile and "compile" in key:
            missing[key] = "not asked for"
            continue
        try:
            theirs[key] = make()
        except Exception as error:  # whatever a missing or broken C++ compiler raises
            if "compile" not in key:
                raise
            missing[key] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    calls = {key: make() for key, make in task.ours.items()} | theirs
    differences = task.check(calls)
    times = measure.interleave(calls, args.rounds, clock=clock, after=peer.release)
    median = {key: statistics.median(values) for key, values in times.items()}
    best = min(theirs, key=median.__getitem__)
    height, width = task.size
    return {
        "title": f"{name}\n{height}x{width}, batch {batch}",
        "model": name,
        "size": [height, width],
        "batch": batch,
        "flops": task.flops,
        "timm_best": best,
        "missing": missing,
        "differences": differences,
        "seconds": times,
        "ratios": {key: measure.ratio(values, times[best]) for key, values in times.items()},
        "images_per_second": {key: batch / value for key, value in median.items()},
        "flops_per_second": {key: task.flops / value for key, value in median.items()},
        "fraction_of_ceiling": {key: task.flops / value / ceiling for key, value in median.items()},
    }


def _print_row(row: dict[str, Any]) -> None:
    print(f"\n{row['title'].replace(chr(10), ' at ')}, {row['flops'] / 1e9:.1f} GFLOP; timm's best: {row['timm_best']}")
    for key, why in row["missing"].items():
        print(f"{key} is missing: {why}")
    print(f"{'':<15}{'ms':>28}{'of timm best':>20}{'images/s':>10}{'GFLOP/s':>9}{'ceiling':>9}{'differs':>9}")
    for key, times in row["seconds"].items():
        print(
            f"{key:<15}{measure.spread(times, 1e3):>28}{measure.spread(row['ratios'][key], form='.2f'):>20}"
            f"{row['images_per_second'][key]:>10.1f}{row['flops_per_second'][key] / 1e9:>9.0f}"
            f"{row['fraction_of_ceiling'][key]:>9.2f}{row['differences'][key]:>9.1e}",
            flush=True,
        )

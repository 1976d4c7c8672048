"""Peak memory of a call: how much more than before it is taken at most while it runs.

Before the call the weights, the optimiser's state and the images are there, and it was called before, so that compiling
is not counted; what a call leaves behind for the next one is not either. Every measurement is a process of its own with
one rival in it. On a CPU it is resident memory as the system counts it, after what was freed was given back; on a GPU
it is what the libraries' own allocators count. jax's cannot start over: there our programs come from a cache, because
compiling tries things out, and a number is marked by "<" where making the weights took more than the call.
"""

import argparse
import ctypes
import dataclasses
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness, measure, peer, report

SIZES = {"infer": None, "train": 160}
RIVALS = {"infer": ("ours compiled", "ours"), "train": ("ours",)}
TIMM = ("timm eager", "torch.compile")
MIB = 2**20


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--of", nargs="+", choices=RIVALS, default=list(RIVALS), help="which calls")
    parser.add_argument("--models", nargs="+", default=["eca_nfnet_l0"])
    parser.add_argument("--batch", nargs="+", type=int, default=[8])
    parser.add_argument("--size", type=int, help="side of the images; as of --what infer and train by default")
    parser.add_argument("--dtype", choices=peer.DTYPES, help="of the computation; bfloat16 on a GPU, else float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-torch-compile", action="store_true")
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the JSON and the PNG")
    args = parser.parse_args(argv)
    dtype = args.dtype or peer.default_dtype()
    print(f"{report.machine()}, {dtype}")
    rows = []
    for what in args.of:
        for name in args.models:
            for batch in args.batch:
                case = harness.Case(name, args.size or SIZES[what], batch, dtype)
                rows.append(_row(what, case, args.rounds, not args.no_torch_compile))
                _print_row(rows[-1])
    header = {"dtype": dtype, "rounds": args.rounds}
    path = report.write("memory", header, rows, args.out, measured="peak memory")
    print(f"{path} and {path.with_suffix('.png').name}")
    return 0


def _row(what: str, case: harness.Case, rounds: int, torch_compile: bool) -> dict[str, Any]:
    """One call, model and batch: peak bytes, and their ratios to the least of timm's."""
    theirs, missing = [name for name in TIMM if torch_compile or "compile" not in name], {}
    peaks: dict[str, list[int]] = {}
    bounds = set()
    for name in [*RIVALS[what], *theirs]:
        try:
            found = _in_processes(what, case, name, rounds)
        except subprocess.CalledProcessError as error:
            if name != "torch.compile":
                raise
            missing[name] = f"exit status {error.returncode}"
            continue
        peaks[name] = [peak for peak, _ in found]
        bounds |= {name for _, exact in found if not exact}
    best = min((name for name in theirs if name in peaks), key=lambda name: statistics.median(peaks[name]))
    return {
        "title": f"{what} {case.model}\n{case.size or 'own size'}, batch {case.batch}",
        "of": what,
        **dataclasses.asdict(case),
        "timm_best": best,
        "missing": missing,
        "bytes": peaks,
        "at_most": sorted(bounds),
        "ratios": {name: measure.ratio(values, peaks[best]) for name, values in peaks.items()},
    }


def _in_processes(what: str, case: harness.Case, name: str, rounds: int) -> list[tuple[int, bool]]:
    """Peak bytes, and whether they are the call's, of `rounds` processes."""
    command = [sys.executable, "-m", "benchmarks.memory", what, json.dumps(dataclasses.asdict(case)), name]
    found = []
    with tempfile.TemporaryDirectory() as cache:
        settings = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        settings["MALLOC_MMAP_THRESHOLD_"] = "131072"  # larger arrays go back to the system at once, from any thread
        first = name in RIVALS[what] and peer.on_gpu()  # fills the cache
        for _ in range(rounds + first):
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | settings)
            found.append(tuple(json.loads(run.stdout.splitlines()[-1])))
    return found[first:]


def _print_row(row: dict[str, Any]) -> None:
    print(f"\n{row['title'].replace(chr(10), ' at ')}; timm's least: {row['timm_best']}")
    for key, why in row["missing"].items():
        print(f"{key} is missing: {why}")
    print(f"{'':<15}{'MiB':>28}{'of timm least':>20}")
    for key, values in row["bytes"].items():
        bound = "<" if key in row["at_most"] else ""
        ratios = measure.spread(row["ratios"][key], form=".2f")
        print(f"{key:<15}{bound + measure.spread(values, 1 / MIB, '.0f'):>28}{ratios:>20}", flush=True)


def peak(what: str, case: harness.Case, name: str) -> tuple[int, bool]:
    """Peak bytes of a call of one rival, and False if that is only a bound. It belongs into a process of its own."""
    peer.threads()
    peer.set_up(case.dtype)
    task = importlib.import_module(f"benchmarks.{what}").Task(case)
    call = (task.ours | task.theirs)[name]()
    gc.collect()
    if not peer.on_gpu():
        call()
        _trim()
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts over
        call()
        return _status("VmHWM") - before, True
    if name in task.theirs:
        import torch

        call()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before, True
    import jax

    stats = jax.devices()[0].memory_stats
    before, highest = stats()["bytes_in_use"], stats()["peak_bytes_in_use"]
    call()
    after = stats()["peak_bytes_in_use"]
    return after - before, after > highest


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _trim() -> None:
    """Give freed memory back to the system, or a call would take what it needs from there without being seen."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    _what, _case, _name = sys.argv[1:]
    print(json.dumps(peak(_what, harness.Case(**json.loads(_case)), _name)))

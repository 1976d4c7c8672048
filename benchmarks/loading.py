"""Time and memory of `nfjax.load` from a local safetensors file, beside the least that such a load can do.

    python benchmarks/loading.py [--model eca_nfnet_l0] [--rounds 9]

The rival reads the same file with `safetensors.numpy.load_file` and puts the arrays on the device; it builds no
model and converts nothing. Each measurement is the first load of a process of its own, imports and the start of
the backend excluded, the file in the page cache; the two alternate. The targets are at most 1.5 times the rival's
time (median of the paired ratios) and a peak of at most 2.5 times the file above what the imports took.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MAX_TIME_RATIO = 1.5
MAX_MEMORY_RATIO = 2.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="eca_nfnet_l0")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--child", nargs=2, metavar=("KIND", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child[0], args.model, args.child[1])))
        return 0

    import nfjax

    with tempfile.TemporaryDirectory() as folder:
        nfjax.save(nfjax.load(args.model, weights=None), folder)
        file = Path(folder) / "model.safetensors"
        size = file.stat().st_size
        runs: dict[str, list[dict[str, float]]] = {"rival": [], "nfjax": []}
        for _ in range(args.rounds):
            for kind in runs:
                command = [sys.executable, __file__, "--model", args.model, "--child", kind, str(file)]
                runs[kind].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    print(f"{args.model}: {size / 2**20:.0f} MiB, {args.rounds} rounds; median [least, most]")
    for kind, results in runs.items():
        seconds, memory = ([r[key] for r in results] for key in ("seconds", "peak"))
        print(
            f"{kind:<6} {_spread([1000 * s for s in seconds], '.0f')} ms, "
            f"peak {_spread([m / size for m in memory], '.2f')} x the file"
        )
    ratios = [ours["seconds"] / theirs["seconds"] for ours, theirs in zip(runs["nfjax"], runs["rival"], strict=True)]
    time_ratio = statistics.median(ratios)
    memory_ratio = statistics.median(r["peak"] for r in runs["nfjax"]) / size
    print(f"time ratio {_spread(ratios, '.2f')}, target {MAX_TIME_RATIO}; memory target {MAX_MEMORY_RATIO}")
    return 0 if time_ratio <= MAX_TIME_RATIO and memory_ratio <= MAX_MEMORY_RATIO else 1


def measure(kind: str, model: str, file: str) -> dict[str, float]:
    """Seconds of the first load of this process, and its peak memory above the start, in bytes."""
    import jax
    from safetensors.numpy import load_file

    import nfjax
    from nfjax.params import split

    jax.block_until_ready(jax.device_put(0.0))
    before, watch = _resident(), Watch()
    start = time.perf_counter()
    loaded = jax.device_put(load_file(file)) if kind == "rival" else nfjax.load(model, weights=file)
    jax.block_until_ready(loaded if kind == "rival" else split(loaded)[1])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": watch.stop() - before}


class Watch(threading.Thread):
    """Samples resident memory every millisecond: the kernel's own high-water mark also counts the imports."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done, self._peak = threading.Event(), 0
        self.start()

    def run(self) -> None:
        while not self._done.wait(0.001):
            self._peak = max(self._peak, _resident())

    def stop(self) -> int:
        self._done.set()
        self.join()
        return max(self._peak, _resident())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


if __name__ == "__main__":
    sys.exit(main())

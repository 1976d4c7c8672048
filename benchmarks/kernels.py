"""Where the time of a program goes on this device: its kernels, by the profiler of XLA.

Of the program that `nfjax.compile` compiles, and of the training step that `train.main` does. The time that no kernel
runs, between the first and the last one, is shown as gaps: there the device waits for the host.
"""

import argparse
import collections
import gzip
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import nfjax
from benchmarks import harness, peer, report, train
from benchmarks.infer import program
from nfjax.fast.backend import compiler_options
from nfjax.infer import prepare
from nfjax.models import registry
from port.atomic import replacing
from train.machine.mesh import put_batch
from train.step import compile_train_step

NUMBER = re.compile(r"[._]\d+\b|_\d+(?=_|$)")  # what tells kernels of one kind apart


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["eca_nfnet_l0"])
    parser.add_argument("--of", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, help="side of the images; each model's own by default")
    parser.add_argument("--dtype", choices=peer.DTYPES, help="of the computation; bfloat16 on a GPU, else float32")
    parser.add_argument("--calls", type=int, default=3, help="so many are traced")
    parser.add_argument("--top", type=int, default=25, help="kernels to show, the longest first")
    parser.add_argument("--hlo", action="store_true", help="write the compiled programs too, as XLA's text")
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the JSON")
    args = parser.parse_args(argv)
    rows = []
    for name in args.models:
        for of in args.of:
            size = args.size or registry.find(name)[1].input_size[1]
            case = harness.Case(name, size, args.batch, args.dtype or peer.default_dtype())
            start = time.perf_counter()
            compiled, call = PROGRAMS[of](case)
            compiling = time.perf_counter() - start
            row = {"model": name, "of": of, "batch": args.batch, "size": size, "dtype": case.dtype}
            rows.append(row | {"compiling": compiling} | traced(call, args.calls))
            show(rows[-1], args.top)
            with replacing(args.out / "kernels.json") as partial:
                text = json.dumps({"machine": report.machine(), "rows": rows}, indent=1)
                partial.write_text(text + "\n", encoding="utf-8")
            if args.hlo:
                path = args.out / f"{of}-{name}.hlo.gz"
                path.write_bytes(gzip.compress((compiled.as_text() or "").encode()))
    return 0


def _infer(case: harness.Case) -> tuple[jax.stages.Compiled, Callable[[], Any]]:
    assert case.size is not None
    _, options = peer.weights(case.model, case.size)
    graphdef, params = prepare(nfjax.load(case.model, weights=None, dtype=case.dtype, **options))
    shape = (case.batch, case.size, case.size, 3)
    x = jax.device_put(np.random.default_rng(0).standard_normal(shape, np.float32))
    call = program(graphdef, params, x, compiler_options())
    return call, lambda: call(params, x)


def _train(case: harness.Case) -> tuple[jax.stages.Compiled, Callable[[], Any]]:
    assert case.size is not None
    images = train.random_batch(case.size, case.batch)
    experiment = train.experiment(case.model, images, case.batch, dtype=case.dtype)
    step = compile_train_step(experiment)
    state, batch = [experiment.init()], put_batch(experiment.mesh, images)

    def call() -> Any:
        state[0], metrics = step(state[0], batch)
        return metrics

    return step, call


PROGRAMS = {"infer": _infer, "train": _train}


def traced(call: Callable[[], Any], calls: int) -> dict[str, Any]:
    """Milliseconds of a call by the clock, between its first and its last kernel, without one, and of its kernels.

    Of each kernel its name, how often it runs and how long in all, and operations of the program that it stands for.
    """
    for _ in range(2):
        jax.block_until_ready(call())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            for _ in range(calls):
                last = call()
            jax.block_until_ready(last)
            seconds = time.perf_counter() - start
        found = list(_events(next(Path(folder).rglob("*.xplane.pb"))))
    kernels: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0.0])
    operations: dict[str, set[str]] = collections.defaultdict(set)
    for name, operation, begin, end in found:
        kind = NUMBER.sub("", name)
        kernels[kind][0] += 1 / calls
        kernels[kind][1] += (end - begin) / 1e6 / calls
        operations[kind].add(operation)
    busy = sum(ms for _, ms in kernels.values())
    span = (max(e[3] for e in found) - min(e[2] for e in found)) / 1e6 / calls if found else 0.0
    table = [
        {"name": kind, "times": round(times, 2), "ms": ms, "operations": sorted(operations[kind])[:8]}
        for kind, (times, ms) in sorted(kernels.items(), key=lambda item: -item[1][1])
    ]
    return {"ms": seconds * 1e3 / calls, "span": span, "busy": busy, "kernels": table}


def _events(path: Path) -> Iterator[tuple[str, str, float, float]]:
    """Kernels in a trace: name, operation, begin and end in nanoseconds; on a CPU the operations that it computed."""
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                on_device = plane.name.startswith("/device:") and line.name.startswith("Stream")
                if on_device or (plane.name == "/host:CPU" and "hlo_op" in stats and not peer.on_gpu()):
                    yield event.name, str(stats.get("hlo_op", "")), event.start_ns, event.start_ns + event.duration_ns


def show(row: dict[str, Any], top: int) -> None:
    title = f"{row['of']} {row['model']} at {row['size']}, batch {row['batch']}, {row['dtype']}"
    print(
        f"\n{title}: {row['ms']:.2f} ms a call, kernels {row['busy']:.2f} ms of {row['span']:.2f} "
        f"between the first and the last; compiled in {row['compiling']:.0f} s"
    )
    for kernel in row["kernels"][:top]:
        share = kernel["ms"] / row["busy"]
        text = f"{kernel['ms']:9.3f} ms {share:6.1%} {kernel['times']:7.1f} x {kernel['name'][:70]}"
        print(text, *kernel["operations"][:2], flush=True)

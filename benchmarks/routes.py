"""Ways to compile a model, timed on this device, taking turns: what could be the default of a backend.

Each of `nfjax.fast.groups.ROUTES` for grouped convolutions, and options of XLA with the route that is the default. Of a
batch, in bfloat16 on a GPU: what `nfjax.compile` compiles, and the gradient of a sum of squares of the logits.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nfjax
from benchmarks import peer, report
from benchmarks.infer import program
from nfjax.fast.backend import compiler_options, route
from nfjax.fast.groups import BY_BACKEND, ROUTES
from nfjax.infer import prepare
from nfjax.params import merge, split
from port.atomic import replacing

Options = dict[str, Any]
# By name: the route, None for the backend's own, and options of XLA.
WAYS: dict[str, tuple[str | None, Options]] = {name: (name, {}) for name in ROUTES} | {
    # Matrix products by cuBLAS alone, whose results come with the bias added.
    "cublas": (None, {"xla_gpu_enable_triton_gemm": False}),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what routes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["eca_nfnet_l0"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, help="side of the images; each model's own by default")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the JSON")
    args = parser.parse_args(argv)
    rows = []
    for name in args.models:
        state, _ = peer.weights(name, None)  # all of them random: gains of zero would hide what differs
        model = nfjax.load(name, weights=state, dtype=peer.default_dtype())
        size = (args.size, args.size) if args.size else model.data_config.input_size[1:]
        x = jnp.asarray(np.random.default_rng(0).standard_normal((args.batch, *size, 3), np.float32))
        for of, make in {"infer": _infer, "gradient": _gradient}.items():
            found = _turns(make, model, x, args.ways, args.rounds)
            rows.append({"model": name, "of": of, "batch": args.batch, "size": size} | found)
            for way, seconds in rows[-1]["seconds"].items():
                middle = statistics.median(seconds)
                print(
                    f"{name} {of:9s} {way:8s} {middle * 1e3:9.2f} ms {args.batch / middle:9.0f} images/s "
                    f"differs {rows[-1]['differs'][way]:.1e}",
                    flush=True,
                )
            with replacing(args.out / "routes.json") as partial:
                text = json.dumps({"machine": report.machine(), "rows": rows}, indent=1)
                partial.write_text(text + "\n", encoding="utf-8")
    return 0


def _turns(make: Callable[..., Any], model: nfjax.ImageModel, x: Any, ways: list[str], rounds: int) -> dict[str, Any]:
    """Seconds of each way; how far its result is from the first one's; those that do not compile."""
    calls, failed = {}, {}
    for way in ways:
        groups, options = WAYS[way]
        try:
            with route(groups or BY_BACKEND[jax.default_backend()]):
                calls[way] = make(model, x, {**compiler_options(), **options})
        except Exception as error:  # the others are timed
            failed[way] = f"{type(error).__name__}: {str(error)[:200]}"
            print(f"{way} is missing: {failed[way]}")
    results = {way: np.asarray(call(), np.float64) for way, call in calls.items()}
    expected = next(iter(results.values()))
    differs = {way: float(np.abs(found - expected).max() / np.abs(expected).max()) for way, found in results.items()}
    seconds: dict[str, list[float]] = {way: [] for way in calls}
    for _ in range(rounds):
        for way, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[way].append(time.perf_counter() - start)
    return {"seconds": seconds, "differs": differs, "failed": failed}


def _infer(model: nfjax.ImageModel, x: Any, options: Options) -> Callable[[], Any]:
    graphdef, params = prepare(model)
    call = program(graphdef, params, x, options)
    return lambda: call(params, x)


def _gradient(model: nfjax.ImageModel, x: Any, options: Options) -> Callable[[], Any]:
    """Of which one array is returned, the first convolution's; the program computes all."""
    graphdef, params = split(model)
    grad = jax.grad(lambda params, x: jnp.sum(jnp.square(merge(graphdef, params)(x))))
    call = jax.jit(grad).lower(params, x).compile(options)
    first = str(model.data_config.first_conv).replace(".", "/") + "/kernel"
    return lambda: call(params, x)[first]

"""Ways to compute grouped convolutions, timed on this device: `nfjax.fast.groups.ROUTES`, taking turns.

Of a batch, in bfloat16 on a GPU: the folded model, and the gradient of a sum of squares of the logits.
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
from nfjax.fast.backend import route
from nfjax.fast.groups import ROUTES
from nfjax.params import merge, split
from port.atomic import replacing


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what routes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["eca_nfnet_l0"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, help="side of the images; each model's own by default")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the JSON")
    args = parser.parse_args(argv)
    rows = []
    for name in args.models:
        model = nfjax.load(name, weights=None, dtype=peer.default_dtype())
        size = (args.size, args.size) if args.size else model.data_config.input_size[1:]
        x = jnp.asarray(np.random.default_rng(0).standard_normal((args.batch, *size, 3), np.float32))
        for of, make in {"infer": _infer, "gradient": _gradient}.items():
            rows.append(
                {"model": name, "of": of, "batch": args.batch, "size": size} | _turns(make, model, x, args.rounds)
            )
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


def _turns(make: Callable[..., Any], model: nfjax.ImageModel, x: Any, rounds: int) -> dict[str, Any]:
    """Seconds of each route; how far its result is from the first one's; those that do not compile."""
    calls, failed = {}, {}
    for way in ROUTES:
        try:
            with route(way):
                calls[way] = make(model, x)
        except Exception as error:  # the others are timed
            failed[way] = f"{type(error).__name__}: {str(error)[:200]}"
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


def _infer(model: nfjax.ImageModel, x: Any) -> Callable[[], Any]:
    graphdef, params = split(nfjax.fold(model))
    call = jax.jit(lambda params, x: merge(graphdef, params)(x)).lower(params, x).compile()
    return lambda: call(params, x)


def _gradient(model: nfjax.ImageModel, x: Any) -> Callable[[], Any]:
    """Of which one array is returned, the first convolution's; the program computes all."""
    graphdef, params = split(model)
    grad = jax.grad(lambda params, x: jnp.sum(jnp.square(merge(graphdef, params)(x))))
    call = jax.jit(grad).lower(params, x).compile()
    first = str(model.data_config.first_conv).replace(".", "/") + "/kernel"
    return lambda: call(params, x)[first]

"""What a device that is not there would have to do: the program that XLA compiles for it, and what its kernels move.

Nothing runs, so no time is measured. The bytes of all kernels (`train.plan.program`), divided by the bandwidth, are a
time that the program cannot fall below, and so are its operations, divided by the peak (`train.plan.devices`). Kernels
that only copy, slice or transpose show what is in the way. Needs the packages of `jax[cuda13]` for a GPU, of `jax[tpu]`
for a TPU, but no device and no driver.
"""

import argparse
import collections
import itertools
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import nfjax
from benchmarks import harness, train
from nfjax.fast.backend import route, traced_for
from nfjax.fast.groups import BY_BACKEND, ROUTES
from nfjax.infer import prepare
from nfjax.models import registry
from nfjax.models.vit import VisionTransformer
from nfjax.params import merge
from train.plan.devices import ACCELERATORS, Accelerator, Devices
from train.plan.program import Operation, operations
from train.step import trace_train_step


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what program",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["eca_nfnet_l0"])
    parser.add_argument("--of", nargs="+", choices=("infer", "train"), default=["infer", "train"])
    parser.add_argument("--batch", type=int, default=256, help="images on each device")
    parser.add_argument("--devices", type=int, default=1, help="so many share a training step")
    parser.add_argument("--fsdp", type=int, default=1, help="over so many of them its state is spread")
    parser.add_argument("--size", type=int, help="side of the images; each model's own by default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    absent = [name for name, kind in ACCELERATORS.items() if kind.backend != "cpu"]
    parser.add_argument("--target", choices=absent, default="h200")
    parser.add_argument("--route", nargs="+", choices=ROUTES, help="of grouped convolutions; the backend's by default")
    parser.add_argument("--kinds", type=int, default=12, help="kinds of kernels to show, those that move most first")
    parser.add_argument("--hlo", type=Path, help="folder to write the programs to, as XLA's text")
    args = parser.parse_args(argv)
    target = Devices(args.target, args.devices)
    target.prepare()
    try:
        devices = target.make()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    for name, of, way in itertools.product(args.models, args.of, args.route or [BY_BACKEND[target.kind.backend]]):
        start = time.perf_counter()
        case = harness.Case(name, args.size, args.batch, args.dtype)
        with traced_for(target.kind.backend), route(way):
            traced, size = inference(case, devices[0]) if of == "infer" else training(case, devices, args.fsdp)
            compiled = traced.lower().compile()
        title = f"{of} {name} at {size[0]}x{size[1]}, batch {args.batch}, {args.dtype}, {target.kind.title}, {way}"
        print(f"\n{title}, compiled in {time.perf_counter() - start:.0f} s")
        text = compiled.as_text() or ""
        flops = products(traced.jaxpr) / (1 if of == "infer" else args.devices)
        show(operations(text), flops, compiled.memory_analysis(), target.kind, args.kinds)
        if args.hlo:
            args.hlo.mkdir(parents=True, exist_ok=True)
            (args.hlo / f"{of}-{name}-{way}.txt").write_text(text)
    return 0


def inference(case: harness.Case, device: jax.Device) -> tuple[jax.stages.Traced, tuple[int, int]]:
    """What `nfjax.compile` compiles, and height and width of the images."""
    sized = case.size and issubclass(registry.find(case.model)[0].family, VisionTransformer)
    options: Any = {"img_size": case.size} if sized else {}
    model = nfjax.load(case.model, weights=None, dtype=case.dtype, **options)
    size = (case.size, case.size) if case.size else model.data_config.input_size[1:]
    graphdef, params = prepare(model)
    there = jax.sharding.SingleDeviceSharding(device)
    params = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=there), params)
    images = jax.ShapeDtypeStruct((case.batch, *size, model.in_chans), jnp.float32, sharding=there)
    return jax.jit(lambda params, x: merge(graphdef, params)(x)).trace(params, images), size


def training(case: harness.Case, devices: Sequence[jax.Device], fsdp: int) -> tuple[jax.stages.Traced, tuple[int, int]]:
    """The step that `train.main` compiles, and height and width of the images."""
    side, batch = case.size or registry.find(case.model)[1].input_size[1], case.batch * len(devices)
    images = train.random_batch(side, batch)
    experiment = train.experiment(case.model, images, batch, dtype=case.dtype, devices=devices, fsdp=fsdp)
    return trace_train_step(experiment), (side, side)


def products(program: Any) -> float:
    """Operations of the matrix products and convolutions of a traced program, by their shapes."""
    total = 0.0
    for step in program.eqns:
        if step.primitive.name == "dot_general":
            (contracted, _), _ = step.params["dimension_numbers"]
            left = step.invars[0].aval.shape
            total += 2.0 * step.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
        elif step.primitive.name == "conv_general_dilated":
            kernel, numbers = step.invars[1].aval, step.params["dimension_numbers"]
            total += 2.0 * step.outvars[0].aval.size * kernel.size / kernel.shape[numbers.rhs_spec[0]]
        inner = [getattr(value, "jaxpr", value) for value in jax.tree.leaves(list(step.params.values()))]
        times = step.params.get("length", 1)  # of a scan
        total += times * sum(products(one) for one in inner if hasattr(one, "eqns"))
    return total


def show(found: list[Operation], flops: float, memory: Any, target: Accelerator, kinds: int) -> None:
    moved = sum(o.moved * o.times for o in found)
    print(f"{moved / 1e9:10.1f} GB moved by {len(found)} kernels: at least {moved / target.bandwidth * 1e3:.1f} ms")
    print(f"{flops / 1e9:10.0f} GFLOP: at least {flops / target.peak * 1e3:.1f} ms in bfloat16")
    print(f"{memory.temp_size_in_bytes / 1e9:10.1f} GB of temporary arrays")
    by_kind: dict[str, list[int]] = collections.defaultdict(list)
    for o in found:
        by_kind[o.kind].append(o.moved * o.times)
    for kind, counts in sorted(by_kind.items(), key=lambda item: -sum(item[1]))[:kinds]:
        print(f"{sum(counts) / 1e9:10.2f} GB {sum(counts) / moved:5.1%} {len(counts):5d} {kind}", flush=True)

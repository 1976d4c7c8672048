"""What a GPU that is not there would have to do: the program that XLA compiles for it, and what its kernels move.

Nothing runs, so no time is measured. Each kernel reads and writes its arrays once; the bytes of all of them, divided
by the GPU's bandwidth, are a time that the program cannot fall below, and so are its operations, divided by the GPU's
peak. Kernels that only copy, slice or transpose show what is in the way. Needs the packages of `jax[cuda13]`, but no
GPU and no driver. XLA's autotuning is off, since it measures; its own matrix products (Triton), which it would choose
between in that way, are off too: cuBLAS and cuDNN do all of them here.
"""

import argparse
import collections
import dataclasses
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

import nfjax
from benchmarks import harness, train
from nfjax.fast.backend import traced_for
from nfjax.infer import prepare
from nfjax.models import registry
from nfjax.models.vit import VisionTransformer
from nfjax.params import merge
from nfjax.profile import profile
from train.step import compile_train_step

FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
DESCRIPTION = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
  core_count: 132  fpus_per_core: 128
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  clock_rate_ghz: 1.98  l2_cache_size: 52428800
  memory_bandwidth: {bandwidth}  device_memory_size: {memory}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 }}
device_description_str: "{name}"
"""
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
NO_KERNEL = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")
OPERATION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)")


@dataclasses.dataclass(frozen=True)
class Target:
    """A GPU, by its data sheet: bytes per second, bytes, and operations per second in bfloat16, not sparse."""

    name: str
    bandwidth: float
    memory: float
    peak: float


TARGETS = {
    "h100": Target("NVIDIA H100 80GB HBM3", 3.35e12, 80e9, 989e12),
    "h200": Target("NVIDIA H200", 4.8e12, 141e9, 989e12),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what program",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["eca_nfnet_l0"])
    parser.add_argument("--of", nargs="+", choices=("infer", "train"), default=["infer", "train"])
    parser.add_argument("--batch", type=int, default=256, help="images on each GPU")
    parser.add_argument("--devices", type=int, default=1, help="GPUs that share a training step")
    parser.add_argument("--fsdp", type=int, default=1, help="over so many of them its state is spread")
    parser.add_argument("--size", type=int, help="side of the images; each model's own by default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--target", choices=TARGETS, default="h200")
    parser.add_argument("--kinds", type=int, default=12, help="kinds of kernels to show, those that move most first")
    parser.add_argument("--hlo", type=Path, help="folder to write the programs to, as XLA's text")
    args = parser.parse_args(argv)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # which asks the driver
    target = TARGETS[args.target]
    try:
        devices = absent_devices(target, args.devices)
    except Exception as error:  # whatever a missing plug-in raises
        print(f"cannot compile for {target.name}: {error}\nInstall the packages of jax[cuda13].", file=sys.stderr)
        return 1
    for name in args.models:
        for of in args.of:
            start = time.perf_counter()
            case = harness.Case(name, args.size, args.batch, args.dtype)
            compiled, size, flops = inference(case, devices[0]) if of == "infer" else training(case, devices, args.fsdp)
            title = f"{of} {name} at {size[0]}x{size[1]}, batch {args.batch}, {args.dtype}, {target.name}"
            print(f"\n{title}, compiled in {time.perf_counter() - start:.0f} s")
            text = compiled.as_text()
            show(kernels(text), flops, compiled.memory_analysis(), target, args.kinds)
            if args.hlo:
                args.hlo.mkdir(parents=True, exist_ok=True)
                (args.hlo / f"{of}-{name}.txt").write_text(text)
    return 0


def absent_devices(target: Target, count: int) -> Any:
    """Devices of one machine to compile for, described in words."""
    description = DESCRIPTION.format(name=target.name, bandwidth=int(target.bandwidth), memory=int(target.memory))
    return topologies.get_topology_desc(platform="cuda", target_config=description, topology=f"1x1x{count}").devices


def inference(case: harness.Case, device: jax.Device) -> tuple[jax.stages.Compiled, tuple[int, int], int]:
    """What `nfjax.compile` compiles, height and width of the images, and operations of a call."""
    sized = case.size and issubclass(registry.find(case.model)[0].family, VisionTransformer)
    options: Any = {"img_size": case.size} if sized else {}
    model = nfjax.load(case.model, weights=None, dtype=case.dtype, **options)
    size = (case.size, case.size) if case.size else model.data_config.input_size[1:]
    with traced_for("gpu"):
        graphdef, params = prepare(model)
    there = jax.sharding.SingleDeviceSharding(device)
    params = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=there), params)
    images = jax.ShapeDtypeStruct((case.batch, *size, model.in_chans), jnp.float32, sharding=there)
    with traced_for("gpu"):
        compiled = jax.jit(lambda params, x: merge(graphdef, params)(x)).lower(params, images).compile()
    return compiled, size, 2 * profile(model, size).macs * case.batch


def training(
    case: harness.Case, devices: Sequence[jax.Device], fsdp: int
) -> tuple[jax.stages.Compiled, tuple[int, int], int]:
    """The step that `train.main` compiles, height and width of the images, and operations of a step on each device."""
    side, batch = case.size or registry.find(case.model)[1].input_size[1], case.batch * len(devices)
    images = train.random_batch(side, batch)
    with traced_for("gpu"):
        experiment = train.experiment(case.model, images, batch, dtype=case.dtype, devices=devices, fsdp=fsdp)
        compiled = compile_train_step(experiment)
    size = side, side
    return compiled, size, 2 * profile(experiment.model, size).macs * (1 + train.BACKWARD) * case.batch


def kernels(program: str) -> list[tuple[str, int]]:
    """Of each kernel its kind, and the bytes of the arrays that it reads and writes, in the order they run.

    Args:
        program: a compiled and scheduled module, as XLA's text.
    """
    found, sizes = [], {}
    for line in program[program.index("\nENTRY ") :].splitlines():
        if not (match := OPERATION.match(line)):
            continue
        name, shape, operation, operands = match.groups()
        sizes[name] = _bytes(shape)
        if operation in NO_KERNEL or operation.endswith("-done"):
            continue
        target = re.search(r'custom_call_target="([^"]*)"', line)
        kind = target[1] if target else re.sub(r"[.\d]+$", "", name)
        read = {operand.split()[-1].lstrip("%") for operand in operands.split(",") if operand.strip()}
        found.append((kind, sizes[name] + sum(sizes.get(operand, 0) for operand in read)))
    return found


def _bytes(shape: str) -> int:
    """Of an array, or of all in a tuple; not of the workspaces of libraries, which are one axis of s8."""
    total = 0
    for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", re.sub(r"s8\[\d+\]", "", shape)):
        count = BYTES.get(dtype, 0)
        for dim in filter(None, dims.split(",")):
            count *= int(dim)
        total += count
    return total


def show(found: list[tuple[str, int]], flops: int, memory: Any, target: Target, kinds: int) -> None:
    moved = sum(count for _, count in found)
    print(f"{moved / 1e9:10.1f} GB moved by {len(found)} kernels: at least {moved / target.bandwidth * 1e3:.1f} ms")
    print(f"{flops / 1e9:10.0f} GFLOP: at least {flops / target.peak * 1e3:.1f} ms in bfloat16")
    print(f"{memory.temp_size_in_bytes / 1e9:10.1f} GB of temporary arrays")
    by_kind: dict[str, list[int]] = collections.defaultdict(list)
    for kind, count in found:
        by_kind[kind].append(count)
    for kind, counts in sorted(by_kind.items(), key=lambda item: -sum(item[1]))[:kinds]:
        print(f"{sum(counts) / 1e9:10.2f} GB {sum(counts) / moved:5.1%} {len(counts):5d} {kind}", flush=True)

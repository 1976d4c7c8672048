"""What `nfjax embed` costs beside reading and computing: claims, listing, parts and memory, as its work grows.

    python -m benchmarks --what many --images 1000 100000 --processes 1 2 4 [--part-size 8192] [--manifest 10000000]
    python -m benchmarks --what many --images --manifest 10000000 --devices 1 8 64

Images are not read and no model is called: a part's embeddings are zeros of 384 features. Seconds are of the processor,
of all processes together, so that other work on the machine does not count; memory is the largest process's. Two more
things that grow: what a table of paths takes until the first part can begin, and a checkpoint with the devices, which
are parts of this CPU, of test_vit2 with momentum and a moving average.
"""

import argparse
import dataclasses
import functools
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

FEATURES = 384


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks --what many", description=__doc__)
    parser.add_argument("--images", type=int, nargs="*", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--part-size", type=int, default=8192)
    parser.add_argument("--manifest", type=int, nargs="*", default=[], help="lines of tables of paths to open")
    parser.add_argument("--devices", type=int, nargs="*", default=[], help="virtual devices that share a checkpoint")
    args = parser.parse_args(argv)
    if args.images:
        print("images     processes  parts  seconds  µs an image  seconds of listing and claims  MiB")
    for images in args.images:
        for processes in args.processes:
            print(_row(images, processes, args.part_size), flush=True)
    for lines in args.manifest:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, memory = pool.apply(_manifest, (lines,))
        print(f"a table of {lines:,} lines: {seconds:.1f} s, {memory:.0f} MiB", flush=True)
    for devices in args.devices:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(_checkpoint, (devices,)), flush=True)
    return 0


def _row(images: int, processes: int, part_size: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        task = functools.partial(_work, Path(folder, "out"), images, part_size)
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            found = pool.starmap(task, [()] * processes, chunksize=1)
    seconds, claims, memory = (sum(column) for column in zip(*found, strict=True))
    parts = -(-images // part_size)
    return (
        f"{images:<10,} {processes:<10} {parts:<6} {seconds:<8.2f} {seconds / images * 1e6:<12.1f} {claims:<30.3f} "
        f"{max(one[2] for one in found):.0f}"
    ) + (f"  (together {memory:.0f})" if processes > 1 else "")


def _work(output: Path, images: int, part_size: int) -> tuple[float, float, float]:
    """Processor time, that of listing and claims, and the peak of memory in MiB."""
    import nfjax.many.work as work
    from nfjax.cli.embed import _write
    from nfjax.many.folder import Folder
    from nfjax.many.inputs import Files, Inputs
    from nfjax.support.tables import Strings

    began = _seconds()
    model = SimpleNamespace(name="nothing", num_classes=0, head_hidden_size=FEATURES)
    inputs = Inputs([Files(Strings(f"/shared/images/{index:09}.jpg" for index in range(images)))])
    job: Any = work.Job(inputs, model, None, False, 64, part_size, functools.partial(_write, False))  # type: ignore[arg-type]
    folder = Folder(output, job.parts, 120.0)
    folder.agree({"inputs": inputs.digest()})
    spent = [0.0]

    def timed(method: Any) -> Any:
        def call(*args: Any) -> Any:
            start = _seconds()
            try:
                return method(*args)
            finally:
                spent[0] += _seconds() - start

        return call

    for name in ("claim", "finished"):
        setattr(folder, name, timed(getattr(folder, name)))
    nothing = np.zeros((64, 1, 1, 3), np.float32)
    work._Computer._read = lambda self, item: nothing[0]  # type: ignore[method-assign]
    work._Computer._outputs = lambda self, images: np.zeros((64, FEATURES), np.float32)  # type: ignore[method-assign]
    work.work(job, folder)
    return _seconds() - began, spent[0], _memory()


def _manifest(lines: int) -> tuple[float, float]:
    from nfjax.many.inputs import open_file

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "table.csv")
        with table.open("w") as file:
            file.write("path,label\n")
            file.writelines(f"images/{index % 1000:03}/{index:09}.jpg,{index % 1000}\n" for index in range(lines))
        began = _seconds()
        source = open_file(table)
        source.digest()
        return _seconds() - began, _memory()


def _checkpoint(devices: int) -> str:
    import jax
    import jax.numpy as jnp

    import nfjax
    from nfjax.params import split
    from train import config
    from train.checkpoints.manager import Checkpoints
    from train.machine.mesh import make_mesh, state_shardings
    from train.optim.parameters import FSDP_AXES, assign
    from train.optim.state import State

    jax.config.update("jax_num_cpu_devices", devices)
    mesh = make_mesh(config.Mesh(fsdp=devices))
    _, params = split(nfjax.load("test_vit2", weights=None))
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = State(jnp.int32(0), params, (zeros,), dict(params), jax.random.key_data(jax.random.key(0)), ())
    state = jax.device_put(state, state_shardings(mesh, state, assign(FSDP_AXES, params)))

    def spent(act: Any) -> tuple[float, float]:
        began, clock = _seconds(), time.monotonic()
        act()
        return _seconds() - began, time.monotonic() - clock

    def save(step: int) -> None:
        checkpoints.save(dataclasses.replace(state, step=jnp.int32(step)), {})
        checkpoints.wait()

    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder), config.Checkpoint()) as checkpoints:
        checkpoints.restore(state, print)
        save(1)  # what is done once
        saved = min(spent(functools.partial(save, step)) for step in (2, 3, 4))
        restored = min(spent(lambda: checkpoints.restore(state, print)) for _ in range(3))
        files = [file for file in Path(folder, "checkpoints", "4").rglob("*") if file.is_file()]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    return (
        f"a checkpoint of {size:.1f} MB on {devices} devices: saved in {saved[0]:.2f} s of the processor "
        f"({saved[1]:.2f} s), restored in {restored[0]:.2f} ({restored[1]:.2f}), {len(files)} files"
    )


def _seconds() -> float:
    spent = os.times()
    return spent.user + spent.system


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

"""What a run is about to do, in a dozen lines at its start."""

import io
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from port.text import one_line, plural
from train.config import Config
from train.experiment import Experiment
from train.machine.mesh import bytes_per_device
from train.optim.lora import ADAPTER
from train.optim.parameters import BESIDE


def overview(
    experiment: Experiment,
    workdir: Path,
    *,
    start: int = 0,
    width: int | None = None,
) -> str:
    """A table of the devices, the model and the work, as plain text.

    Args:
        start: steps that were done before.
        width: columns of text; the terminal's unless given, at most 100.
    """
    config, state, mesh = experiment.config, experiment.state_shapes, experiment.mesh
    steps, per_epoch, shape = experiment.learning_rate.total_steps, experiment.steps_per_epoch, experiment.image_shape
    counts = {path: int(np.prod(array.shape)) for path, array in (state.base | state.params).items()}
    beside = {path: array for path, array in state.base.items() if path.startswith(BESIDE)}
    counts = {path: count for path, count in counts.items() if path not in beside}
    still = sum(count for path, count in counts.items() if experiment.treatments[path].frozen)
    epochs, parameters = steps / per_epoch, sum(counts.values())
    warmup = config.schedule.warmup_epochs
    rising = f", all of them within schedule.warmup_epochs={warmup:g}" if warmup >= steps / per_epoch else ""
    trained = f" ({_count(sum(counts.values()) - still)} trained, {_count(still)} frozen)" if still else ""
    own = {path: array for path, array in state.base.items() if path not in beside}
    kept = {
        "parameters": (own, state.params),
        "teacher": beside,
        "optimiser": state.opt_state,
        "moving average": state.ema,
    }
    rows = {
        "work folder": f"{workdir}, " + (f"continued at step {start:,}" if start else "a new run"),
        "model": f"{config.model.name}, {_count(parameters)} {plural(parameters, 'parameter')}{trained}",
        "images": f"{config.data.name}, {'x'.join(map(str, shape))}, computed in {config.model.dtype}",
        "devices": _devices(mesh),
        "batch": _batch(config, mesh.size),
        "length": f"{steps:,} {plural(steps, 'step')}, {epochs:.4g} {plural(epochs, 'epoch')} of {per_epoch}{rising}",
        "kept on a device": ", ".join(
            f"{name} {_bytes(size)}" for name, v in kept.items() if (size := bytes_per_device(v))
        ),
    }
    rows |= {"adapters": _adapters(config, counts)} if config.lora.rank else {}
    rows |= {"teacher": _teacher(experiment)} if experiment.teacher is not None else {}
    rows |= {"not used": "; ".join(experiment.dataset.notes)} if experiment.dataset.notes else {}
    return _table(rows, width)


def costs(experiment: Experiment, compiled: jax.stages.Compiled, *, width: int | None = None) -> str:
    """A table of the memory and the FLOPs of the compiled train step, as far as the backend tells."""
    return _table(_costs(compiled, experiment.config, experiment.mesh.size), width)


def _teacher(experiment: Experiment) -> str:
    teacher, distill = experiment.teacher, experiment.config.distill
    assert teacher is not None
    count = sum(int(np.prod(value.shape)) for value in teacher.params.values())
    seen = teacher.seen.size or experiment.image_shape[:2]
    return (
        f"{distill.teacher}, {_count(count)} parameters, {seen[0]}x{seen[1]} in {jnp.dtype(teacher.dtype).name}: "
        f"{distill.task_weight:g} x labels + {distill.weight:g} x {distill.kind}"
    )


def _adapters(config: Config, counts: dict[str, int]) -> str:
    own = [count for path, count in counts.items() if ADAPTER.fullmatch(path)]
    lora = config.lora
    return f"rank {lora.rank}, alpha {lora.alpha:g}, on {len(own) // 2} kernels: {_count(sum(own))} parameters"


def _devices(mesh: jax.sharding.Mesh) -> str:
    processes = len({device.process_index for device in mesh.devices.flat})
    kinds = sorted({device.device_kind for device in mesh.devices.flat})
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    among = f" of {processes} processes" if processes > 1 else ""
    return f"{mesh.size} x {' and '.join(kinds)}{among}; mesh {axes}"


def _batch(config: Config, devices: int) -> str:
    images, parts = config.data.batch_size, config.grad_accum_steps
    text = f"{images:,} {plural(images, 'image')}"
    if devices > 1:
        text += f", {images / devices:g} a device"
    if parts > 1:
        text += f", in {parts} parts of {images / devices / parts:g}" + (" a device" if devices > 1 else "")
    return text


def _costs(compiled: jax.stages.Compiled, config: Config, devices: int) -> dict[str, str]:
    """Memory of a device in a step, and FLOPs, as far as the backend tells."""
    rows = {}
    memory: Any = compiled.memory_analysis()
    if memory is not None:
        arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
        # What is donated is argument and output at once.
        fresh, temporary = outputs - memory.alias_size_in_bytes, memory.temp_size_in_bytes
        peak = arguments + fresh + temporary  # not peak_memory_in_bytes, which leaves temporaries out on CPU
        rows["memory of a step"] = (
            f"peak {_bytes(peak)} a device: arguments {_bytes(arguments)}, temporary {_bytes(temporary)}, "
            f"outputs {_bytes(fresh)} beside what is donated"
        )
    flops = (compiled.cost_analysis() or {}).get("flops", 0.0)
    if flops > 0:
        # XLA counts one device's share, and the body of a loop once: one part of an accumulated batch.
        whole = flops * devices * config.grad_accum_steps
        rows["FLOPs of a step"] = f"{_flops(whole)}, {_flops(whole / config.data.batch_size)} an image, by XLA's count"
    return rows


def _table(rows: dict[str, str], width: int | None) -> str:
    width = width or min(shutil.get_terminal_size((100, 24)).columns, 100)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, one_line(text))
    console = Console(file=io.StringIO(), width=width, color_system=None, markup=False, emoji=False, highlight=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number:,}"


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} GiB"


def _flops(number: float) -> str:
    for unit in ("MFLOP", "GFLOP", "TFLOP"):
        number /= 1e3 if unit != "MFLOP" else 1e6
        if number < 1000:
            return f"{number:.4g} {unit}"
    return f"{number / 1e3:.4g} PFLOP"

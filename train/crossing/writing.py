"""A checkpoint of a run as one that timm's train.py continues with `--resume FILE` (needs torch)."""

import argparse
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import port
from nfjax.params import named_params
from nfjax.weights.names import from_config
from port.atomic import replaced, replacing
from train.checkpoints.description import Description
from train.checkpoints.files import load_arrays, read_description, require_steps
from train.cli.configs import load_config
from train.config import Config
from train.crossing.order import timm_groups, torch_order
from train.crossing.table import (
    COUNT,
    FIELDS,
    ROUTE,
    ROWS,
    SLOW_COUNT,
    leaf,
    optimizer_options,
    options,
    own_settings,
    require_counterpart,
)
from train.optim.optimizer import base_lr
from train.optim.schedules import make_schedule


def run(folder: Path, out: Path, step: int | None = None) -> int:
    """Write the file, and say what continues it; the exit status of the command.

    Raises:
        ImportError: torch is not installed.
        ValueError: the run has what timm has no counterpart of, or was not at the end of an epoch.
        OSError: there is no such run or checkpoint, it is damaged, or the file cannot be written.
    """
    try:
        import torch  # before the work
    except ImportError as error:
        raise ImportError(f"writing {out} needs torch, whose format it is: pip install torch.") from error
    if not (folder / "checkpoints").is_dir():
        run = next((f for f in folder.absolute().parents if (f / "checkpoints").is_dir()), None)
        hint = f" Give the run, {run}." if run else ""
        raise FileNotFoundError(f"{folder} is no work folder of a run: it has no checkpoints.{hint}")
    config = load_config(str(folder))
    require_counterpart(config)
    known = require_steps(folder, [] if step is None else [step])
    step = known[-1] if step is None else step
    described = read_description(folder, step)
    per_epoch = math.ceil(described.meta["data"]["images"] / config.data.batch_size)
    if step % per_epoch:
        whole = [str(other) for other in known if other % per_epoch == 0]
        raise ValueError(
            f"{folder}: the checkpoint of step {step} is in the middle of an epoch, of {per_epoch} steps, and timm "
            f"goes on at the beginning of one. At the end of one there is {', '.join(whole) or 'none'}: --step N."
        )
    again = replaced(out)
    content = checkpoint(config, described, load_arrays(folder, step), per_epoch)
    with replacing(out) as partial:
        torch.save(_of_torch(content), partial)
    average = ", with its moving average" if "state_dict_ema" in content else ""
    done = f"after epoch {content['epoch'] + 1} (step {step})"
    print(f"{out}{again}: {content['arch']} {done}, {config.optim.name}{average}")
    print(f"continue it with: {_command(content['args'], out)}")
    return 0


def checkpoint(
    config: Config, described: Description, arrays: Mapping[str, np.ndarray], per_epoch: int
) -> dict[str, Any]:
    """What timm's `CheckpointSaver` writes, of numpy arrays.

    Args:
        config: of the run.
        described: of the checkpoint.
        arrays: all of it, by name.
        per_epoch: steps of an epoch.
    """
    if config.data.multi_label:
        raise ValueError(
            "several labels an image (data.multi_label) do not go on in timm's train.py; it can load the final."
        )
    if config.distill.teacher is not None:
        raise ValueError("timm's train.py does not continue a run with a teacher; what it can load is the run's final.")
    if config.lora.rank:
        raise ValueError("timm's train.py has no adapters (lora.rank); what it can load is the run's final.")
    paths = {
        kind: {n.removeprefix(kind): a for n, a in arrays.items() if n.startswith(kind)} for kind in ("params/", "ema/")
    }
    params, average = paths["params/"], paths["ema/"]
    meta = described.meta["model"]
    source = from_config(meta, Path(), meta["architecture"])
    model = source.entry.build(source.data, **source.model_args)
    order = torch_order(model)
    if sorted(order) != sorted(params) or sorted(order) != sorted(named_params(model)):
        raise ValueError(
            f"the checkpoint of step {described.step} is not of a {meta['architecture']} as nfjax has it now."
        )
    args = _model_options(config, meta) | optimizer_options(config) | options(config)
    args["model_ema"] = bool(average)
    content: dict[str, Any] = {
        "epoch": described.step // per_epoch - 1,
        "arch": meta["architecture"],
        "version": 2,
        "args": argparse.Namespace(**args),
        "state_dict": port.to_timm({path: params[path] for path in order}),
        "optimizer": _optimizer(config, order, arrays, described.step, per_epoch),
    }
    if average:
        content["state_dict_ema"] = port.to_timm({path: average[path] for path in order})
    if "top1" in described.metrics:
        content["metric"] = 100 * described.metrics["top1"]
    return content


def _optimizer(
    config: Config, order: Sequence[str], arrays: Mapping[str, np.ndarray], step: int, per_epoch: int
) -> Any:
    """`state_dict()` of torch's optimiser."""
    optim = config.optim
    row, groups = ROWS[optim.name], timm_groups(optim, order)
    state: dict[str, dict[str, Any]] = {path: {} for path in order}
    count = next((int(array) for name, array in arrays.items() if leaf(name)[0] == "count"), step)
    for name, array in arrays.items():
        field, path = leaf(name)
        if field in FIELDS and not (field == "slow" and count < optim.lookahead_steps):
            key = FIELDS[field]
            (state[path][key],) = port.to_timm({path: array * row.sign if key == "momentum_buffer" else array}).values()
    counted = np.array(count, np.float32)
    for values in state.values():
        if "ns_steps" in row.fixed:
            values[ROUTE] = "momentum_buffer" in values
        if row.count == "parameter" and not values.get(ROUTE):
            values[COUNT] = counted
    peak = base_lr(optim, config.data.batch_size)
    schedule = make_schedule(config.schedule, lr=peak, epochs=config.epochs, steps_per_epoch=per_epoch)
    with jax.enable_x64(True):
        rate = float(schedule(jnp.int32(step)))
    rows: list[dict[str, Any]] = []
    start = 0
    for group in groups:
        scale = {} if group.lr_scale is None else {"lr_scale": group.lr_scale}
        rates = {"lr": rate * (group.lr_scale or 1.0), "initial_lr": peak, "weight_decay": group.weight_decay} | scale
        counts = ({COUNT: count} if row.count == "group" else {}) | ({SLOW_COUNT: count} if optim.lookahead else {})
        indices = list(range(start, start + len(group.paths)))
        rows.append({**rates, **own_settings(optim), **row.fixed, **row.other, **counts, "params": indices})
        start += len(group.paths)
    position = {path: index for index, path in enumerate(path for group in groups for path in group.paths)}
    return {"state": {position[path]: values for path, values in state.items() if values}, "param_groups": rows}


def _model_options(config: Config, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's train.py must be told to make the same model, for batches of the same images."""
    images = {name: meta["pretrained_cfg"][name] for name in ("input_size", "mean", "std")}
    batch = {
        "batch_size": config.data.batch_size // config.grad_accum_steps,
        "grad_accum_steps": config.grad_accum_steps,
    }
    model = {"model": meta["architecture"], "num_classes": meta["num_classes"]}
    model["model_kwargs"] = meta.get("model_args", {})
    return model | images | batch | {"bce_loss": config.loss.name == "bce"}


def _command(args: argparse.Namespace, out: Path) -> str:
    """timm's train.py with these options."""
    words = ["train.py", "DATA", "--resume", str(out)]
    for name, value in vars(args).items():
        if isinstance(value, dict):
            values = [f"{key}={one}" for key, one in value.items()]
        else:
            values = [_text(one) for one in (value if isinstance(value, list | tuple) else [value])]
        if value is True or (values and value is not False):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else values)]
    return shlex.join(words)


def _text(value: Any) -> str:
    """A number as argparse takes it, whether it wants a whole one or not."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _of_torch(content: Any) -> Any:
    """Arrays as tensors, which own their numbers."""
    import torch

    if isinstance(content, np.ndarray):
        return torch.from_numpy(np.array(content, order="C"))
    if isinstance(content, dict):
        return {key: _of_torch(value) for key, value in content.items()}
    return [_of_torch(value) for value in content] if isinstance(content, list) else content

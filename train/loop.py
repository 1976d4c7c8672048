"""The training loop: what happens between a config and a finished run."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import nfjax
from nfjax.params import merge, split
from train import data as pipeline
from train.checkpoint import Checkpoints, claim
from train.config import Config
from train.optim import optimizer, schedule
from train.step import (
    Normalize,
    State,
    batch_sharding,
    data_mesh,
    init_state,
    make_eval_step,
    make_train_step,
)


@dataclasses.dataclass(frozen=True)
class Result:
    """Test accuracies in [0, 1], and how many steps led to them."""

    top1: float
    top5: float
    steps: int
    workdir: Path

    def __str__(self) -> str:
        return f"top1={self.top1:.4f} top5={self.top5:.4f} steps={self.steps} workdir={self.workdir}"


def run(config: Config, workdir: Path) -> Result:
    """Train, or continue the run that `workdir` holds, and save the model in `workdir/final`.

    `workdir` receives config.json, metrics.jsonl, checkpoints/, and final/ as `nfjax.save` writes it.
    """
    mesh = data_mesh()
    if config.data.batch_size % mesh.size:
        raise ValueError(f"data.batch_size={config.data.batch_size} does not divide over {mesh.size} devices.")
    claim(workdir, dataclasses.asdict(config))
    dataset = pipeline.load(config.data)
    model = _build(config, dataset)
    graphdef, params = split(model)
    per_epoch = math.ceil(len(dataset.train) / config.data.batch_size)
    steps = config.epochs * per_epoch
    learning_rate = schedule(config.optim, steps, per_epoch)
    tx = optimizer(config.optim, learning_rate)
    normalize = Normalize(dataset.mean, dataset.std)
    train_step = make_train_step(
        graphdef, tx, normalize, mesh, seed=config.seed, label_smoothing=config.optim.label_smoothing
    )
    eval_step = make_eval_step(graphdef, normalize, mesh)

    def evaluate(state: State) -> dict[str, float]:
        sums = [
            jax.device_get(eval_step(state.params, jax.device_put(batch, batch_sharding(mesh))))
            for batch in pipeline.test_batches(dataset.test, config.data.batch_size)
        ]
        total = {key: float(np.sum([s[key] for s in sums])) for key in sums[0]}
        return {f"test_{key}": total[key] / total["count"] for key in ("top1", "top5", "loss")}

    with Checkpoints(workdir) as checkpoints, _progress() as progress:
        state = init_state(params, tx, mesh)
        restored = checkpoints.restore(state)
        if restored is not None:
            state = restored
            progress.console.print(f"continuing {workdir} at step {int(state.step)} of {steps}")
        start = int(state.step)
        metrics = Metrics(workdir / "metrics.jsonl", start)
        batches = pipeline.train_batches(dataset.train, config.data, config.seed, start)
        task = progress.add_task("training", total=steps, completed=start, note="")
        for step in range(start + 1, steps + 1):
            state, scalars = train_step(state, jax.device_put(next(batches), batch_sharding(mesh)))
            progress.advance(task)
            if step % config.log_steps == 0 or step == steps:
                line = {key: float(value) for key, value in scalars.items()}
                metrics.write(step, line | {"lr": float(learning_rate(step - 1))})
                progress.update(task, note=f"loss {line['loss']:.3f}")
            if step % (config.eval_epochs * per_epoch) == 0 and step != steps:
                metrics.write(step, evaluate(state))
            if step % (config.checkpoint_epochs * per_epoch) == 0 or step == steps:
                checkpoints.save(state)
        final = evaluate(state)
        metrics.write(steps, final)
    nfjax.save(merge(graphdef, state.params), workdir / "final")
    return Result(final["test_top1"], final["test_top5"], steps, workdir)


def _build(config: Config, dataset: pipeline.Dataset) -> nfjax.ImageModel:
    chans = dataset.train.images.shape[-1]
    model = nfjax.load(
        config.model.name,
        weights=config.model.weights,
        num_classes=dataset.num_classes,
        in_chans=chans,
        img_size=config.data.image_size,
        drop_rate=config.model.drop_rate,
        drop_path_rate=config.model.drop_path_rate,
        dtype=config.model.dtype,
        seed=config.seed,
    )
    # The trained weights belong to these images, not to those that the architecture was published with.
    model.data_config = dataclasses.replace(
        model.data_config,
        tag=config.data.name,
        hf_hub_id=None,
        mean=dataset.mean,
        std=dataset.std,
        test_input_size=None,
        test_crop_pct=None,
        crop_pct=1.0,
        pool_size=None,
    )
    return model


class Metrics:
    """A JSON object per line: the step, and what was measured after it. Lines after `start` are dropped first."""

    def __init__(self, path: Path, start: int):
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= start]
        path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, step: int, values: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step} | values) + "\n")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip

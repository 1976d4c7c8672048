"""Averages of a run's checkpoints, as folders that timm and nfjax load.

What is averaged are the weights to evaluate, in float64: moving averages where the run has them.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import nfjax
import port
from port.atomic import replaced
from train.checkpoints.description import DamagedError
from train.checkpoints.files import best_first, load_weights, read_description, require_steps, steps
from train.cli.configs import load_config


def run(folder: Path, out: Path, **which: Any) -> int:
    """Average the checkpoints that `choose` finds, and say which they were; the exit status of the command."""
    chosen = choose(folder, **which)
    again = replaced(out / "model.safetensors")
    save(folder, average(folder, chosen), chosen[-1], out)
    said = f"the average of the checkpoints of steps {_list(chosen)}"
    if len(chosen) == 1:
        said = f"the checkpoint of step {chosen[0]}; an average of one is a copy"
    print(f"{out}{again}: {said}")
    return 0


def choose(
    run: Path, *, last: int | None = None, best: int | None = None, steps: Sequence[int] | None = None
) -> list[int]:
    """The steps of the checkpoints that are meant, ascending; of all if nothing is given.

    Raises:
        FileNotFoundError: this is not a run, or there is no checkpoint of such a step.
        ValueError: there are fewer than asked for.
    """
    known = require_steps(run, steps or ())
    if steps is not None:
        return sorted(set(steps))
    if best is not None:
        metric = _metric(run)
        known = best_first({step: read_description(run, step).metrics for step in known}, metric)
        kind = f"with {metric}, by which this run ranks them"
    else:
        known = known[::-1]
        kind = "in it"
    count = next((number for number in (last, best) if number is not None), len(known))
    if not 0 < count <= len(known):
        raise ValueError(
            f"asked for {count} checkpoints, but {run} has {len(known)} {kind}: {_list(sorted(known)) or 'none'}. Runs "
            "keep as many as checkpoint.keep_last and checkpoint.keep_best say."
        )
    return sorted(known[:count])


def scores(run: Path) -> dict[int, dict[str, float]]:
    """What evaluations of the checkpoints found, by step; nothing of those that are damaged."""
    found = {}
    for step in steps(run):
        with contextlib.suppress(DamagedError):
            found[step] = read_description(run, step).metrics
    return found


def average(run: Path, steps: Sequence[int]) -> dict[str, np.ndarray]:
    """The mean of the weights to evaluate, `{parameter path: array}`, summed in float64, in their own dtype."""
    total: dict[str, np.ndarray] = {}
    for step in steps:
        weights = load_weights(run, step)
        if total and total.keys() != weights.keys():
            raise ValueError(f"{run}: the checkpoints of steps {_list(steps)} are not of the same model.")
        total = {path: total.get(path, 0.0) + array.astype(np.float64) for path, array in weights.items()}
    return {path: (array / len(steps)).astype(weights[path].dtype) for path, array in total.items()}


def run_weights(run: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """The weights to evaluate of a run's newest good checkpoint, or of a step's, by timm name: for `nfjax.load`."""
    return port.to_timm(load_weights(run, step))


def save(run: Path, weights: dict[str, np.ndarray], step: int, out: Path) -> None:
    """Write weights, by parameter path, as `nfjax.save` does; the checkpoint of `step` knows the architecture."""
    dtype = next(iter(weights.values())).dtype
    with architecture(run, [step]) as folder, jax.enable_x64(dtype == np.float64):
        nfjax.save(nfjax.load(folder, weights=port.to_timm(weights), dtype=dtype), out)


@contextlib.contextmanager
def architecture(run: Path, known: Sequence[int]) -> Iterator[Path]:
    """A folder with the config.json of a run's model, and no weights.

    The training loop puts it into checkpoints; the first good one of the steps `known` is asked.
    """
    for step in known:
        with contextlib.suppress(DamagedError, KeyError):
            text = json.dumps(read_description(run, step).meta["model"])
            break
    else:
        raise ValueError(f"no checkpoint in {run} says which architecture it is of.")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(text)
        yield Path(folder)


def _metric(run: Path) -> str:
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, so it is not known what is best; use --last or --steps.")
    return load_config(str(path)).checkpoint.metric


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))

"""Average checkpoints of a run into one model, and write it as a folder that timm and nfjax load.

    python -m train.average RUN                      all the checkpoints that there are
    python -m train.average RUN --best 3 --out DIR   those with the best checkpoint.metric
    python -m train.average RUN --steps 1000 2000

What is averaged are the weights to evaluate, in float64: moving averages where the run has them.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import nfjax
import port
from train.checkpoints.files import best_first, describe, load_weights, require_steps


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.average", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the --workdir of the run")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, metavar="N", help="the newest N")
    which.add_argument("--best", type=int, metavar="N", help="the best N")
    which.add_argument("--steps", type=int, nargs="+", metavar="STEP", help="these")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write; by default RUN/average")
    args = parser.parse_args(argv)
    out = args.out or args.run / "average"
    try:
        chosen = choose(args.run, last=args.last, best=args.best, steps=args.steps)
        save(args.run, average(args.run, chosen), chosen[-1], out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{out}: the average of the checkpoints of steps {', '.join(map(str, chosen))}")
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
        known = best_first({step: describe(run, step).metrics for step in known}, metric)
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


def average(run: Path, steps: Sequence[int]) -> dict[str, np.ndarray]:
    """The mean of the weights to evaluate, `{parameter path: array}`, summed in float64, in their own dtype."""
    total: dict[str, np.ndarray] = {}
    for step in steps:
        weights = load_weights(run, step)
        if total and total.keys() != weights.keys():
            raise ValueError(f"{run}: the checkpoints of steps {_list(steps)} are not of the same model.")
        total = {path: total.get(path, 0.0) + array.astype(np.float64) for path, array in weights.items()}
    return {path: (array / len(steps)).astype(weights[path].dtype) for path, array in total.items()}


def run_weights(run: Path) -> dict[str, np.ndarray]:
    """The weights to evaluate of a run's newest good checkpoint, by timm name: what `nfjax.load(weights=)` takes."""
    return port.to_timm(load_weights(run))


def save(run: Path, weights: dict[str, np.ndarray], step: int, out: Path) -> None:
    """Write weights of a run as `nfjax.save` does.

    Args:
        run: the workdir.
        weights: by parameter path.
        step: of the checkpoint that knows the architecture.
        out: the folder.
    """
    dtype = next(iter(weights.values())).dtype
    with tempfile.TemporaryDirectory() as folder, jax.enable_x64(dtype == np.float64):
        (Path(folder) / "config.json").write_text(json.dumps(_architecture(run, step)))
        nfjax.save(nfjax.load(f"local-dir:{folder}", weights=port.to_timm(weights), dtype=dtype), out)


def _architecture(run: Path, step: int) -> dict[str, Any]:
    """config.json of the model, as `nfjax.saving.hub_config` makes it; the training loop puts it into checkpoints."""
    config: dict[str, Any] | None = describe(run, step).meta.get("model")
    if config is None:
        raise ValueError(f"the checkpoint of step {step} in {run} does not say which architecture it is of.")
    return config


def _metric(run: Path) -> str:
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, so it is not known what is best; use --last or --steps.")
    return str(json.loads(path.read_text())["checkpoint"]["metric"])


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))

"""A run that begins with the whole state of another one: to go on longer, or in another way."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from port.atomic import replacing
from port.paths import user_path
from train.checkpoints.files import require_steps
from train.checkpoints.manager import restored
from train.machine.processes import by_first_process, from_first_process
from train.optim.state import State

FILE = "branched.json"  # in the work folder of the new run


def branched(place: str, first: State, like: State, workdir: Path) -> tuple[State, str]:
    """The state that a run begins with, and a line that says what was taken; `FILE` says so in the work folder.

    Weights, optimiser, moving average and the number of steps are the other run's. The random key and what a plateau
    remembers are those of a new run.

    Args:
        place: the work folder of a run, for its newest checkpoint, or RUN/checkpoints/STEP.
        first: the new run's state before its first step.
        like: its shapes and shardings.
        workdir: of the new run.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is of another model or optimiser; names the differences.
        OSError: it is damaged, or cannot be read.
    """
    run, step = user_path(place), None
    if run.parent.name == "checkpoints" and run.name.isdecimal():
        run, step = run.parent.parent, int(run.name)
    known = require_steps(run, [] if step is None else [step])
    (step,) = from_first_process([known[-1] if step is None else step])
    nothing: Any = ()
    wanted = dataclasses.replace(like, key=nothing, plateau=nothing)
    state, meta = restored(run, step, wanted, only=("step", "params", "opt_state", "ema"))
    record: dict[str, Any] = {"run": str(run.absolute()), "step": step, "scores": meta.get("scores")}

    def write() -> None:
        with replacing(workdir / FILE) as partial:
            partial.write_text(json.dumps(record, indent=2) + "\n")

    by_first_process(write)
    found = dataclasses.replace(state, key=first.key, plateau=first.plateau)
    return found, f"branches from {run} after step {step}: weights, optimiser and moving average; see {FILE}"

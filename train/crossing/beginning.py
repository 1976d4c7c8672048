"""The state that a new run begins with: fresh weights, a checkpoint of timm's, or one of another run of ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from port.atomic import replacing
from port.stores import readable
from train.checkpoints.description import leaves
from train.checkpoints.files import flatten, folder_of, load_arrays, read_description, require_steps
from train.checkpoints.manager import FAULTS, require_same_run
from train.crossing.reading import resumed
from train.experiment import Experiment
from train.machine.processes import by_first_process, from_first_process, together
from train.optim.state import State

FILE = "branched.json"  # in the work folder of a run that began with another one
OWN = ("key", "plateau", "base")  # what a new run has of its own, of a whole state


def first_state(experiment: Experiment, workdir: Path, say: Callable[[str], Any]) -> State:
    """The state before the first step, as `model.resume_timm` and `model.resume_run` say; `say` hears what was taken.

    Raises:
        FileNotFoundError: there is no such file, run or checkpoint.
        ValueError: it is of another model or optimiser, or nothing would be left to do.
        OSError: it is damaged, or cannot be read.
    """
    options = experiment.config.model
    if options.resume_timm is not None:
        state, said = resumed(experiment)
    elif options.resume_run is not None:
        state, said = _branched(experiment, options.resume_run, workdir)
    else:
        return experiment.init()
    say(said)
    return state


def _branched(experiment: Experiment, place: str, workdir: Path) -> tuple[State, str]:
    """Weights, optimiser, moving average and number of steps of another run; `FILE` says so in the work folder.

    Args:
        place: the work folder of a run, for its newest checkpoint, or RUN/checkpoints/STEP.
    """

    def find() -> tuple[Path, list[int]]:
        run, wanted = readable(place), []
        if run.parent.name == "checkpoints" and run.name.isdecimal():
            run, wanted = run.parent.parent, [int(run.name)]
        return run, wanted or require_steps(run)[-1:]

    run, found = together(find, (FileNotFoundError, OSError))
    (step,) = from_first_process(found)
    together(lambda: require_steps(run, [step]), (FileNotFoundError,))  # another may see less of the folder
    total = experiment.learning_rate.total_steps
    if step >= total:
        raise ValueError(
            f"model.resume_run={place} has done {step} steps, and epochs={experiment.config.epochs} are only {total}; "
            "give more epochs, which count from the beginning of that run."
        )
    like = {name: leaf for name, leaf in flatten(experiment.state_shapes).items() if name.split("/")[0] not in OWN}
    described = together(lambda: read_description(run, step), FAULTS)
    there = {name: leaf for name, leaf in described.leaves.items() if name.split("/")[0] not in OWN}
    require_same_run(there, leaves(like), folder_of(run, step))
    arrays = together(lambda: load_arrays(run, step), FAULTS)
    first = experiment.init()
    structure, current = jax.tree.structure(first), flatten(first)
    del first
    for name, leaf in like.items():  # one by one: what was there before goes at once
        current[name] = jax.device_put(arrays.pop(name), leaf.sharding)

    def write() -> None:
        with replacing(workdir / FILE) as partial:
            partial.write_text(json.dumps({"run": place, "step": step, "scores": described.metrics}, indent=2) + "\n")

    by_first_process(write)
    state: State = jax.tree.unflatten(structure, list(current.values()))
    return state, f"branches from {place} after step {step}: its weights, optimiser and moving average; see {FILE}"

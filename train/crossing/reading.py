"""A training checkpoint of timm's train.py as a state of ours: `--config.model.resume_timm=FILE`.

All that decides the next step must be in the file and fit the config, or the file is refused: weights, the optimiser's
state and settings, the moving average, and how many epochs were done. torch is not needed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import port
from nfjax.models.options import shown
from nfjax.models.registry import MODELS
from port.errors import WeightsFileError, check_strict, listed
from port.files import read_content
from port.paths import no_weights, user_path
from port.text import counted, one_line
from port.unpickle import StandIn
from port.unwrap import kind_of, state_in
from train.checkpoints.files import flatten
from train.config import Config
from train.crossing.moments import read_moments, same
from train.crossing.order import torch_order
from train.crossing.table import FIELDS, leaf, options, require_counterpart
from train.experiment import Experiment
from train.optim.state import State

NEEDED = ("epoch", "state_dict", "optimizer")
KNOWN = {*NEEDED, "arch", "version", "args", "metric", "saver", "state_dict_ema"}
WAY_OUT = "To begin a new run with its weights alone: --config.model.weights={}."


def resumed(experiment: Experiment) -> tuple[State, str]:
    """The state that a run begins with, and a line that says what was taken.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsFileError: it is no training checkpoint of timm's, or damaged.
        ValueError: it does not fit the config, or holds what has no counterpart here.
    """
    config = experiment.config
    assert config.model.resume_timm is not None
    require_counterpart(config)
    path = user_path(config.model.resume_timm)
    if not path.is_file():
        raise no_weights(path) if not path.exists() else WeightsFileError(f"{path} is no regular file.")
    content = _content(path)
    args = getattr(content.get("args"), "state", None)
    args = args if isinstance(args, Mapping) else {}
    _require_architecture(experiment, content, args, path)

    like, order = flatten(experiment.state_shapes), torch_order(experiment.model)
    arrays = {f"params/{name}": a for name, a in _weights(experiment, content, "state_dict", path, order).items()}
    if averaged := _averaged(config, content, args, path):
        average = _weights(experiment, content, "state_dict_ema", path, order)
        arrays |= {f"ema/{name}": a for name, a in average.items()}
    moments, count = read_moments(config, content["optimizer"], args.get("opt"), order, like, str(path))
    epochs, step = _position(experiment, content, path)
    count = step if count is None else count
    counts = {"step": step} | {name: count for name in like if leaf(name)[0] == "count"}

    state = experiment.init()
    structure, current = jax.tree.structure(state), flatten(state)
    del state
    odd = []
    for name, value in (arrays | moments | counts).items():  # one by one: what was there before goes at once
        array = _cast(np.asarray(value), like[name].dtype, f"{path}: {name}")
        if array.dtype.kind not in "iub" and not np.isfinite(array).all():
            odd.append(name)
        current[name] = jax.device_put(array, like[name].sharding)
    kinds = " and ".join(dict.fromkeys(FIELDS[leaf(name)[0]] for name in moments))
    said = f"continues {path}: epoch {epochs}, {config.optim.name}{f' with {kinds}' if kinds else ''}"
    said += ", moving average" if averaged else ""
    if count != step:
        here = f"{counted(epochs, 'epoch')} of this run {'is' if epochs == 1 else 'are'} {step}"
        said += f". Its optimiser has done {count} steps, and {here}, where the schedule goes on"
    said += f". WARNING: there are numbers that are not finite in {listed(odd)}" if odd else ""
    return jax.tree.unflatten(structure, list(current.values())), said + _differences(config, args)


def _content(path: Path) -> Mapping[Any, Any]:
    """What the file holds, with all that is needed and nothing that is unknown."""
    content, _ = read_content(path)
    if not isinstance(content, Mapping) or isinstance(content, StandIn):
        raise WeightsFileError(f"{path} holds a {kind_of(content)}; expected a training checkpoint of timm's train.py.")
    absent = [key for key in NEEDED if content.get(key) is None]
    if absent:
        raise WeightsFileError(
            f"{path} is no training checkpoint of timm's train.py: it has no {', '.join(absent)}. "
            + WAY_OUT.format(path)
        )
    unknown = [key for key, value in content.items() if key not in KNOWN and value is not None]
    unknown = [key if isinstance(key, str) else kind_of(key) for key in unknown]
    if unknown:
        scaler = ", the GradScaler's of float16 training" if "amp_scaler" in unknown else ""
        raise ValueError(
            f"{path} holds the state {listed(unknown)}{scaler}, which has no counterpart here. {WAY_OUT.format(path)}"
        )
    return content


def _require_architecture(experiment: Experiment, content: Mapping[Any, Any], args: Any, path: Path) -> None:
    """By name, where the file says one: models of the same shapes may compute something else."""
    ours = experiment.model.data_config.architecture
    theirs = args.get("model", content.get("arch"))
    theirs = str(theirs).rpartition("/")[2].partition(".")[0] if isinstance(theirs, str) else ""
    if theirs in MODELS and theirs != ours:
        raise ValueError(f"{path} is of {theirs}, and the config's model is {ours}: set --config.model.name={theirs}.")


def _averaged(config: Config, content: Mapping[Any, Any], args: Any, path: Path) -> bool:
    """Whether there is a moving average, in the file as in the config."""
    averaged = content.get("state_dict_ema") is not None
    if averaged != bool(config.ema.decay):
        found = "a moving average (state_dict_ema)" if averaged else "no moving average"
        decay = shown(args.get("model_ema_decay", 0.9998)) if averaged else 0
        raise ValueError(f"{path} holds {found}, and ema.decay is {config.ema.decay}: set --config.ema.decay={decay}.")
    return averaged


def _weights(
    experiment: Experiment, content: Mapping[Any, Any], key: str, path: Path, order: Sequence[str]
) -> dict[str, np.ndarray]:
    source = f"{path}, {key}"
    state = state_in(content[key], source)
    shapes = {name: value.shape for name, value in experiment.params.items()}
    expected = port.timm_shapes({name: shapes[name] for name in order})
    what = f"{experiment.model.data_config.architecture} with {experiment.model.num_classes} classes"
    check_strict({name: a.shape for name, a in state.items()}, expected, what=what, source=source)
    if list(state) != list(expected):
        name = next(name for name, other in zip(state, expected, strict=True) if name != other)
        raise ValueError(
            f"{source}: its names are not in the order of timm's model, from {one_line(name)} on, so that it is not "
            f"known whose the optimiser's state is. {WAY_OUT.format(path)}"
        )
    return port.to_flax(state)


def _position(experiment: Experiment, content: Mapping[Any, Any], path: Path) -> tuple[int, int]:
    """How many epochs were done, and how many of our steps those are."""
    epoch, version = content["epoch"], content.get("version", 1)
    if type(epoch) is not int or epoch < 0 or type(version) is not int or version not in (1, 2):
        found = f"epoch={shown(epoch)}, version={shown(version)}"
        raise WeightsFileError(f"{path}: {found}; expected a count, and 1 or 2, as timm writes them.")
    epochs = epoch + (version > 1)  # which epoch it was; older files have the next one
    total = experiment.learning_rate.total_steps
    if epochs * experiment.steps_per_epoch >= total:
        raise ValueError(
            f"{path} has done {epochs} epochs, and the config's are {total // experiment.steps_per_epoch} in all: "
            "nothing is left to do. Set --config.epochs to what timm was given."
        )
    return epochs, epochs * experiment.steps_per_epoch


def _cast(value: np.ndarray, dtype: Any, what: str) -> np.ndarray:
    if jnp.issubdtype(dtype, jnp.floating) and not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{what} is {value.dtype}; expected floating point.")
    if value.dtype.kind not in "iu" and jnp.promote_types(value.dtype, dtype) != dtype:
        raise ValueError(
            f"{what} is {value.dtype}, more than {dtype} holds. To keep it, set --config.model.dtype=float64 and the "
            "environment variable JAX_ENABLE_X64=1."
        )
    return value.astype(dtype)


def _differences(config: Config, args: Any) -> str:
    """What of the schedule and the like timm was told otherwise; the config's is what counts."""
    ours = options(config)
    other = [
        f"{name}={shown(args[name])} and not {value!r}"
        for name, value in ours.items()
        if name in args and args[name] is not None and not same(args[name], value)
    ]
    return f". Its train.py had {listed(other, 20)}: the config's values are what counts from here on" if other else ""

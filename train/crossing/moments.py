"""The state of torch's optimiser as ours: whose it is, that its settings are the config's, and how far it is."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import port
from nfjax.models.options import shown
from port.errors import WeightsFileError, check_strict, listed
from port.text import one_line
from port.unwrap import is_array, kind_of, state_in
from train.config import Config, Optim
from train.crossing.order import Group, timm_groups
from train.crossing.table import COUNT, FIELDS, FREE, ROUTE, ROWS, SLOW_COUNT, leaf, own_settings, timm_name
from train.optim.optimizer import base_lr

CLOSE = 1e-6  # of settings: they may have been computed in another order
# The fields that settings are of, where they have another name.
NAMES = {
    "initial_lr": "lr",
    "lr_scale": "layer_decay",
    "lookahead_alpha": "lookahead",
    "lookahead_k": "lookahead_steps",
}
ALIASES = {"nesterov": "sgd", "lookahead_nesterov": "lookahead_sgd"}  # timm has two names for one optimiser


def read_moments(
    config: Config, found: Any, opt: Any, order: Sequence[str], like: Mapping[str, Any], source: str
) -> tuple[dict[str, np.ndarray], int | None]:
    """The optimiser's arrays by their names in our state, and how many steps it has done, where it counts them.

    Args:
        found: `state_dict()` of the optimiser, as the file has it.
        opt: what timm's train.py was told to take; None if that is not known.
        order: paths of the parameters, in torch's order.
        like: shapes of our whole state by name.
        source: the file, for messages.

    Raises:
        WeightsFileError: it is no such thing.
        ValueError: it is of another optimiser or other settings, or has a state that ours has not.
    """
    groups, states = _parts(found, source)
    _require_optimizer(config.optim, groups, opt, source)
    expected = timm_groups(config.optim, order)
    sizes, planned = [len(group["params"]) for group in groups], [len(group.paths) for group in expected]
    if sizes != planned:
        raise ValueError(
            f"{source}: the optimiser's groups have {listed(map(str, sizes))} parameters, those of the config "
            f"{listed(map(str, planned))}: it was made with another optim.layer_decay than {config.optim.layer_decay}, "
            f"another optim.weight_decay than {config.optim.weight_decay}, or another model."
        )
    pairs = list(zip(groups, expected, strict=True))
    if wrong := list(dict.fromkeys(said for pair in pairs for said in _wrong_settings(config, *pair))):
        raise ValueError(
            f"{source} was made with {listed(wrong)}. Give the config the same, or begin a new run with the weights "
            f"alone: --config.model.weights={source}."
        )
    owner = {path: index for group, own in pairs for index, path in zip(group["params"], own.paths, strict=True)}
    state = {path: states.get(owner[path], {}) for path in order}
    counting = any(leaf(target)[0] == "count" for target in like)
    count = _count(config.optim, groups, state, source) if counting else None
    if config.optim.lookahead and (count or 0) < config.optim.lookahead_steps:  # there are no slow weights yet
        like = {target: value for target, value in like.items() if leaf(target)[0] != "slow"}
    return _arrays(config.optim.name, state, like, source), count


def _parts(found: Any, source: str) -> tuple[list[Any], dict[int, dict[str, Any]]]:
    """The groups and the state of each parameter; what is None is left out."""
    parts: Mapping[Any, Any] = found if isinstance(found, Mapping) else {}
    groups, states = parts.get("param_groups", []), parts.get("state", [])
    well = isinstance(groups, list) and bool(groups) and isinstance(states, Mapping)
    well = well and all(isinstance(g, Mapping) and isinstance(g.get("params"), list) for g in groups)
    well = well and all(type(key) is int and isinstance(value, Mapping) for key, value in states.items())
    indices = [index for group in groups for index in group["params"]] if well else []
    if not well or not all(type(index) is int for index in indices) or len(set(indices)) < len(indices):
        raise WeightsFileError(f"{source}: its optimizer is not the state of one of torch's.")
    return groups, {key: {k: v for k, v in value.items() if v is not None} for key, value in states.items()}


def _require_optimizer(optim: Optim, groups: Sequence[Any], opt: Any, source: str) -> None:
    known, name = isinstance(opt, str), timm_name(optim)
    marks = (*ROWS[optim.name].marks, *((SLOW_COUNT,) if optim.lookahead else ()))
    marked = all(mark in group for mark in marks for group in groups)
    if ALIASES.get(opt.lower(), opt.lower()) != name if known else not marked:
        theirs = f"of {one_line(opt)[:40]}" if known else f"none of {name}"
        ours = f"optim.name is {optim.name}{f', with optim.lookahead={optim.lookahead}' if optim.lookahead else ''}"
        raise ValueError(f"{source}: the optimiser's state is {theirs}, and {ours}.")


def _wrong_settings(config: Config, group: Mapping[Any, Any], expected: Group) -> Iterator[str]:
    """What of a group is not as the config has it."""
    row, own = ROWS[config.optim.name], own_settings(config.optim)
    scale, rate = (
        (1.0 if expected.lr_scale is None else expected.lr_scale),
        base_lr(config.optim, config.data.batch_size),
    )
    found = {"lr_scale": 1.0, **group}
    wanted = {"lr_scale": scale, "weight_decay": expected.weight_decay, **own}
    if "initial_lr" in group:  # a schedule was at work: lr is what it has come to
        wanted["initial_lr"] = rate
    elif config.schedule.name == "constant":
        wanted["lr"] = rate * scale
    for key, value in found.items():
        if key in wanted and not same(value, wanted[key]):
            yield f"{key}={shown(value)} and not {wanted[key]} (optim.{NAMES.get(key, key)})"
        fixed = key in row.fixed and same(value, row.fixed[key])
        if not (fixed or key in FREE or key in own or key in row.other):
            named = one_line(key)[:40] if isinstance(key, str) else kind_of(key)
            yield f"{named}={shown(value)}, which {config.optim.name} here has not"


def same(found: Any, expected: Any) -> bool:
    """Whether a setting is as expected; numbers nearly, as they may have been computed in another order."""
    if isinstance(expected, tuple):
        rows = isinstance(found, tuple | list) and len(found) == len(expected)
        return rows and all(map(same, found, expected))
    if isinstance(expected, bool | str | None) or not isinstance(found, int | float) or isinstance(found, bool):
        return type(found) is type(expected) and bool(found == expected)
    return abs(found - expected) <= CLOSE * abs(expected)


def _arrays(name: str, state: Mapping[str, Any], like: Mapping[str, Any], source: str) -> dict[str, np.ndarray]:
    """What torch remembers of each parameter, in our layout; all of it has a place, and every place is filled."""
    wanted: dict[str, dict[str, str]] = {}  # our name of it, by torch's and the parameter
    for target in like:
        field, path = leaf(target)
        if field in FIELDS:
            wanted.setdefault(FIELDS[field], {})[path] = target
    strangers = {
        key if isinstance(key, str) else kind_of(key)
        for path, values in state.items()
        for key in values
        if key not in (COUNT, ROUTE) and path not in wanted.get(key, {})
    }
    if strangers:
        raise ValueError(f"{source}: the optimiser's {listed(sorted(strangers))} has no counterpart in {name} here.")
    arrays: dict[str, np.ndarray] = {}
    for key, targets in wanted.items():
        shapes = {path: port.timm_shapes({path: like[target].shape}) for path, target in targets.items()}
        names = {path: next(iter(shape)) for path, shape in shapes.items()}
        if absent := [names[path] for path in targets if key not in state[path]]:
            raise ValueError(f"{source}: its optimiser has no {key} of {listed(absent)}.")
        tensors = state_in({names[path]: state[path][key] for path in targets}, f"{source}, {key}")
        expected = {n: shape for both in shapes.values() for n, shape in both.items()}
        found = {n: array.shape for n, array in tensors.items()}
        check_strict(found, expected, what="the model", source=f"{source}, {key}")
        negative = key == "momentum_buffer" and ROWS[name].sign < 0
        arrays |= {targets[path]: -array if negative else array for path, array in port.to_flax(tensors).items()}
    return arrays


def _count(optim: Optim, groups: Sequence[Any], state: Mapping[str, Any], source: str) -> int | None:
    """The steps that the optimiser has done; None where it does not count."""
    adams = [values for values in state.values() if not values.get(ROUTE)]
    places = [(place, COUNT) for place in {"group": groups, "parameter": adams, "": []}[ROWS[optim.name].count]]
    places += [(group, SLOW_COUNT) for group in groups if optim.lookahead]
    if absent := [key for place, key in places if key not in place]:
        raise ValueError(f"{source}: its optimiser has no {absent[0]} in {len(absent)} of {len(places)} places.")
    values = {f"{key} {i}": place[key] for i, (place, key) in enumerate(places)}
    tensors = state_in(tensors, source) if (tensors := {k: v for k, v in values.items() if is_array(v)}) else {}
    counts = {array.item() if array.size == 1 else -1 for array in tensors.values()}
    counts |= {value if isinstance(value, int | float) else -1 for key, value in values.items() if key not in tensors}
    if len(counts) > 1 or not all(0 <= count < 2**31 and count == int(count) for count in counts):
        found = listed(map(shown, sorted(counts, key=str)))
        raise ValueError(f"{source}: its optimiser has done {found} steps; expected one number, the same everywhere.")
    return int(counts.pop()) if counts else None

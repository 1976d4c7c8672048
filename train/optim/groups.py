"""What the optimiser does to each parameter: how fast it learns, how much it decays, whether it moves at all."""

import difflib
import re
from collections.abc import Collection
from typing import NamedTuple

from train.config import Group, Optim
from train.optim.rules import LAYERS, WEIGHT_DECAY, assign


class Treatment(NamedTuple):
    """How one parameter is optimised.

    Attributes:
        lr_scale: factor on the learning rate of the run.
        weight_decay: strength of its decay.
        frozen: it stays as it is.
    """

    lr_scale: float
    weight_decay: float
    frozen: bool


def treatments(optim: Optim, paths: Collection[str]) -> dict[str, Treatment]:
    """The treatment of every parameter of a network.

    Args:
        optim: of the run.
        paths: of all its parameters, frozen ones too: layers are counted over them.

    Raises:
        ValueError: for a parameter without a row in a table or with several, for a pattern that matches no parameter or
            is no regular expression, and when every parameter is frozen.
    """
    layer = layers(paths)
    decays = assign(WEIGHT_DECAY[optim.decay_rule], paths)
    groups = _groups(optim.groups, paths)
    frozen = {path for pattern in optim.freeze for path in _matching(pattern, paths, "optim.freeze")}
    last, ratio = max(layer.values()), 1.0 if optim.layer_decay is None else optim.layer_decay
    result = {}
    for path in paths:
        group = groups[path]
        decay = optim.weight_decay if decays[path] else 0.0
        result[path] = Treatment(
            ratio ** (last - layer[path]) * group.lr_scale,
            decay if group.weight_decay is None else group.weight_decay,
            group.frozen or path in frozen,
        )
    if all(treatment.frozen for treatment in result.values()):
        raise ValueError("optim.freeze and optim.groups freeze every parameter; leave at least one to be trained.")
    return result


def layers(paths: Collection[str]) -> dict[str, int]:
    """The layer of every parameter, from 0 (timm `param_groups_layer_decay`)."""
    parts = assign(LAYERS, paths)
    blocks = sorted({_block(path) for path in paths if parts[path] == "block"})
    number = {block: i for i, block in enumerate(blocks, start=1)}
    ends = {"stem": 0, "last block": len(blocks), "head": len(blocks) + 1}
    return {path: number[_block(path)] if part == "block" else ends[part] for path, part in parts.items()}


def _block(path: str) -> tuple[int, ...]:
    """`(stage, block)` or `(block,)`: the numbers right behind the first name."""
    match = re.match(r"\w+((/\d+)*)/", path)
    assert match
    return tuple(int(number) for number in match[1].split("/")[1:])


def _groups(groups: Collection[Group], paths: Collection[str]) -> dict[str, Group]:
    if not groups:
        return dict.fromkeys(paths, Group(".*"))
    for group in groups:
        _matching(group.pattern, paths, "optim.groups")
    table = {group.pattern: group for group in groups}
    if len(table) < len(groups):
        raise ValueError(f"optim.groups has a pattern twice: {', '.join(group.pattern for group in groups)}.")
    try:
        return assign(table, paths)
    except ValueError as error:
        raise ValueError(f"optim.groups: {error}") from None


def _matching(pattern: str, paths: Collection[str], field: str) -> list[str]:
    try:
        matched = [path for path in paths if re.fullmatch(pattern, path)]
    except re.error as error:
        raise ValueError(f"{field}: {pattern!r} is not a regular expression: {error}.") from None
    if not matched:
        close = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.0)
        raise ValueError(
            f"{field}: {pattern!r} matches no parameter; patterns match whole paths, such as {', '.join(close)}."
        )
    return matched

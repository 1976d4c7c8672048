"""The weights in a checkpoint: under which key, behind which prefix. What was taken is said, and nothing is guessed.

A trainer keeps the weights in a mapping beside the optimiser's state, often twice, once averaged; and their names begin
with those of the objects around the model: `module.` of DistributedDataParallel, `_orig_mod.` of torch.compile,
`model.` of a LightningModule. Two tables here say which.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from port.errors import WAY_OUT, WeightsError, WeightsFileError, listed
from port.messages import option
from port.text import counted, one_line
from port.unpickle import Global, StandIn

logger = logging.getLogger("nfjax")

State = dict[str, np.ndarray]

# Keys that weights are under, one inside of another too. The averaged ones come first, as in timm.
WRAPPERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher",
    "state_dict", "model_state_dict", "model", "net", "student", "module",
)  # fmt: skip
# What a prefix of all names is made of.
PARTS = ("module", "_orig_mod", "model", "backbone", "encoder", "net")
DEPTH = 3  # of wrappers inside of each other


class Taken(NamedTuple):
    """A part of a checkpoint.

    Attributes:
        arrays: its entries, by name without prefix.
        key: where it was, as `weights_key` has it; empty for the whole.
        prefix: what all names began with.
        others: where there is something of the kind, too.
        left: names beside those that the key asks for.
    """

    arrays: dict[str, Any]
    key: str
    prefix: str
    others: tuple[str, ...]
    left: tuple[str, ...] = ()

    def said(self) -> str:
        """What a user should know of it; nothing if the whole was taken as it is."""
        words = [f"taken from {self.key!r}"] if self.key else []
        words += [f"without the prefix {self.prefix!r} of all names"] if self.prefix else []
        words += [f"(also there: {listed(map(repr, self.others))})"] if self.others and self.key else []
        words += [f"({counted(len(self.left), 'array')} left out: {listed(self.left)})"] if self.left else []
        return " ".join(words)


def take(content: Any, source: str, weights_key: str | None = None) -> Taken:
    """The weights in a checkpoint or any mapping; no number of them is looked at.

    Args:
        content: a mapping from names to arrays, or a checkpoint that has one under `WRAPPERS`.
        source: where it came from, for messages.
        weights_key: what is taken instead: keys, of one mapping in another, with dots between them, and then the
            beginning of names: "state_dict", "teacher.backbone". What does not begin so is left out, and said.

    Raises:
        WeightsFileError: there are none, or something among them is no array.
    """
    if isinstance(content, StandIn) and not content:
        raise WeightsFileError(f"{source} holds a {one_line(content.name)[:100]}; expected a state dict. {WAY_OUT}")
    if not isinstance(content, Mapping) or not content:
        found = f"an empty {type(content).__name__}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise WeightsFileError(f"{source} holds {found}; expected a state dict of arrays. {WAY_OUT}")
    places = _places(content)
    default = places[0] if places else ()
    found, path, start = (
        (_at(content, default), default, "") if weights_key is None else _asked(content, default, weights_key)
    )
    if weights_key is not None and not found:
        there = listed(map(repr, _keys(content, default)))
        raise WeightsFileError(
            f"{source} has nothing under {option('weights_key', repr(weights_key))}; there are {there}."
        )
    arrays = {name[len(start) :]: found[name] for name in found if _begins(name, start)} if start else dict(found)
    left = tuple(name for name in found if start and not _begins(name, start))
    _require_arrays(arrays, source, [] if places else _elsewhere(content))
    prefix = common_prefix(arrays)
    others = tuple(".".join(place) for place in places if place != path)
    key = ".".join([*path, *([start[:-1]] if start else [])])
    return Taken({name[len(prefix) :]: arrays[name] for name in arrays}, key, prefix, others, left)


def state_in(content: Any, source: str, weights_key: str | None = None) -> State:
    """What `take` takes, as numpy arrays, and one line of the log where that needs to be said.

    Arrays of numpy, jax or torch are taken, these of any dtype, with or without gradients.

    Raises:
        WeightsFileError: as `take`; and tensors of which no array can be made.
    """
    taken = take(content, source, weights_key)
    arrays = taken.arrays
    refused = [f"{name} ({why})" for name, value in arrays.items() if (why := refusal(value))]
    if refused:
        raise WeightsFileError(
            f"{source}: tensors that cannot be read: {listed(refused)}. Store plain ones, in float32 or bfloat16."
        )
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:  # checksums of files
        state = dict(zip(arrays, pool.map(_to_numpy, arrays.values()), strict=True))
    if said := taken.said():
        logger.warning(f"{source}: {said}.")
    return state


def common_prefix(names: Iterable[str]) -> str:
    """The longest prefix made of `PARTS` that all names have."""
    names, prefix = list(names), ""
    while part := next((p for p in PARTS if names and all(name.startswith(f"{prefix}{p}.") for name in names)), ""):
        prefix += f"{part}."
    return prefix


def require_one_kind(names: Iterable[str], source: str) -> None:
    """A WeightsError where some names have one of those prefixes and others have not: which are meant is no guess."""
    names = list(names)
    for part in PARTS:
        inside = [name for name in names if name.startswith(f"{part}.")]
        if inside:
            outside = [name for name in names if not name.startswith(f"{part}.")]
            raise WeightsError(
                f"{source}: some names begin with '{part}.' ({len(inside)}: {listed(inside, 2)}) and others do not "
                f"({len(outside)}: {listed(outside, 4)}); {option('weights_key', repr(part))} takes the former alone."
            )


def refusal(array: Any) -> str:
    """What a tensor is that no array can be made of, of torch or in a file."""
    if not hasattr(array, "detach"):
        return str(getattr(array, "refusal", ""))
    import torch

    from port.tensors import DTYPES

    if array.is_meta:
        return "on the meta device, without numbers"
    if array.is_nested or array.layout != torch.strided:
        return "nested" if array.is_nested else f"of layout {array.layout}"
    if array.is_conj() or array.is_neg():
        return "a view of conjugate or negated numbers"
    return "" if str(array.dtype) in DTYPES else f"of {array.dtype}"


def _to_numpy(array: Any) -> np.ndarray:
    if not hasattr(array, "detach"):
        return np.asarray(array)
    import torch

    from port.tensors import DTYPES

    tensor = array.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # numpy itself has no such dtype
        return tensor.contiguous().view(torch.int16).numpy().view(DTYPES["torch.bfloat16"])
    return tensor.numpy()


def is_array(value: Any) -> bool:
    kind = type(value)  # an object may have any attributes of its own
    return hasattr(kind, "__array__") and (hasattr(kind, "dtype"))


def _require_arrays(arrays: Mapping[Any, Any], source: str, elsewhere: list[str]) -> None:
    # They are not shown: a tuple of tuples that hold each other many times is short in a file, and endless as text.
    unnamed = [
        name.name if isinstance(name, StandIn) else type(name).__name__ for name in arrays if not isinstance(name, str)
    ]
    if unnamed:
        raise WeightsFileError(f"{source}: names that are not text, but {listed(unnamed)}. {WAY_OUT}")
    strangers = [f"{name} ({kind_of(value)})" for name, value in arrays.items() if not is_array(value)]
    if strangers:
        hint = (
            f" Arrays are under {listed(map(repr, elsewhere))}: {option('weights_key', repr(elsewhere[0]))}."
            if elsewhere
            else ""
        )
        raise WeightsFileError(
            f"{source}: entries that are not arrays: {listed(strangers)}. Expected a state dict, or a checkpoint with "
            f"one under {', '.join(WRAPPERS)}.{hint} {WAY_OUT}"
        )


def kind_of(value: Any) -> str:
    """The class of a value, or what it would have been of."""
    return value.name if isinstance(value, StandIn | Global) else type(value).__name__


def _has_arrays(value: Any) -> bool:
    return isinstance(value, Mapping) and any(map(is_array, value.values()))


def _places(content: Mapping[Any, Any], depth: int = DEPTH) -> list[tuple[str, ...]]:
    """Where weights are, in the order of `WRAPPERS`; only where there are none, the mapping itself."""
    inside = [
        (key, *rest)
        for key in WRAPPERS
        if depth and isinstance(content.get(key), Mapping)
        for rest in _places(content[key], depth - 1)
    ]
    return inside or ([()] if _has_arrays(content) else [])


def _elsewhere(content: Mapping[Any, Any]) -> list[str]:
    """Keys that are none of `WRAPPERS`, and have arrays by names under them."""
    return [
        key for key, value in content.items() if isinstance(key, str) and _has_arrays(value) and all(
            isinstance(name, str) for name in value)
    ]  # fmt: skip


def _at(content: Any, path: Iterable[str]) -> Any:
    for key in path:
        content = content[key]
    return content


def _keys(content: Mapping[Any, Any], default: tuple[str, ...]) -> list[str]:
    """What `weights_key` may be: keys of mappings, and first parts of names where weights are."""
    keys = [key for key, value in content.items() if isinstance(key, str) and isinstance(value, Mapping)]
    names = [name for name in _at(content, default) if isinstance(name, str) and "." in name]
    return list(dict.fromkeys([*keys, *(name.partition(".")[0] for name in names)]))


def _asked(content: Mapping[Any, Any], default: tuple[str, ...], key: str) -> tuple[Any, tuple[str, ...], str]:
    """The mapping that a key leads to, the keys on the way, and what names in it must begin with."""
    found: Any = content
    path: list[str] = []
    rest = key
    while rest:
        parts = rest.split(".")
        begins = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        step = next((begin for begin in begins if isinstance(found.get(begin), Mapping)), None)
        if step is None:
            break
        found, rest = found[step], rest[len(step) + 1 :]
        path.append(step)
    inner = (_places(found) or [()])[0] if path else default
    found, path = _at(found, inner), [*path, *inner]
    start = f"{rest}." if rest else ""
    if start and not any(_begins(name, start) for name in found):
        return {}, (), ""
    return found, tuple(path), start


def _begins(name: Any, start: str) -> bool:
    return isinstance(name, str) and name.startswith(start)

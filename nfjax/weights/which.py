"""Which architecture weights are of, by the names and shapes of their arrays, up to classes, channels and size."""

import dataclasses
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

import port
from nfjax.models.registry import MODELS, Entry
from nfjax.params import named_params
from nfjax.weights.names import ResolvedModel, resolve
from nfjax.weights.planning import LoadOptions, make_plan, rows
from nfjax.weights.sources import Read, read
from port.errors import Shape, listed
from port.stores import readable
from port.unwrap import require_one_kind

logger = logging.getLogger("nfjax")

MOST = 4  # architectures that are built to find the nearest one


@dataclasses.dataclass(frozen=True)
class Fit:
    """An architecture that weights are of, and the options of `load` with which they fit as they are."""

    name: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        own = MODELS[self.name].data[0]
        usual = {"num_classes": own.num_classes, "in_chans": own.input_size[0], "img_size": own.input_size[1:]}
        return ", ".join([self.name, *(f"{o}={v}" for o, v in self.options.items() if usual[o] != v)])


def sizes_of(name: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `load` that make model `name` fit the weights: input channels, classes and image size."""
    source = resolve(name)
    entry, data = source.entry, source.data
    axes = {"in_chans": (data.first_conv, 1), "num_classes": (data.classifier, 0)}
    sizes: dict[str, Any] = {option: rows(state, f"{layer}.weight", axis) for option, (layer, axis) in axes.items()}
    sizes["in_chans"] = sizes["in_chans"] and sizes["in_chans"] // entry.family.first_pixels(entry.config)
    sizes["img_size"] = entry.family.weights_size(entry.config, [data.input_size[1:]], state)
    return {option: size for option, size in sizes.items() if size is not None}


def fitting(state: Mapping[str, Any]) -> list[Fit]:
    """All architectures whose parameters are exactly these, in the order of the registry; shapes alone are looked at.

    Where several are the same network for different image sizes, the one of the weights' own size comes first.
    """
    found = _shapes(state)
    likely = [name for name, entry in MODELS.items() if _is_like(entry, state)]
    fits = [fit for name in likely if (fit := _fit(name, state)) is not None and _expected(fit, state) == found]
    own = {fit.name: MODELS[fit.name].data[0].input_size[1:] for fit in fits}
    return sorted(fits, key=lambda fit: fit.options.get("img_size") not in (None, own[fit.name]))


def the_one(state: Mapping[str, Any], source: str) -> Fit:
    """The architecture that weights are of, if it is one network.

    Raises:
        WeightsError: none is, which names the nearest; or several are, which compute different functions.
    """
    require_one_kind(state, source)
    fits = fitting(state)
    if not fits:
        raise port.WeightsError(f"{source}: {nearest(state)}")
    if any(MODELS[fit.name].config != MODELS[fits[0].name].config for fit in fits):
        raise port.WeightsError(
            f"{source} fits {listed([fit.name for fit in fits])}, which have the same parameters and compute different "
            "functions: name the one that it is."
        )
    return fits[0]


def nearest(state: Mapping[str, Any]) -> str:
    """A sentence on the architecture that differs least, where none fits."""
    found, depths = _shapes(state), _depths(state)
    compared = []
    for name in sorted(MODELS, key=lambda name: _distance(MODELS[name], state, depths))[:MOST]:
        fit = _fit(name, state)
        expected = {} if fit is None else _expected(fit, state)
        missing, unexpected = len(expected.keys() - found.keys()), len(found.keys() - expected.keys())
        odd = sum(found[n] != shape for n, shape in expected.items() if n in found)
        if expected and missing < len(expected):
            compared.append((missing + unexpected + odd, name, missing, unexpected, odd))
    if not compared:
        return "no architecture of nfjax has arrays of these names; `python -m port inspect` lists them."
    _, name, missing, unexpected, odd = min(compared)
    return (
        f"the weights are of no architecture of nfjax. The nearest is {name}, with {missing} arrays missing, "
        f"{unexpected} unexpected and {odd} of another shape."
    )


def unnamed(
    asked: LoadOptions, weights: Any, weights_key: str | None, layout: str | None
) -> tuple[str, LoadOptions, Read]:
    """What `load(None, weights)` loads: the name, the options with the sizes of the weights, and these.

    Raises:
        ValueError: `weights` is neither a path nor a mapping.
        WeightsError: as `the_one`.
    """
    if not isinstance(weights, str | os.PathLike | Mapping) or str(weights) == "pretrained":
        raise ValueError("no name was given: then the weights say which model it is, weights=FILE or a mapping.")
    found = read(weights if isinstance(weights, Mapping) else readable(weights), None, weights_key, layout)
    fit = the_one(found.state or {}, found.origin)
    beside = not isinstance(weights, Mapping) and (readable(weights) / "config.json").is_file()
    hint = f" Its config.json is passed over; nfjax.load({str(weights)!r}) follows it." if beside else ""
    logger.warning(f"{found.origin}: loaded as {fit}.{hint}")
    sizes = {option: size for option, size in fit.options.items() if getattr(asked, option) is None}
    return fit.name, dataclasses.replace(asked, **sizes), found


def _shapes(state: Mapping[str, Any]) -> dict[str, Shape]:
    return {name: tuple(np.shape(array)) for name, array in state.items()}


def _fit(name: str, state: Mapping[str, Any]) -> Fit | None:
    """The architecture with the sizes of the weights; None where they have such as it cannot have."""
    try:
        fit = Fit(name, {"num_classes": 0} | sizes_of(name, state))
        _plan(fit, state)
    except (ValueError, TypeError):  # what it says of this one model would not help
        return None
    return fit


def _plan(fit: Fit, state: Mapping[str, Any]) -> Any:
    entry = MODELS[fit.name]
    return make_plan(ResolvedModel(entry, entry.data[0], {}, None), LoadOptions(**fit.options), state)


def _expected(fit: Fit, state: Mapping[str, Any]) -> dict[str, Shape]:
    model = _plan(fit, state).build()
    return port.timm_shapes({path: var.get_value().shape for path, var in named_params(model).items()})


# Building a model takes a tenth of a second, as shapes too: only those are that may fit.


def _depths(names: Mapping[str, Any]) -> tuple[int, ...]:
    """How many blocks there are in each stage, or in a transformer's only one."""
    blocks = {match.groups() for name in names if (match := re.match(r"(?:stages\.(\d+)|blocks)\.(\d+)\.", name))}
    return tuple(sorted(Counter(stage for stage, _ in blocks).values()))


def _own_depths(entry: Entry) -> tuple[int, ...]:
    return tuple(sorted(getattr(entry.config, "depths", None) or (entry.config.depth,)))


def _is_like(entry: Entry, state: Mapping[str, Any]) -> bool:
    width = getattr(entry.config, "embed_dim", None)
    return _own_depths(entry) == _depths(state) and width in (None, _width(entry, state))


def _distance(entry: Entry, state: Mapping[str, Any], depths: tuple[int, ...]) -> tuple[int, int, int]:
    """How far the blocks and the width are from those of the weights: in the kind of network first."""
    own = _own_depths(entry)
    width = getattr(entry.config, "embed_dim", 0)
    apart = sum(abs(a - b) for a, b in zip(own, depths, strict=False))
    return abs(len(own) - len(depths)), apart, abs(width - (_width(entry, state) or 0))


def _width(entry: Entry, state: Mapping[str, Any]) -> int | None:
    """Channels of the tokens that the weights make of an image, if they have the layer for it."""
    return rows(state, f"{entry.data[0].first_conv}.weight", 0)

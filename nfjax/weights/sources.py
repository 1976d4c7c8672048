"""Where `nfjax.load` takes weights from: the hub, a file, a folder or memory."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import port
from nfjax.models import registry
from nfjax.weights.names import Name, ResolvedModel
from port import messages
from port.files import CHECKSUM, read_with_metadata
from port.layouts import Layout, flat, read_as
from port.paths import is_remote, require_path
from port.stores import readable
from port.text import cut, one_line
from port.unwrap import state_in

Weights = str | os.PathLike[str] | Mapping[str, Any] | None


class Read(NamedTuple):
    """Weights that were read: timm's state dict, or None for fresh ones, a word for where it came from, and the layout
    that it was read from, if that is not timm's."""

    state: Mapping[str, Any] | None
    origin: str
    layout: Layout | None = None


def place_of(
    weights: Weights | Read, source: ResolvedModel, name: Name
) -> str | Path | Mapping[str, Any] | Read | None:
    """Where `load` takes the weights from: a hub id, a file or folder, a mapping, or nowhere."""
    if weights is None or isinstance(weights, Mapping | Read):
        return weights
    if not isinstance(weights, str | os.PathLike):
        raise ValueError(
            f"weights={cut(one_line(repr(weights)), 80)}; expected 'pretrained', None, the path of a file or folder, "
            "or a mapping from names to arrays." + (" Pass its state_dict()." if hasattr(weights, "state_dict") else "")
        )
    if str(weights).lower() == "none" and not readable(weights).exists():
        raise ValueError(f"weights={weights!r} is text; fresh weights are weights=None.")
    if weights != "pretrained":
        return readable(weights) if is_remote(weights) else require_path(weights)
    if source.location is None:
        others = [d.name for d in source.entry.data if d.hf_hub_id] or registry.list_models(
            f"*{source.data.architecture.split('_')[-1]}*", pretrained=True
        )
        hint = f" Published relatives: {', '.join(others[:4])}." if others else ""
        raise ValueError(
            f"no weights were published for {name}; {messages.option('weights', None)} is a fresh model, and "
            f"{messages.option('weights', 'FILE')} takes those of a file.{hint}"
        )
    return source.location


def read(place: Any, source: ResolvedModel | None, weights_key: str | None, layout: str | None) -> Read:
    """The weights at a place that `place_of` returns; `source` is None where they say which model it is."""
    if isinstance(place, Read):
        return place
    if place is None:
        if weights_key is not None:
            raise ValueError(f"weights_key={weights_key!r} chooses among the weights of a file, and there is none.")
        if layout is not None:
            raise ValueError(f"layout={layout!r} says whose names weights have, and there are none.")
        return Read(None, "")
    found, origin = _found(place, source, weights_key)
    state, known = read_as(found, layout, origin)
    return Read(state, origin if known is None else f"{origin} (read as: {known.title})", known)


def _found(place: Any, source: ResolvedModel | None, weights_key: str | None) -> tuple[Mapping[str, Any], str]:
    """The arrays by the names that they have, and a word for where they came from."""
    if isinstance(place, Mapping):
        return state_in(flat(place), "the given mapping", weights_key), "the given mapping"
    if isinstance(place, Path):
        state, metadata = read_with_metadata(place, weights_key)
        if source and place == source.location and source.checksum not in (None, metadata.get(CHECKSUM)):
            raise port.WeightsError(
                f"{place}: its weights are not those that its config.json was saved with, as where saving was "
                f"interrupted. Save it again; if they do belong together, take {CHECKSUM!r} out of config.json."
            )
        return state, str(place)
    from port import hub  # here: it takes 60 ms to import

    path = hub.fetch_weights(place)
    return read_with_metadata(path, weights_key)[0], f"{place} ({path.name})"

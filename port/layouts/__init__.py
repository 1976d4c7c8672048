"""Weights as other libraries name and lay them out: small tables between their names and timm's.

`recognise` tells by its names which layout a state dict is of; each layout takes it to timm's names and back. Nothing
is known here but names and arrays: no model, no file, no library.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from port import messages
from port.errors import LINES, WeightsError, listed
from port.layouts import big_vision, configs, deepmind, dinov2, dinov3
from port.layouts.table import Misfit, State, convert

TIMM = "timm"
WRAPPED = "timm_model."  # before each name of timm's model inside transformers' TimmWrapper


@dataclasses.dataclass(frozen=True)
class Layout:
    """One layout.

    Attributes:
        name: the value of `layout=` that asks for it.
        title: whose it is, for people.
        marks: patterns of names; a state dict is of this layout where each is the beginning of a name.
        read: the state dict under timm's names; raises `port.WeightsError` naming every array that does not fit.
        write: the inverse. `heads` is the number of attention heads, which some layouts have an axis for.
        options: for weights of timm's names: those of a model that computes what the layout's own library does, where
            timm's of that name computes something else.
    """

    name: str
    title: str
    marks: tuple[str, ...]
    read: Callable[[State], dict[str, Any]]
    write: Callable[[State, int | None], dict[str, Any]]
    options: Callable[[State], Mapping[str, Any]] = lambda state: {}

    def to_timm(self, state: State) -> dict[str, Any]:
        """`{timm name: array}`; arrays are views where their numbers stay as they are."""
        return self.read(state)

    def from_timm(self, state: State, *, heads: int | None = None) -> dict[str, Any]:
        """The exact inverse: `to_timm(from_timm(state))` is the state dict, byte for byte."""
        return self.write(state, heads)

    def fits(self, state: State) -> bool:
        patterns = list(map(re.compile, self.marks))
        return all(any(pattern.match(name) for name in state) for pattern in patterns)


def _gated(state: State) -> bool:
    """Whether the MLP of timm's state dict has twice as many outputs as inputs inside."""
    shapes = [np.shape(state.get(f"blocks.0.mlp.{name}.weight", ())) for name in ("fc1", "fc2")]
    return all(len(shape) == 2 for shape in shapes) and shapes[0][0] == 2 * shapes[1][1]


def _meta(prefix: str, title: str = "Meta's DINOv2", *, others: bool = False) -> Layout:
    """Behind a prefix; there may be `others` without it, which are not read."""

    def read(state: State) -> dict[str, Any]:
        own = {name: array for name, array in state.items() if not others or name.startswith(prefix)}
        return convert(own, dinov2.meta(prefix=prefix), title)

    def write(state: State, heads: int | None) -> dict[str, Any]:
        return convert(state, dinov2.meta(_gated(state), prefix), title, back=True)

    marks = (f"{re.escape(prefix)}{name}$" for name in ("register_tokens", "patch_embed\\.proj\\.weight"))
    return Layout("meta", title, tuple(marks), read, write)


def _transformers(prefix: str) -> Layout:
    title = "transformers' Dinov2WithRegisters"

    def read(state: State) -> dict[str, Any]:
        return convert(state, dinov2.transformers(prefix=prefix), title)

    def write(state: State, heads: int | None) -> dict[str, Any]:
        return convert(state, dinov2.transformers(_gated(state), prefix), title, back=True)

    # DINOv3 has registers of the same name, and no position embedding.
    marks = (f"{re.escape(prefix)}embeddings\\.{name}$" for name in ("register_tokens", "position_embeddings"))
    return Layout("transformers", title, tuple(marks), read, write)


def _read_meta3(state: State) -> dict[str, Any]:
    try:
        own = dinov3.of_meta(state)
    except Misfit as error:
        raise WeightsError(f"cannot be read as {_META3.title}: {error}.") from error
    masked = any(name.endswith(".bias_mask") for name in own)
    return convert(own, dinov3.meta(gate=any(".mlp.w1." in name for name in own), masked=masked), _META3.title)


def _write_meta3(state: State, heads: int | None) -> dict[str, Any]:
    return convert(state, dinov3.meta(gate=dinov3.gated(state), heads=heads), _META3.title, back=True)


def _read_transformers3(state: State) -> dict[str, Any]:
    rules = dinov3.transformers(gate=any(".mlp.gate_proj." in name for name in state))
    return convert(state, rules, _TRANSFORMERS3.title)


def _write_transformers3(state: State, heads: int | None) -> dict[str, Any]:
    return convert(state, dinov3.transformers(gate=dinov3.gated(state)), _TRANSFORMERS3.title, back=True)


def _read_nfnet(state: State) -> dict[str, Any]:
    by_stage, names = deepmind.by_stage(state)
    return convert(by_stage, deepmind.RULES, _NFNET, called=names)


def _read_wrapped(state: State) -> dict[str, Any]:
    strangers = [name for name in state if not name.startswith(WRAPPED)]
    if strangers:
        raise WeightsError(
            f"{len(strangers)} arrays cannot be read as transformers' TimmWrapper, where all names begin with "
            f"{WRAPPED}: {listed(strangers, LINES)}."
        )
    return {name.removeprefix(WRAPPED): array for name, array in state.items()}


def _google(is_big_vision: bool, title: str, position: str) -> Layout:
    def read(state: State) -> dict[str, Any]:
        return convert(big_vision.parameters(state), big_vision.rules(is_big_vision), title)

    def write(state: State, heads: int | None) -> dict[str, Any]:
        return convert(state, big_vision.rules(is_big_vision, heads), title, back=True)

    prefix = "(?:opt/target/|params/(?:img/)?)?"
    return Layout("big_vision", title, (f"{prefix}embedding/kernel$", f"{prefix}{position}$"), read, write)


_NFNET = "DeepMind's NFNet"
_WRAPPER = Layout(
    "transformers",
    "transformers' TimmWrapper",
    (re.escape(WRAPPED),),
    _read_wrapped,
    lambda state, heads: {WRAPPED + name: array for name, array in state.items()},
)
_META3 = Layout(
    "meta",
    "Meta's DINOv3",
    ("storage_tokens$", r"blocks\.0\.attn\.qkv\.weight$"),
    _read_meta3,
    _write_meta3,
    # The files have biases where timm has a model with and one without.
    lambda state: {"qkv_bias": "blocks.0.attn.q_bias" in state},
)
_TRANSFORMERS3 = Layout(
    "transformers",
    "transformers' DINOv3ViT",
    (r"embeddings\.register_tokens$", r"embeddings\.patch_embeddings\.weight$"),
    _read_transformers3,
    _write_transformers3,
)
# By the class that a config.json of transformers names.
OF_TRANSFORMERS = {
    configs.BACKBONE: _transformers(""),
    configs.CLASSIFIER: _transformers("dinov2_with_registers."),
    configs.BACKBONE3: _TRANSFORMERS3,
    **dict.fromkeys(configs.WRAPPERS, _WRAPPER),
}

LAYOUTS: tuple[Layout, ...] = (
    _meta(""),
    _meta("backbone."),
    _META3,
    _meta("vision_encoder.", "TIPSv2 in Meta's layout", others=True),  # beside that of texts
    *dict.fromkeys(OF_TRANSFORMERS.values()),
    Layout(
        "deepmind",
        _NFNET,
        ("NFNet/~/",),
        _read_nfnet,
        lambda state, heads: deepmind.by_number(convert(state, deepmind.RULES, _NFNET, back=True)),
        # Its code has the approximate GELU, and another guard against filters without variance.
        lambda state: {"act_layer": "gelu_tanh", "std_conv_floor": 1e-4},
    ),
    _google(True, "big_vision's ViT", "pos_embedding"),
    _google(False, "vit_jax's ViT", "Transformer/posembed_input/pos_embedding"),
)
NAMES = (TIMM, *dict.fromkeys(layout.name for layout in LAYOUTS))


def recognise(state: State) -> Layout | None:
    """The layout that the names of a state dict are of; None for timm's, and for names that nobody knows."""
    return next((layout for layout in LAYOUTS if layout.fits(state)), None)


def require_layout(name: str | None) -> None:
    """Refuse a name of a layout that there is not; None is no name.

    Raises:
        ValueError: with the closest name, or all.
    """
    if name is not None:
        messages.require_name("layout", name, NAMES)


def choose(state: State, name: str | None = None) -> Layout | None:
    """The layout to read a state dict as: what it is recognised as, or one of that name; None for timm's.

    Raises:
        ValueError: there is no layout of that name.
    """
    require_layout(name)
    if name is None:
        return recognise(state)
    own = [layout for layout in LAYOUTS if layout.name == name]
    return next((layout for layout in own if layout.fits(state)), own[0] if own else None)


def read_as(state: State, name: str | None = None, source: str = "") -> tuple[State, Layout | None]:
    """A state dict under timm's names, and the layout that it was of; None, and the state dict itself, for timm's.

    Args:
        name: the layout to read it as; None for what it is recognised as.
        source: where it came from, for the message.

    Raises:
        WeightsError: naming every array that the layout has no place for.
        ValueError: there is no layout of that name.
    """
    layout = choose(state, name)
    if layout is None:
        return state, None
    try:
        return layout.to_timm(state), layout
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}" if source else str(error)) from error


def flat(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Parameters of haiku or flax in memory, which are mappings of mappings, under the names that files have.

    What is something else is returned as it is.
    """
    joined: dict[str, Any] = {}
    rows = [("", content, 0)]
    while rows:
        prefix, inner, depth = rows.pop()
        for key, value in inner.items():
            if not isinstance(key, str) or depth > 8 or len(joined) > 100_000:
                return content
            if isinstance(value, Mapping):
                rows.append((f"{prefix}{key}/", value, depth + 1))
            else:
                joined[prefix + key] = value
    nested = joined.keys() != content.keys()
    layout = recognise(joined) if nested else None
    return joined if layout is not None and layout.name in ("deepmind", "big_vision") else content

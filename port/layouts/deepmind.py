"""DeepMind's NFNet-F (2102.06171) in haiku, as deepmind-research/nfnets names it: `NFNet/~/nf_block_3/~/conv0/w`.

haiku counts the blocks of the whole network, timm those of a stage. A stage begins with the block that has a
convolution in its shortcut.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from port.errors import WeightsError
from port.layouts.table import KERNEL, NUMBER, SAME, Form, Misfit, Rule, State, renamed, require_rank

_HAIKU = re.compile(f"(NFNet/~/nf_block)(?:_({NUMBER}))?(/.*)")
_SHORTCUT = "/~/conv_shortcut/w"


def _gain(array: Any) -> Any:
    return require_rank(array, 1)[:, None, None, None]


def _no_gain(array: Any) -> Any:
    if array.shape[1:] != (1, 1, 1):
        raise Misfit(f"shape {array.shape}, expected (channels, 1, 1, 1)")
    return array[:, 0, 0, 0]


def _as_conv(array: Any) -> Any:
    return require_rank(array, 2).T[:, :, None, None]


def _as_linear(array: Any) -> Any:
    if array.ndim != 4 or array.shape[2:] != (1, 1):
        raise Misfit(f"shape {array.shape}, expected (outputs, inputs, 1, 1)")
    return array[:, :, 0, 0].T


GAIN = Form(lambda arrays: [_gain(a) for a in arrays], lambda arrays: [_no_gain(a) for a in arrays])
# The linear layers of squeeze and excite, which timm has as convolutions of 1x1 pixels.
POINTWISE = Form(lambda arrays: [_as_conv(a) for a in arrays], lambda arrays: [_as_linear(a) for a in arrays])

_CONVS = {f"NFNet/~/stem_conv{i}": f"stem.conv{i + 1}" for i in range(4)} | {"NFNet/~/final_conv": "final_conv"}
_BLOCK = "NFNet/~/stage_{stage}_block_{i}"
_CONVS |= {
    f"{_BLOCK}/~/{theirs}": f"stages.{{stage}}.{{i}}.{timm}"
    for theirs, timm in {
        "conv_shortcut": "downsample.conv", "conv0": "conv1", "conv1": "conv2", "conv1b": "conv2b", "conv2": "conv3",
    }.items()
}  # fmt: skip
_EXCITE = {
    f"{_BLOCK}/~/squeeze_excite/~/{theirs}": f"stages.{{stage}}.{{i}}.attn_last.{timm}"
    for theirs, timm in {"linear": "fc1", "linear_1": "fc2"}.items()
}
RULES: tuple[Rule, ...] = (
    *renamed({f"{theirs}/w": f"{timm}.weight" for theirs, timm in _CONVS.items()}, KERNEL),
    *renamed({f"{theirs}/gain": f"{timm}.gain" for theirs, timm in _CONVS.items()}, GAIN),
    *renamed({f"{theirs}/bias": f"{timm}.bias" for theirs, timm in _CONVS.items()}),
    *renamed({f"{theirs}/w": f"{timm}.weight" for theirs, timm in _EXCITE.items()}, POINTWISE),
    *renamed({f"{theirs}/b": f"{timm}.bias" for theirs, timm in _EXCITE.items()}),
    *renamed({f"{_BLOCK}/skip_gain": "stages.{stage}.{i}.skipinit_gain"}, SAME),
    *renamed({"NFNet/~/linear/w": "head.fc.weight"}, KERNEL),
    *renamed({"NFNet/~/linear/b": "head.fc.bias"}),
)


def by_stage(state: State) -> tuple[dict[str, Any], dict[str, str]]:
    """The arrays with blocks named by stage, as the rules have them, and their own names by these.

    Raises:
        WeightsError: the first block has no convolution in its shortcut, with which a stage begins.
    """
    found = {name: match for name in state if (match := _HAIKU.fullmatch(name))}
    places: dict[int, tuple[int, int]] = {}
    stage, inside = -1, 0
    for index in sorted({int(match[2] or 0) for match in found.values()}):
        block = "NFNet/~/nf_block" + (f"_{index}" if index else "")
        stage, inside = (stage + 1, 0) if block + _SHORTCUT in state else (stage, inside + 1)
        places[index] = stage, inside
    if min(places.values(), default=(0, 0))[0] < 0:
        raise WeightsError(f"NFNet/~/nf_block{_SHORTCUT} is missing, with which the first stage begins.")
    names = _names(state, found, lambda m: "NFNet/~/stage_{}_block_{}".format(*places[int(m[2] or 0)]) + m[3])
    return {new: state[old] for new, old in names.items()}, names


def by_number(state: State) -> dict[str, Any]:
    """The inverse of `by_stage`."""
    pattern = re.compile(f"NFNet/~/stage_({NUMBER})_block_({NUMBER})(/.*)")
    found = {name: match for name in state if (match := pattern.fullmatch(name))}
    places = sorted({(int(match[1]), int(match[2])) for match in found.values()})
    suffix = {place: f"_{index}" if index else "" for index, place in enumerate(places)}
    names = _names(state, found, lambda m: f"NFNet/~/nf_block{suffix[int(m[1]), int(m[2])]}{m[3]}")
    return {new: state[old] for new, old in names.items()}


def _names(state: State, found: Mapping[str, re.Match[str]], name_of: Callable[[re.Match[str]], str]) -> dict[str, str]:
    """Names by what they become."""
    return {name_of(found[name]) if name in found else name: name for name in state}

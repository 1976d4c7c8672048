"""What each parameter is due: short tables by path, in which every parameter has exactly one row.

`treatments` resolves them once for a run; clipping, the optimiser, the mesh and the summary read what it found.

The unit axes and the decay of timm follow from the shape a parameter has in torch; here they are written down for
the Flax layout, where a gain is `(out,)` and a kernel ends in its output channels.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from port.messages import nearest
from train.config import Group, Optim
from train.optim.trees import by_path

# Axes over which adaptive gradient clipping takes the norm of one unit (timm `unitwise_norm`: everything but torch's
# first axis, and the whole tensor where torch has at most one axis).
UNIT_AXES: dict[str, tuple[int, ...] | None] = {
    r".*conv\w*/kernel": (0, 1, 2),  # (h, w, in, out): one unit per output channel
    r".*attn\w*/fc[12]/kernel": (0, 1, 2),  # 1x1 convolutions of squeeze-excite
    r"patch_embed/proj/kernel": (0, 1, 2),
    r"(blocks|attn_pool|embeds)/.*kernel": (0,),  # (in, out)
    r"head/(fc/)?kernel|.*/lora_[ab]|distill/.*kernel": (0,),
    r".*/gain": (),  # (out, 1, 1, 1) in torch: each gain is its own unit
    r".*/(bias|scale|skipinit_gain|gamma\w*|[qv]_bias|lambda_[qk][12])": None,  # the whole tensor
    # (1, tokens, dim) or (1, rows, columns, dim): the first axis is no unit either
    r"(.*/)?(cls_token|reg_token|pos_embed(_[yx])?|latent)": None,
}

# Which parameters decay. timm: what has more than one axis in torch, gains too. DeepMind: not the gains either.
WEIGHT_DECAY: dict[str, dict[str, bool]] = {
    "timm": {
        r".*/(kernel|gain|latent|pos_embed_[yx]|lora_[ab])": True,
        r".*/(bias|scale|skipinit_gain|gamma\w*|[qv]_bias|lambda_[qk][12])": False,
        r"(embeds/)?(cls_token|reg_token|pos_embed)": False,  # timm `no_weight_decay`
    },
    "deepmind": {
        r".*/(kernel|latent|lora_[ab])": True,
        r".*/(bias|scale|gain|skipinit_gain|gamma\w*|[qv]_bias|lambda_[qk][12])": False,
        r"(embeds/)?(cls_token|reg_token|pos_embed(_[yx])?)": False,
    },
}

# Where in the network a parameter is, for layer decay: the stem is layer 0, each block a layer of its own, what follows
# the blocks belongs to the last one, and what follows that is a layer with the classifier (timm `group_matcher`).
LAYERS: dict[str, str] = {
    r"(stem|patch_embed|embeds|norm_pre)/.*|cls_token|reg_token|pos_embed": "stem",
    r"stages/\d+/\d+/.*|blocks/\d+/.*": "block",
    r"(final_conv|norm)/.*": "last block",
    r"(fc_norm|attn_pool|head|distill)/.*": "head",
}

# Axes by which fsdp may divide a parameter; the first one that the number of devices divides is taken.
FSDP_AXES: dict[str, tuple[int, ...]] = {
    r".*(?<!qkv)(?<!/kv)(?<!in_proj)/kernel": (-1, -2),  # by output channels: a device can standardise its own part
    r".*(qkv|/kv|in_proj)/kernel": (-2, -1),  # of several layers side by side, whose output channels are split
    r".*/(bias|scale|gain|gamma\w*|[qv]_bias)": (0,),
    r".*/lora_a": (0,),
    r".*/lora_b": (-1,),
    r".*/(skipinit_gain|lambda_[qk][12])": (),
    r"(.*/)?(cls_token|reg_token|pos_embed(_[yx])?|latent)": (-1,),
}

# Where parameters begin that are no part of the model: its teacher's, and a layer between the two.
BESIDE = ("teacher/", "distill/")

# Parameters that adaptive gradient clipping leaves alone (2102.06171 section 4.1; timm).
CLASSIFIER = r"head/(fc/)?(kernel|bias)"


class Treatment(NamedTuple):
    """What one parameter is due."""

    lr_scale: float  # factor on that of the run
    weight_decay: float
    frozen: bool
    layer: int  # where it is in the network, from 0 for the stem
    unit_axes: tuple[int, ...] | None  # over which adaptive clipping takes the norm of one unit; None for all
    clipped: bool  # adaptive clipping applies to it
    fsdp_axes: tuple[int, ...]  # by which fsdp may divide it, the preferred one first


Treatments = Mapping[str, Treatment]


def treatments(optim: Optim, params: Any) -> dict[str, Treatment]:
    """The treatment of every parameter of a network.

    Args:
        optim: which says so.
        params: their paths, or a dict or an `nnx.State` of all of them, frozen ones too: layers are counted over them.

    Raises:
        ValueError: for a parameter without a row in a table or with several, for a pattern that matches no parameter or
            is no regular expression, and when every parameter is frozen.
    """
    paths: Collection[str] = by_path(params) if isinstance(params, Mapping) else params
    layer = layers(paths)
    decays = assign(WEIGHT_DECAY[optim.decay_rule], paths)
    unit_axes, fsdp_axes = assign(UNIT_AXES, paths), assign(FSDP_AXES, paths)
    groups = _groups(optim.groups, paths)
    frozen = {path for pattern in optim.freeze for path in matching(pattern, paths, "optim.freeze")}
    last, ratio = max(layer.values()), 1.0 if optim.layer_decay is None else optim.layer_decay
    result = {}
    for path in paths:
        group = groups[path]
        decay = optim.weight_decay if decays[path] else 0.0
        result[path] = Treatment(
            lr_scale=max(optim.layer_decay_min_scale, ratio ** (last - layer[path])) * group.lr_scale,
            weight_decay=decay if group.weight_decay is None else group.weight_decay,
            frozen=group.frozen or path in frozen,
            layer=layer[path],
            unit_axes=unit_axes[path],
            clipped=not re.fullmatch(CLASSIFIER, path),
            fsdp_axes=fsdp_axes[path],
        )
    if all(treatment.frozen for treatment in result.values()):
        raise ValueError("optim.freeze and optim.groups freeze every parameter; leave at least one to be trained.")
    return result


def assign(table: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """The value of the row, a regular expression, that matches the whole of a path.

    Raises:
        ValueError: naming the paths that no row or several rows match.
    """
    matches = {path: [row for row in table if re.fullmatch(row, path)] for path in paths}
    wrong = {path: rows for path, rows in matches.items() if len(rows) != 1}
    if wrong:
        lines = [f"  {path}: {' and '.join(rows) or 'no row'}" for path, rows in wrong.items()]
        raise ValueError("each parameter must match one row of the table:\n" + "\n".join(lines))
    return {path: table[rows[0]] for path, rows in matches.items()}


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
        matching(group.pattern, paths, "optim.groups")
    table = {group.pattern: group for group in groups}
    if len(table) < len(groups):
        raise ValueError(f"optim.groups has a pattern twice: {', '.join(group.pattern for group in groups)}.")
    try:
        return assign(table, paths)
    except ValueError as error:
        raise ValueError(f"optim.groups: {error}") from None


def matching(pattern: str, paths: Collection[str], field: str) -> list[str]:
    """The paths that a pattern matches as a whole; a ValueError that names the field if there are none."""
    try:
        matched = [path for path in paths if re.fullmatch(pattern, path)]
    except re.error as error:
        raise ValueError(f"{field}: {pattern!r} is not a regular expression: {error}.") from None
    if not matched:
        close = nearest(pattern, paths, n=3, cutoff=0.0)
        raise ValueError(
            f"{field}: {pattern!r} matches no parameter; patterns match whole paths, such as {', '.join(close)}."
        )
    return matched

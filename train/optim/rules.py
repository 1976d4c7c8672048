"""Rules by parameter path: short tables in which every parameter has exactly one row.

The unit axes and the decay of timm follow from the shape a parameter has in torch; here they are written down for
the Flax layout, where a gain is `(out,)` and a kernel ends in its output channels.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Axes over which adaptive gradient clipping takes the norm of one unit (timm `unitwise_norm`: everything but torch's
# first axis, and the whole tensor where torch has at most one axis).
UNIT_AXES: dict[str, tuple[int, ...] | None] = {
    r".*conv\w*/kernel": (0, 1, 2),  # (h, w, in, out): one unit per output channel
    r".*attn\w*/fc[12]/kernel": (0, 1, 2),  # 1x1 convolutions of squeeze-excite
    r"patch_embed/proj/kernel": (0, 1, 2),
    r"(blocks|attn_pool)/.*/kernel": (0,),  # (in, out)
    r"head/(fc/)?kernel": (0,),
    r".*/gain": (),  # (out, 1, 1, 1) in torch: each gain is its own unit
    r".*/(bias|scale|skipinit_gain|gamma\w*|[qv]_bias|lambda_[qk][12])": None,  # the whole tensor
    r"(.*/)?(cls_token|reg_token|pos_embed|latent)": None,  # (1, tokens, dim): its first axis is no unit either
}

# Which parameters decay. timm: what has more than one axis in torch, gains too. DeepMind: not the gains either.
WEIGHT_DECAY: dict[str, dict[str, bool]] = {
    "timm": {
        r".*/(kernel|gain|latent)": True,
        r".*/(bias|scale|skipinit_gain|gamma\w*|[qv]_bias|lambda_[qk][12])": False,
        r"cls_token|reg_token|pos_embed": False,  # timm `no_weight_decay`
    },
    "deepmind": {
        r".*/(kernel|latent)": True,
        r".*/(bias|scale|gain|skipinit_gain|gamma\w*|[qv]_bias|lambda_[qk][12])": False,
        r"cls_token|reg_token|pos_embed": False,
    },
}

# Where in the network a parameter is, for layer decay: the stem is layer 0, each block a layer of its own, what follows
# the blocks belongs to the last one, and what follows that is a layer with the classifier (timm `group_matcher`).
LAYERS: dict[str, str] = {
    r"(stem|patch_embed|norm_pre)/.*|cls_token|reg_token|pos_embed": "stem",
    r"stages/\d+/\d+/.*|blocks/\d+/.*": "block",
    r"(final_conv|norm)/.*": "last block",
    r"(fc_norm|attn_pool|head)/.*": "head",
}

# Axes by which fsdp may divide a parameter; the first one that the number of devices divides is taken.
FSDP_AXES: dict[str, tuple[int, ...]] = {
    r".*/kernel": (-1, -2),  # by output channels: then a device can standardise its own part
    r".*/(bias|scale|gain|gamma\w*|[qv]_bias)": (0,),
    r".*/(skipinit_gain|lambda_[qk][12])": (),
    r"(.*/)?(cls_token|reg_token|pos_embed|latent)": (-1,),
}

# Parameters that adaptive gradient clipping leaves alone (2102.06171 section 4.1; timm).
CLASSIFIER = r"head/(fc/)?(kernel|bias)"


def assign(table: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """The row's value of every path.

    Args:
        table: regular expressions, each matched against whole paths, and their values.
        paths: parameter paths, e.g. `stages/0/0/conv1/kernel`.

    Raises:
        ValueError: naming the paths that no row or several rows match.
    """
    matches = {path: [row for row in table if re.fullmatch(row, path)] for path in paths}
    wrong = {path: rows for path, rows in matches.items() if len(rows) != 1}
    if wrong:
        lines = [f"  {path}: {' and '.join(rows) or 'no row'}" for path, rows in wrong.items()]
        raise ValueError("each parameter must match one row of the table:\n" + "\n".join(lines))
    return {path: table[rows[0]] for path, rows in matches.items()}

"""Google's plain vision transformers in flax: vit_jax's checkpoints, and those of its successor big_vision.

Names are paths of modules, `Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel`, behind "opt/target/" or "params/" in
a checkpoint. Both name the parts of a block by a number, which is another one in each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from port.layouts.table import (
    KERNEL,
    SAME,
    Arrays,
    Form,
    Misfit,
    Rule,
    State,
    joined,
    renamed,
    require_heads,
    require_rank,
)

# Where the parameters are in a checkpoint; what else is in it belongs to the optimiser, or to a text model.
PREFIXES = ("", "opt/target/", "params/", "params/img/")
_STACKED = "Transformer/encoderblock/"  # one array for all blocks, along the first axis
_ATTENTION = ("query", "key", "value")


def heads_joined(parts: int, heads: int | None) -> Form:
    """Kernels (dim, heads, width) and biases (heads, width) of attention; `heads` is needed for the way back."""

    def flat(array: np.ndarray) -> np.ndarray:
        if require_rank(array, 2, 3).ndim == 2:
            return array.reshape(-1)
        dim, count, width = array.shape
        return array.reshape(dim, count * width).T

    def split(array: np.ndarray) -> np.ndarray:
        count = require_heads(heads)
        if array.ndim not in (1, 2) or array.shape[0] % count:
            raise Misfit(f"shape {array.shape}, expected {parts} times {count} heads")
        width = array.shape[0] // count
        return array.reshape(count, width) if array.ndim == 1 else array.T.reshape(array.shape[1], count, width)

    several = joined(parts)

    def to_timm(arrays: Arrays) -> Arrays:
        return several.to_timm([flat(a) for a in arrays])

    return Form(to_timm, lambda arrays: [split(a) for a in several.from_timm(arrays)])


def _out(heads: int | None) -> Form:
    """The kernel (heads, width, dim) after attention."""

    def merged(arrays: Arrays) -> Arrays:
        kernel = require_rank(arrays[0], 3)
        heads, width, dim = kernel.shape
        return [kernel.reshape(heads * width, dim).T]

    def split(arrays: Arrays) -> Arrays:
        kernel, count = require_rank(arrays[0], 2), require_heads(heads)
        if kernel.shape[1] % count:
            raise Misfit(f"shape {kernel.shape}, expected {count} heads")
        return [kernel.T.reshape(count, kernel.shape[1] // count, kernel.shape[0])]

    return Form(merged, split)


def rules(big_vision: bool = True, heads: int | None = None) -> tuple[Rule, ...]:
    """The names of big_vision, or of vit_jax."""
    attention, mlp, norm2 = (0, 0, 1) if big_vision else (1, 3, 2)
    position = "pos_embedding" if big_vision else "Transformer/posembed_input/pos_embedding"
    block, timm = "Transformer/encoderblock_{i}/", "blocks.{i}."
    norms = {
        "Transformer/encoder_norm/": "norm.",
        f"{block}LayerNorm_0/": f"{timm}norm1.",
        f"{block}LayerNorm_{norm2}/": f"{timm}norm2.",
        "MAPHead_0/LayerNorm_0/": "attn_pool.norm.",
    }
    linear = {"embedding/": "patch_embed.proj.", "head/": "head."}
    for i in (0, 1):
        linear[f"{block}MlpBlock_{mlp}/Dense_{i}/"] = f"{timm}mlp.fc{i + 1}."
        linear[f"MAPHead_0/MlpBlock_0/Dense_{i}/"] = f"attn_pool.mlp.fc{i + 1}."
    return (
        *renamed({"cls": "cls_token", position: "pos_embed", "MAPHead_0/probe": "attn_pool.latent"}),
        *renamed({f"{t}kernel": f"{o}weight" for t, o in linear.items()}, KERNEL),
        *renamed({f"{t}bias": f"{o}bias" for t, o in linear.items()}),
        *renamed({f"{t}scale": f"{o}weight" for t, o in norms.items()}),
        *renamed({f"{t}bias": f"{o}bias" for t, o in norms.items()}),
        *_attention(f"{block}MultiHeadDotProductAttention_{attention}/", f"{timm}attn.", {"qkv": _ATTENTION}, heads),
        *_attention(
            "MAPHead_0/MultiHeadDotProductAttention_0/", "attn_pool.", {"q": ["query"], "kv": ["key", "value"]}, heads
        ),
    )


def _attention(theirs: str, timm: str, layers: dict[str, Sequence[str]], heads: int | None) -> list[Rule]:
    found = []
    for layer, parts in layers.items():
        for leaf, own in (("kernel", "weight"), ("bias", "bias")):
            names = tuple(f"{theirs}{part}/{leaf}" for part in parts)
            found.append(Rule(names, (f"{timm}{layer}.{own}",), heads_joined(len(parts), heads)))
    found.append(Rule((f"{theirs}out/kernel",), (f"{timm}proj.weight",), _out(heads)))
    found.append(Rule((f"{theirs}out/bias",), (f"{timm}proj.bias",), SAME))
    return found


def parameters(state: State) -> dict[str, Any]:
    """The parameters in a checkpoint: without the prefix, and each block by itself."""
    prefix = next((p for p in reversed(PREFIXES) if f"{p}embedding/kernel" in state), "")
    plain: dict[str, Any] = {}
    for name, array in state.items():
        if not name.startswith(prefix):
            continue
        name = name.removeprefix(prefix)
        if name.startswith(_STACKED) and np.ndim(array):
            for i, own in enumerate(array):
                plain[f"Transformer/encoderblock_{i}/{name.removeprefix(_STACKED)}"] = own
        else:
            plain[name] = array
    return plain

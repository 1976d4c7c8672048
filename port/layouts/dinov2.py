"""DINOv2 with registers (2309.16588), as Meta publishes it, and as transformers has it.

timm's model has no entry of the position embedding for the class token: that of the other layouts is added to the class
token, which computes the same. The mask token, which only training needs, is left out. Written back, both are zero.
"""

import numpy as np

from port.layouts.table import SAME, Arrays, Form, Misfit, Rule, joined, renamed


def _fold(arrays: Arrays) -> Arrays:
    token, entries = arrays
    if token.ndim != 3 or entries.ndim != 3 or token.shape != (1, 1, entries.shape[2]) or entries.shape[1] < 2:
        raise Misfit(f"shapes {token.shape} and {entries.shape}, expected (1, 1, dim) and (1, 1 + patches, dim)")
    return token + entries[:, :1], entries[:, 1:]


def _unfold(arrays: Arrays) -> Arrays:
    token, entries = arrays
    if token.ndim != 3 or entries.ndim != 3 or token.shape != (1, 1, entries.shape[2]):
        raise Misfit(f"shapes {token.shape} and {entries.shape}, expected (1, 1, dim) and (1, patches, dim)")
    # Adding -0 changes no number, while +0 would turn a -0 into +0.
    return token, np.concatenate([-np.zeros_like(token), entries], axis=1), np.zeros_like(token[0])


_TOKENS = Form(_fold, _unfold)


def _blocks(theirs: str, names: dict[str, str]) -> dict[str, str]:
    return {f"{theirs}.{name}": f"blocks.{{i}}.{timm}" for name, timm in names.items()}


_META = {
    "norm1.{leaf}": "norm1.{leaf}",
    "attn.qkv.{leaf}": "attn.qkv.{leaf}",
    "attn.proj.{leaf}": "attn.proj.{leaf}",
    "ls1.gamma": "ls1.gamma",
    "norm2.{leaf}": "norm2.{leaf}",
    "mlp.fc1.{leaf}": "mlp.fc1.{leaf}",
    "mlp.fc2.{leaf}": "mlp.fc2.{leaf}",
    "ls2.gamma": "ls2.gamma",
}
# The gated MLP of the giant, which timm calls fc1 and fc2 as well: it has half as many outputs as inputs inside.
_META_GATED = {"mlp.w12.{leaf}": "mlp.fc1.{leaf}", "mlp.w3.{leaf}": "mlp.fc2.{leaf}"}
_META_HEAD = {"linear_head.{leaf}": "head.{leaf}"}


def meta(gated: bool = False, prefix: str = "") -> tuple[Rule, ...]:
    """Meta's names; with `gated`, the way back takes the names of the giant's MLP."""
    mlp = {name: timm for name, timm in _META.items() if name.startswith("mlp.")}
    others = {name: timm for name, timm in _META.items() if name not in mlp}
    names = others | (_META_GATED | mlp if gated else mlp | _META_GATED)
    plain = {
        "register_tokens": "reg_token",
        "patch_embed.proj.{leaf}": "patch_embed.proj.{leaf}",
        "norm.{leaf}": "norm.{leaf}",
    }
    chunked = _blocks("blocks.{chunk}.{i}", names)
    every = plain | _blocks("blocks.{i}", names) | chunked
    tokens = tuple(f"{prefix}{name}" for name in ("cls_token", "pos_embed"))
    return (
        Rule(tokens, ("cls_token", "pos_embed"), _TOKENS, (f"{prefix}mask_token",)),
        *renamed({f"{prefix}{name}": timm for name, timm in every.items()}),
        *renamed(_META_HEAD),
    )


_TRANSFORMERS = {
    "norm1.{leaf}": "norm1.{leaf}",
    "attention.output.dense.{leaf}": "attn.proj.{leaf}",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2.{leaf}": "norm2.{leaf}",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.fc1.{leaf}": "mlp.fc1.{leaf}",
    "mlp.fc2.{leaf}": "mlp.fc2.{leaf}",
    "mlp.weights_in.{leaf}": "mlp.fc1.{leaf}",
    "mlp.weights_out.{leaf}": "mlp.fc2.{leaf}",
    # What transformers 5 calls them in memory, while its files keep the names above.
    "attention.o_proj.{leaf}": "attn.proj.{leaf}",
    "mlp.down_proj.{leaf}": "mlp.fc2.{leaf}",
}
_QKV = [
    tuple(f"attention.attention.{part}.{{leaf}}" for part in ("query", "key", "value")),
    tuple(f"attention.{part}_proj.{{leaf}}" for part in "qkv"),
]
_GATE_UP = ("mlp.gate_proj.{leaf}", "mlp.up_proj.{leaf}")


def transformers(gated: bool = False, prefix: str = "dinov2_with_registers.") -> tuple[Rule, ...]:
    """transformers' names of the backbone, behind a prefix where there is a classifier beside it."""
    names = _TRANSFORMERS
    if gated:
        names = {name: timm for name, timm in names.items() if not name.startswith("mlp.fc")}
    plain = {
        "embeddings.register_tokens": "reg_token",
        "embeddings.patch_embeddings.projection.{leaf}": "patch_embed.proj.{leaf}",
        "layernorm.{leaf}": "norm.{leaf}",
    }
    layer = f"{prefix}encoder.layer.{{i}}."
    tokens = (f"{prefix}embeddings.cls_token", f"{prefix}embeddings.position_embeddings")
    return (
        Rule(tokens, ("cls_token", "pos_embed"), _TOKENS, (f"{prefix}embeddings.mask_token",)),
        *renamed({f"{prefix}{name}": timm for name, timm in plain.items()}),
        *renamed(_blocks(layer[:-1], names)),
        *(Rule(tuple(layer + n for n in qkv), ("blocks.{i}.attn.qkv.{leaf}",), joined(3)) for qkv in _QKV),
        Rule(tuple(layer + n for n in _GATE_UP), ("blocks.{i}.mlp.fc1.{leaf}",), joined(2)),
        *renamed({"classifier.{leaf}": "head.{leaf}"}, SAME),
    )

"""DINOv3 (2508.10104), as Meta publishes it, and as transformers has it.

timm's model has no bias of the keys. Meta's has a mask that makes it zero, and the periods of the positions, which are
of timm's base. The mask token and the norm of local crops, which only training needs, and the projectors of EUPE are
left out. Written back, the tokens and the bias are zero.
"""

import numpy as np

from port.layouts.table import Arrays, Form, Misfit, Rule, State, joined, renamed, require_heads

BASE = 100.0  # of the periods
_UNUSED = ("local_cls_norm.", "projectors.")


def _tokens(arrays: Arrays) -> Arrays:
    token, registers = arrays
    if token.ndim != 3 or registers.ndim != 3 or token.shape != (1, 1, registers.shape[2]) or len(registers) != 1:
        raise Misfit(f"shapes {token.shape} and {registers.shape}, expected (1, 1, dim) and (1, registers, dim)")
    return arrays


def _thirds(bias: np.ndarray) -> Arrays:
    if bias.ndim != 1 or len(bias) % 3:
        raise Misfit(f"shape {bias.shape}, expected one axis of three equal parts")
    return np.split(bias, 3)


def _without_key_bias(arrays: Arrays) -> Arrays:
    query, key, value = _thirds(arrays[0])
    if np.any(key != 0):
        raise Misfit("a bias of the keys, which timm's model does not have")
    return query, value


def _under_mask(arrays: Arrays) -> Arrays:
    query, key, value = _thirds(arrays[0])
    kept = [np.ones_like(query), np.zeros_like(key), np.ones_like(value)]
    if not np.array_equal(arrays[1], np.concatenate(kept)):
        raise Misfit("expected a mask of the keys alone")
    return query, value


def _with_mask(arrays: Arrays) -> Arrays:
    query, value = arrays
    if query.ndim != 1 or query.shape != value.shape:
        raise Misfit(f"shapes {query.shape} and {value.shape}, expected equal ones of one axis")
    ones, zeros = np.ones_like(query), np.zeros_like(query)
    return np.concatenate([query, zeros, value]), np.concatenate([ones, zeros, ones])


def periods(head_dim: int) -> np.ndarray:
    """Of a head's positions, float32."""
    bands = head_dim // 4
    return np.asarray(BASE ** (np.arange(bands) / bands), np.float32)


def _meta_tokens(heads: int | None) -> Form:
    def back(arrays: Arrays) -> Arrays:
        token, registers = _tokens(arrays)
        dim = token.shape[2]
        return token, registers, np.zeros_like(token[0]), periods(dim // require_heads(heads))

    return Form(_tokens, back)


def gated(state: State) -> bool:
    """Whether the MLP of timm's state dict has a gate."""
    return any(".mlp.fc1_g." in name for name in state)


def of_meta(state: State) -> dict[str, object]:
    """What evaluation reads of Meta's arrays.

    Raises:
        Misfit: the periods are of another base than timm's.
    """
    found = np.asarray(state.get("rope_embed.periods", periods(4)), np.float64)
    if found.ndim != 1 or not np.allclose(found, periods(4 * len(found)), rtol=0.01):  # Meta has them in bfloat16 too
        raise Misfit(f"rope_embed.periods are not those of base {BASE:g}, which timm's model has")
    return {name: array for name, array in state.items() if not name.startswith(_UNUSED)}


_BLOCK = {
    "norm1.{leaf}": "norm1.{leaf}",
    "attn.qkv.weight": "attn.qkv.weight",
    "attn.proj.{leaf}": "attn.proj.{leaf}",
    "ls1.gamma": "gamma_1",
    "norm2.{leaf}": "norm2.{leaf}",
    "mlp.fc1.{leaf}": "mlp.fc1.{leaf}",
    "mlp.fc2.{leaf}": "mlp.fc2.{leaf}",
    "ls2.gamma": "gamma_2",
}
_GATED = {"mlp.w1.{leaf}": "mlp.fc1_g.{leaf}", "mlp.w2.{leaf}": "mlp.fc1_x.{leaf}", "mlp.w3.{leaf}": "mlp.fc2.{leaf}"}
_BIASES = ("blocks.{i}.attn.q_bias", "blocks.{i}.attn.v_bias")


def meta(*, gate: bool, masked: bool = True, heads: int | None = None) -> tuple[Rule, ...]:
    """Meta's names; with a gate those of its MLP, and with a mask beside the biases."""
    bias = "blocks.{i}.attn.qkv.bias"
    names = {theirs: timm for theirs, timm in _BLOCK.items() if not (gate and theirs.startswith("mlp."))}
    names |= _GATED if gate else {}
    same = ("patch_embed.proj.{leaf}", "norm.{leaf}")
    return (
        Rule(
            ("cls_token", "storage_tokens"),
            ("cls_token", "reg_token"),
            _meta_tokens(heads),
            ("mask_token", "rope_embed.periods"),
        ),
        Rule((bias, f"{bias}_mask"), _BIASES, Form(_under_mask, _with_mask))
        if masked
        else Rule((bias,), _BIASES, Form(_without_key_bias, _with_mask)),
        *renamed({name: name for name in same}),
        *renamed({f"blocks.{{i}}.{theirs}": f"blocks.{{i}}.{timm}" for theirs, timm in names.items()}),
    )


_LAYER = {
    "norm1.{leaf}": "norm1.{leaf}",
    "attention.q_proj.bias": "attn.q_bias",
    "attention.v_proj.bias": "attn.v_bias",
    "attention.o_proj.{leaf}": "attn.proj.{leaf}",
    "layer_scale1.lambda1": "gamma_1",
    "norm2.{leaf}": "norm2.{leaf}",
    "mlp.down_proj.{leaf}": "mlp.fc2.{leaf}",
    "layer_scale2.lambda1": "gamma_2",
}
_PLAIN_MLP = {"mlp.up_proj.{leaf}": "mlp.fc1.{leaf}"}
_GATED_MLP = {"mlp.gate_proj.{leaf}": "mlp.fc1_g.{leaf}", "mlp.up_proj.{leaf}": "mlp.fc1_x.{leaf}"}


def _layer_rules(layer: str, names: dict[str, str]) -> tuple[Rule, ...]:
    qkv = tuple(f"{layer}attention.{part}_proj.weight" for part in "qkv")
    return (
        Rule(qkv, ("blocks.{i}.attn.qkv.weight",), joined(3)),
        *renamed({f"{layer}{theirs}": f"blocks.{{i}}.{timm}" for theirs, timm in names.items()}),
    )


def transformers(*, gate: bool) -> tuple[Rule, ...]:
    """transformers' names in files, and those in memory."""
    names = _LAYER | (_GATED_MLP if gate else _PLAIN_MLP)
    tokens = Form(_tokens, lambda arrays: [*_tokens(arrays), np.zeros_like(arrays[0])])
    theirs = ("embeddings.cls_token", "embeddings.register_tokens")
    return (
        Rule(theirs, ("cls_token", "reg_token"), tokens, ("embeddings.mask_token",)),
        *renamed({"embeddings.patch_embeddings.{leaf}": "patch_embed.proj.{leaf}", "norm.{leaf}": "norm.{leaf}"}),
        *_layer_rules("layer.{i}.", names),
        *_layer_rules("model.layer.{i}.", names),
    )

"""config.json of transformers, in the form of timm's, and back: what a model is, beside its weights."""

from collections.abc import Mapping
from typing import Any

DINOV2, DINOV3, WRAPPER = MODEL_TYPES = ("dinov2_with_registers", "dinov3_vit", "timm_wrapper")
# Fields of Dinov2WithRegistersConfig that are arguments of timm's model, and what they are where they are left out.
_FIELDS: dict[str, tuple[str, Any]] = {
    "hidden_size": ("embed_dim", 768),
    "num_hidden_layers": ("depth", 12),
    "num_attention_heads": ("num_heads", 12),
    "patch_size": ("patch_size", 16),
    "mlp_ratio": ("mlp_ratio", 4),
    "qkv_bias": ("qkv_bias", True),
    "layerscale_value": ("init_values", 1.0),
    "num_register_tokens": ("reg_tokens", 4),
    "image_size": ("img_size", 224),
    "num_channels": ("in_chans", 3),
}
# The same of DINOv3ViTConfig.
_FIELDS3: dict[str, tuple[str, Any]] = {
    "hidden_size": ("embed_dim", 384),
    "num_hidden_layers": ("depth", 12),
    "num_attention_heads": ("num_heads", 6),
    "patch_size": ("patch_size", 16),
    "layerscale_value": ("init_values", 1.0),
    "num_register_tokens": ("num_reg_tokens", 0),
    "image_size": ("img_size", 224),
    "num_channels": ("in_chans", 3),
    "rope_theta": ("rope_temperature", 100.0),
    "pos_embed_shift": ("rope_shift_coords", None),
    "pos_embed_jitter": ("rope_jitter_coords", None),
    "pos_embed_rescale": ("rope_rescale_coords", 2.0),
}
# What timm's model computes, whatever its arguments.
_ONLY = {"hidden_act": "gelu", "layer_norm_eps": 1e-6}
_ONLY3 = {"layer_norm_eps": 1e-5, "key_bias": False, "proj_bias": True, "mlp_bias": True}
BACKBONE3 = "DINOv3ViTModel"
BACKBONE, CLASSIFIER = "Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification"
WRAPPERS = "TimmWrapperModel", "TimmWrapperForImageClassification"
# Arguments of timm's model that its classes in transformers have no field for, as those compute them.
_FIXED = {
    "class_token": True, "no_embed_class": True, "pool_include_prefix": False, "fc_norm": False,
    "norm_layer": "layernorm", "attn_layer": "attn", "block_fn": "sequential", "pre_norm": False, "qk_norm": False,
    "norm_eps": 1e-6,
}  # fmt: skip
_FIXED3 = {
    "class_token": True, "use_fc_norm": False, "norm_layer": "layernorm", "norm_eps": 1e-5, "qk_norm": False,
    "use_pre_transformer_norm": False, "final_norm": True, "rope_type": "dinov3", "rope_rotate_half": True,
    "attn_type": "eva", "num_kv_heads": None, "attn_only_layer_scale": False, "dynamic_img_pad": False,
    "global_pool": "token",
}  # fmt: skip
_SIZES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
_SIZES3 = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge_plus", 4096: "7b"}


def is_transformers(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of transformers' form."""
    return "model_type" in config and ("architecture" not in config or config["model_type"] == WRAPPER)


def to_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json of transformers as timm's; what its values may be is left to whoever reads that.

    Raises:
        ValueError: it is of another kind of model, or of one that computes what timm's does not.
    """
    kind = config["model_type"]
    if kind not in MODEL_TYPES:
        told = repr(kind)[:80] if isinstance(kind, str) else f"a {type(kind).__name__}"
        *most, last = MODEL_TYPES
        expected = f"{', '.join(most)} or {last}"
        raise ValueError(f"names no architecture of timm: model_type is {told}, expected {expected}")
    if kind == DINOV2:
        return _to_dinov2(config)
    if kind == DINOV3:
        return _to_dinov3(config)
    return {k: v for k, v in config.items() if k not in ("id2label", "label2id")} | {"label_names": _labels(config)}


def _to_dinov2(config: Mapping[str, Any]) -> dict[str, Any]:
    gated = config.get("use_swiglu_ffn", False)
    only = {"layer_norm_eps": _ONLY["layer_norm_eps"]} if gated is True else _ONLY
    _require(config, only, "use_swiglu_ffn", gated)
    args = _arguments(config, _FIELDS)
    width, size = args["embed_dim"], "large"
    if gated:
        size = "giant"
        args |= {"mlp_layer": "swiglu_packed", "mlp_ratio": _gated_ratio(width, args["mlp_ratio"])}
    elif isinstance(width, int):
        size = _SIZES.get(width, size)
    kinds, numbered = config.get("architectures"), config.get("id2label")
    classifier = isinstance(kinds, list) and CLASSIFIER in kinds
    classes = len(numbered) if isinstance(numbered, dict) else 2  # two are left out
    return {
        "architecture": f"vit_{size}_patch14_reg4_dinov2",
        "num_classes": classes if classifier else 0,
        "label_names": _labels(config) if classifier else None,
        "problem_type": config.get("problem_type") if classifier else None,
        "model_args": args | {"global_pool": "cattokenavg" if classifier else "token"},
        "pretrained_cfg": {},
    }


def _to_dinov3(config: Mapping[str, Any]) -> dict[str, Any]:
    gated, bias = config.get("use_gated_mlp", False), config.get("query_bias", True)
    only = _ONLY3 | {"hidden_act": "silu" if gated is True else "gelu", "value_bias": bias}
    _require({"hidden_act": "gelu", "value_bias": True, **config}, only, "use_gated_mlp", gated, "query_bias", bias)
    args = _arguments(config, _FIELDS3)
    width, inside = args["embed_dim"], config.get("intermediate_size", 1536)
    if all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**31 for n in (width, inside)):
        args["mlp_ratio"] = inside // width if inside % width == 0 else (inside + 0.5) / width
    else:
        args["mlp_ratio"] = inside
    size = _SIZES3.get(width, "large") if isinstance(width, int) else "large"
    if gated and size == "small":
        size = "small_plus"
    own = size == "tiny" or (bias and size != "7b")  # the two that have but one kind
    return {
        "architecture": f"vit_{size}_patch16_dinov3" + ("_qkvb" if own else ""),
        "num_classes": 0,
        "model_args": args
        | {"qkv_bias": bias, "swiglu_mlp": gated, "swiglu_align_to": int(gated), "global_pool": "token"},
        "pretrained_cfg": {},
    }


def _require(config: Mapping[str, Any], only: Mapping[str, Any], *flags: Any) -> None:
    """Refuse what timm's model does not compute; `flags` are names of fields and their values, True or False."""
    others = [f"{k}={config[k]!r:.80} (expected {v!r})" for k, v in only.items() if config.get(k, v) != v]
    for name, value in zip(flags[::2], flags[1::2], strict=True):
        if not isinstance(value, bool):
            others.append(f"{name}={value!r:.80} (expected true or false)")
    if others:
        raise ValueError(f"has {', '.join(others)}, which timm's model does not compute")


def _arguments(config: Mapping[str, Any], fields: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Arguments of timm's model."""
    args = {timm: config.get(name, default) for name, (timm, default) in fields.items()}
    args["patch_size"] = _square(args["patch_size"])
    if args["in_chans"] == 3:
        del args["in_chans"]
    return args


def _labels(config: Mapping[str, Any]) -> Any:
    """Names of the classes; None where they are but numbered, as transformers does if nobody named them."""
    labels = config.get("label_names", config.get("id2label"))
    names = list(labels.values()) if isinstance(labels, dict) else labels
    keys = list(labels) if isinstance(labels, dict) else range(len(names)) if isinstance(names, list) else ()
    if isinstance(names, list) and all(name == f"LABEL_{key}" for key, name in zip(keys, names, strict=True)):
        return None
    return labels


def _square(size: Any) -> Any:
    """One number for both sides of a patch."""
    return size[0] if isinstance(size, list) and len(size) == 2 and size[0] == size[1] else size


def gated_width(width: int, ratio: float) -> int:
    """Channels inside the gated MLP: two thirds of the plain one's, rounded up to a multiple of 8."""
    return (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8


def _gated_ratio(width: Any, ratio: Any) -> Any:
    """What timm multiplies the width by for both halves together."""
    numbers = all(isinstance(n, int | float) and 0 < n < 1e6 for n in (width, ratio))
    return (2 * gated_width(width, ratio) + 0.5) / width if numbers else ratio


def is_dinov2(args: Mapping[str, Any], num_classes: int) -> bool:
    """Whether a model of timm's is one of transformers' own classes.

    Args:
        args: every argument of timm's `VisionTransformer`, and `mlp_hidden`, the channels inside the MLP.
        num_classes: of its classifier; 0 for none.
    """
    if any(args.get(name) != value for name, value in _FIXED.items()) or not (
        args["reg_tokens"] and args["init_values"]
    ):
        return False
    height, width = args["img_size"]
    gated = args["mlp_layer"] == "swiglu_packed"
    inside = 2 * gated_width(args["embed_dim"], 4) if gated else args["embed_dim"] * round(args["mlp_ratio"])
    pool = "cattokenavg" if num_classes else "token"
    return height == width and inside == args["mlp_hidden"] and args["global_pool"] == pool


def of_dinov2(args: Mapping[str, Any], num_classes: int, labels: Any) -> dict[str, Any]:
    """The config.json of such a model; arguments as above, and the names of the classes or None."""
    fields = {name: args[timm] for name, (timm, _) in _FIELDS.items()}
    names = dict(enumerate(labels or [f"LABEL_{i}" for i in range(num_classes)]))
    return {
        "architectures": [CLASSIFIER if num_classes else BACKBONE],
        "model_type": DINOV2,
        **fields,
        **_ONLY,
        "image_size": args["img_size"][0],
        "mlp_ratio": 4 if args["mlp_layer"] == "swiglu_packed" else round(args["mlp_ratio"]),
        "use_swiglu_ffn": args["mlp_layer"] == "swiglu_packed",
        **({"id2label": names, "label2id": {name: i for i, name in names.items()}} if num_classes else {}),
    }


def is_dinov3(args: Mapping[str, Any], num_classes: int) -> bool:
    """As `is_dinov2`; arguments of timm's `Eva`."""
    fixed = all(args.get(name) == value for name, value in _FIXED3.items())
    packed = args["swiglu_mlp"] and not args["swiglu_align_to"]  # the gate in one layer with what it lets through
    return fixed and not packed and not num_classes and bool(args["num_reg_tokens"]) and args["init_values"] is not None


def of_dinov3(args: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of such a model."""
    height, width = args["img_size"]
    gated, align = args["swiglu_mlp"], args["swiglu_align_to"] if args["swiglu_mlp"] else 1
    return {
        "architectures": [BACKBONE3],
        "model_type": DINOV3,
        **{name: args[timm] for name, (timm, _) in _FIELDS3.items()},
        **_ONLY3,
        "image_size": height if height == width else [height, width],
        "intermediate_size": args["mlp_hidden"] + -args["mlp_hidden"] % align,
        "hidden_act": "silu" if gated else "gelu",
        "use_gated_mlp": gated,
        "query_bias": args["qkv_bias"],
        "value_bias": args["qkv_bias"],
    }


def of_wrapper(config: Mapping[str, Any]) -> dict[str, Any]:
    """timm's config.json as that of transformers' TimmWrapper."""
    classes = config["num_classes"]
    return {"label_names": [f"LABEL_{i}" for i in range(classes)]} | {
        "architectures": [WRAPPERS[bool(classes)]], "model_type": WRAPPER, **config,
    }  # fmt: skip

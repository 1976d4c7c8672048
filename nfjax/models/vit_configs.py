"""The vision transformers of timm that the library has: with registers, with rotary positions, and the plain ones."""

from typing import Any

from nfjax.models.data_config import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD, DataConfig
from nfjax.models.eva import EvaCfg
from nfjax.models.vit_blocks import ViTCfg

# Width, depth, heads and MLP of the "searching for better ViT baselines" models.
_SBB: dict[str, dict[str, Any]] = {
    "wee": {"embed_dim": 256, "depth": 14, "num_heads": 4, "mlp_ratio": 5},
    "pwee": {"embed_dim": 256, "depth": 16, "num_heads": 4, "mlp_ratio": 5, "block_fn": "parallel"},
    "dwee": {"embed_dim": 256, "depth": 14, "num_heads": 4, "mlp_ratio": 5, "attn_layer": "diff"},
    "dpwee": {"embed_dim": 256, "depth": 16, "num_heads": 4, "mlp_ratio": 5, "block_fn": "diff_parallel"},
    "little": {"embed_dim": 320, "depth": 14, "num_heads": 5, "mlp_ratio": 5.6},
    "dlittle": {"embed_dim": 320, "depth": 14, "num_heads": 5, "mlp_ratio": 5.6, "attn_layer": "diff"},
    "medium": {"embed_dim": 512, "depth": 12, "num_heads": 8},
    "mediumd": {"embed_dim": 512, "depth": 20, "num_heads": 8},
    "betwixt": {"embed_dim": 640, "depth": 12, "num_heads": 10},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}


def _sbb(size: str, registers: int, **overrides: Any) -> ViTCfg:
    """Registers, no class token, average pooling, LayerScale; position embedding of the patches alone."""
    options = {"init_values": 1e-5, "class_token": False, "no_embed_class": True, "global_pool": "avg"}
    return ViTCfg(reg_tokens=registers, **(_SBB[size] | options | overrides))


def _so150m(**overrides: Any) -> ViTCfg:
    """Shape-optimised (2305.13035): the position embedding covers the registers."""
    options = {"embed_dim": 896, "depth": 18, "num_heads": 14, "mlp_ratio": 2.572, "reg_tokens": 4}
    return ViTCfg(class_token=False, **(options | overrides))


def _so150m2() -> ViTCfg:
    shape = {"embed_dim": 832, "depth": 21, "num_heads": 13, "mlp_ratio": 34 / 13, "reg_tokens": 1}
    return _so150m(**shape, init_values=1e-5, qkv_bias=False, global_pool="avg")


def _patch14(dim: int, depth: int, heads: int, registers: int, init_values: float, **overrides: Any) -> ViTCfg:
    """DINOv2 with registers (2309.16588), and TIPSv2's image side: a class token, which is the pooled feature."""
    options = {"patch_size": 14, "reg_tokens": registers, "init_values": init_values, "no_embed_class": True}
    return ViTCfg(dim, depth, heads, **(options | overrides))


def _radio(dim: int, depth: int, heads: int, registers: int, interpolation: str, **overrides: Any) -> ViTCfg:
    """C-RADIO (2412.07679, 2601.17237): no final norm."""
    options: dict[str, Any] = {"reg_tokens": registers, "no_embed_class": True, "final_norm": False}
    return ViTCfg(dim, depth, heads, pos_embed_interp=interpolation, **(options | overrides))


# Gated MLP of the giants: 2 * 4096 channels in, 4096 out.
_GIANT = {"mlp_ratio": 2.66667 * 2, "mlp_layer": "swiglu_packed"}
# The smallest ones, for tests: their position embedding covers the register.
_TEST: dict[str, Any] = {"class_token": False, "reg_tokens": 1, "init_values": 1e-5}

# Size, registers, side of the images.
_GAP = [
    ("wee", 1, 256), ("pwee", 1, 256), ("dwee", 1, 256), ("dpwee", 1, 256), ("little", 1, 256), ("little", 4, 256),
    ("dlittle", 1, 256), ("medium", 1, 256), ("medium", 4, 256), ("mediumd", 4, 256), ("mediumd", 4, 384),
    ("betwixt", 1, 256), ("betwixt", 4, 256), ("betwixt", 4, 384),
]  # fmt: skip

VITS: dict[str, ViTCfg] = {
    **{f"vit_{size}_patch16_reg{registers}_gap_{side}": _sbb(size, registers) for size, registers, side in _GAP},
    "vit_base_patch16_reg4_gap_256": _sbb("base", 4, init_values=None),
    **{f"vit_so150m_patch16_reg4_gap_{side}": _so150m(global_pool="avg", fc_norm=False) for side in (256, 384)},
    "vit_so150m_patch16_reg4_map_256": _so150m(global_pool="map"),
    **{f"vit_so150m2_patch16_reg1_gap_{side}": _so150m2() for side in (256, 384, 448)},
    "vit_small_patch14_reg4_dinov2": _patch14(384, 12, 6, 4, 1e-5),
    "vit_base_patch14_reg4_dinov2": _patch14(768, 12, 12, 4, 1e-5),
    "vit_large_patch14_reg4_dinov2": _patch14(1024, 24, 16, 4, 1e-5),
    "vit_giant_patch14_reg4_dinov2": _patch14(1536, 40, 24, 4, 1e-5, **_GIANT),
    "vit_base_patch14_reg1_tipsv2": _patch14(768, 12, 12, 1, 1.0),
    "vit_large_patch14_reg1_tipsv2": _patch14(1024, 24, 16, 1, 1.0),
    "vit_so400m_patch14_reg1_tipsv2": _patch14(1152, 27, 16, 1, 1.0, mlp_ratio=4304 / 1152),
    "vit_giant_patch14_reg1_tipsv2": _patch14(1536, 40, 24, 1, 1.0, **_GIANT),
    "vit_base_patch16_radio_v3": _radio(768, 12, 12, 7, "bilinear_corners", init_values=1e-5),
    "vit_large_patch16_radio_v3": _radio(1024, 24, 16, 7, "bilinear", init_values=1e-5),
    "vit_huge_patch16_radio_v3": _radio(1280, 32, 16, 7, "bilinear_corners"),
    "vit_giant_patch16_radio_v3": _radio(1536, 40, 24, 7, "bilinear"),
    "vit_so400m_patch16_radio_v4": _radio(1152, 27, 16, 9, "bilinear", mlp_ratio=4304 / 1152),
    "vit_huge_patch16_radio_v4": _radio(1280, 32, 16, 9, "bilinear"),
    **{
        f"vit_{size}_patch16_{side}": ViTCfg(dim, num_heads=heads)
        for size, dim, heads in (("tiny", 192, 3), ("small", 384, 6), ("base", 768, 12))
        for side in (224, 384)
    },
    "test_vit2": ViTCfg(64, 8, 2, mlp_ratio=3, global_pool="avg", dynamic_img_size=True, **_TEST),
    "test_vit3": ViTCfg(96, 9, 3, mlp_ratio=2, global_pool="map", pool_include_prefix=True, **_TEST),
    "test_vit4": ViTCfg(96, 9, 3, mlp_ratio=3, global_pool="avg", norm_layer="rmsnorm", dynamic_img_size=True, **_TEST),
}

# DINOv3 (2508.10104), EUPE and LingBot-Vision: a class token, four registers, images of any size.
_DINOV3: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "small_plus": {"embed_dim": 384, "depth": 12, "num_heads": 6, "swiglu_mlp": True, "swiglu_align_to": 8},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "huge_plus": {"embed_dim": 1280, "depth": 32, "num_heads": 20, "swiglu_mlp": True, "swiglu_align_to": 8},
    "7b": {
        "embed_dim": 4096, "depth": 40, "num_heads": 32, "mlp_ratio": 2.0, "swiglu_mlp": True, "swiglu_align_to": 64
    },
    "giant": {
        "embed_dim": 1536, "depth": 40, "num_heads": 24, "mlp_ratio": 4 * 2 / 3, "swiglu_mlp": True,
        "swiglu_align_to": 8,
    },
}  # fmt: skip


def _dinov3(size: str, qkv_bias: bool, global_pool: str = "avg") -> EvaCfg:
    rope: dict[str, Any] = {"rope_type": "dinov3", "rope_temperature": 100.0, "rope_rotate_half": True}
    tokens = {"class_token": True, "reg_tokens": 4, "fc_norm": False, "global_pool": global_pool}
    common = {"qkv_bias": qkv_bias, "ref_feat_shape": None, "norm_eps": 1e-5, "dynamic_img_size": True}
    return EvaCfg(**(_DINOV3[size] | rope | tokens | common))


def _sapiens2(dim: int, depth: int, heads: int, kv_heads: int) -> EvaCfg:
    """Sapiens2 (2604.21681): all but the first and the last eight blocks share keys and values between two heads."""
    shared = tuple(heads if min(i, depth - 1 - i) < 8 else kv_heads for i in range(depth))
    rope: dict[str, Any] = {"rope_type": "dinov3", "rope_temperature": 100.0, "rope_rotate_half": True}
    attention: dict[str, Any] = {"attn_type": "rope", "qk_norm": True, "num_kv_heads": shared, "qkv_bias": True}
    scale = {"init_values": 1.0, "attn_only_layer_scale": True, "norm_layer": "rmsnorm", "swiglu_mlp": True}
    tokens = {"class_token": True, "reg_tokens": 8, "fc_norm": False, "global_pool": "token"}
    common = {"rope_rescale_coords": 2.0, "ref_feat_shape": None, "dynamic_img_size": True}
    return EvaCfg(dim, depth, heads, **(rope | attention | scale | tokens | common))


EVAS: dict[str, EvaCfg] = {
    "vit_base_patch16_sapiens2": _sapiens2(768, 12, 12, 6),
    "vit_large_patch16_sapiens2": _sapiens2(1024, 24, 16, 8),
    "vit_huge_patch16_sapiens2": _sapiens2(1280, 32, 16, 8),
    "vit_giant_patch16_sapiens2": _sapiens2(1536, 40, 24, 12),
    "vit_5b_patch16_sapiens2": _sapiens2(2432, 56, 32, 16),
    **{
        f"vit_{size}_patch16_dinov3": _dinov3(size, qkv_bias=False)
        for size in ("small", "small_plus", "base", "large", "huge_plus", "7b")
    },
    **{
        f"vit_{size}_patch16_dinov3_qkvb": _dinov3(size, qkv_bias=True)
        for size in ("tiny", "small", "small_plus", "base", "large", "huge_plus")
    },
    **{
        f"vit_{size}_patch16_lingbot": _dinov3(size, size != "giant", "token")
        for size in ("small", "base", "large", "giant")
    },
    **{
        f"vit_{size}_patch16_rope_reg{registers}_gap_256": EvaCfg(**_SBB[size], reg_tokens=registers, qkv_bias=qkv_bias)
        for size, registers, qkv_bias in (
            ("medium", 1, True),
            ("mediumd", 1, False),
            ("betwixt", 4, True),
            ("base", 1, True),
        )
    },
}


def _data(names: str, size: int, crop_pct: float = 0.95, **fields: Any) -> list[DataConfig]:
    """The pretrained cfgs of `architecture.tag`, or of several tags, with spaces between; size in pixels.

    A tag says what the weights were trained on last, and so how many classes they have.
    """
    architecture, _, tags = names.partition(".")
    defaults: dict[str, Any] = {
        "mean": HALF,
        "std": HALF,
        "fixed_input_size": True,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
    }
    found = []
    for tag in tags.split():
        classes = {"in12k": 11821, "in21k": 21843}.get(tag.rpartition("_")[2], 1000)
        own = {"hf_hub_id": f"timm/{architecture}.{tag}", "num_classes": classes}
        own |= {"input_size": (3, size, size), "crop_pct": crop_pct}
        found.append(DataConfig(architecture, tag, **(defaults | own | fields)))
    return found


_IMAGENET: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
_FEATURES: dict[str, Any] = {"num_classes": 0}  # published without a classifier
_ZERO_ONE: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
_CLIP: dict[str, Any] = {"mean": CLIP_MEAN, "std": CLIP_STD}

# These licences restrict the use.
_META: dict[str, Any] = {**_IMAGENET, **_FEATURES, "license": "dinov3-license"}
_EUPE: dict[str, Any] = {**_META, "license": "fair-noncommercial-research-license"}
_SATELLITE: dict[str, Any] = {"mean": (0.430, 0.411, 0.296), "std": (0.213, 0.156, 0.143)}


_NVIDIA: dict[str, Any] = {**_CLIP, **_FEATURES, "license": "nvidia-open-model-license"}


def _sapiens2_data(name: str) -> list[DataConfig]:
    own = {"input_size": (3, 1024, 768), "fixed_input_size": False, "license": "sapiens2-license"}
    squash = {"crop_mode": "squash", "interpolation": "bilinear"}
    return _data(name, 1024, 1.0, **_IMAGENET, **_FEATURES, **own, **squash)


def _lingbot(name: str) -> list[DataConfig]:
    own = {"hf_hub_id": f"belfner/{name}", "crop_mode": "squash", "interpolation": "bilinear"}
    return _data(name, 512, 1.0, **_IMAGENET, **_FEATURES, **own)


# The default of an architecture comes first.
VIT_DATA: list[DataConfig] = [
    *_data("vit_wee_patch16_reg1_gap_256.sbb_in1k", 256),
    *_data("vit_pwee_patch16_reg1_gap_256.sbb_in1k", 256),
    *_data("vit_dwee_patch16_reg1_gap_256.sbb_nadamuon_in1k sbb_in1k", 256),
    *_data("vit_dpwee_patch16_reg1_gap_256.sbb_nadamuon_in1k sbb_in1k", 256),
    *_data("vit_little_patch16_reg1_gap_256.sbb_in12k_ft_in1k sbb_in12k", 256),
    *_data("vit_little_patch16_reg4_gap_256.sbb_in1k", 256),
    *_data("vit_dlittle_patch16_reg1_gap_256.sbb_nadamuon_in1k", 256),
    *_data("vit_medium_patch16_reg1_gap_256.sbb_in1k", 256),
    *_data("vit_medium_patch16_reg4_gap_256.sbb_in12k_ft_in1k sbb_in1k sbb_in12k", 256),
    *_data("vit_mediumd_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k sbb_in12k_ft_in1k sbb2_e200_in12k sbb_in12k", 256),
    *_data("vit_mediumd_patch16_reg4_gap_384.sbb2_e200_in12k_ft_in1k", 384, 1.0),
    *_data("vit_betwixt_patch16_reg1_gap_256.sbb_in1k", 256),
    *_data("vit_betwixt_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k sbb_in12k_ft_in1k sbb_in1k", 256),
    *_data("vit_betwixt_patch16_reg4_gap_256.sbb2_e200_in12k sbb_in12k", 256),
    *_data("vit_betwixt_patch16_reg4_gap_384.sbb2_e200_in12k_ft_in1k", 384, 1.0),
    *_data("vit_base_patch16_reg4_gap_256.untrained", 256, 0.9, hf_hub_id=None),
    *_data("vit_so150m_patch16_reg4_gap_256.sbb_e250_in12k_ft_in1k sbb_e250_in12k", 256),
    *_data("vit_so150m_patch16_reg4_gap_384.sbb_e250_in12k_ft_in1k", 384, 1.0),
    *_data("vit_so150m_patch16_reg4_map_256.untrained", 256, 0.9, hf_hub_id=None),
    *_data("vit_so150m2_patch16_reg1_gap_256.sbb_e200_in12k_ft_in1k sbb_e200_in12k", 256, 1.0),
    *_data("vit_so150m2_patch16_reg1_gap_384.sbb_e200_in12k_ft_in1k", 384, 1.0),
    *_data("vit_so150m2_patch16_reg1_gap_448.sbb_e200_in12k_ft_in1k", 448, 1.0, crop_mode="squash"),
    *_data("vit_small_patch14_reg4_dinov2.lvd142m", 518, 1.0, **_IMAGENET, **_FEATURES),
    *_data("vit_base_patch14_reg4_dinov2.lvd142m", 518, 1.0, **_IMAGENET, **_FEATURES),
    *_data("vit_large_patch14_reg4_dinov2.lvd142m", 518, 1.0, **_IMAGENET, **_FEATURES),
    *_data("vit_giant_patch14_reg4_dinov2.lvd142m", 518, 1.0, **_IMAGENET, **_FEATURES),
    *_data("vit_base_patch14_reg1_tipsv2.webli", 448, 1.0, **_ZERO_ONE, **_FEATURES),
    *_data("vit_large_patch14_reg1_tipsv2.webli", 448, 1.0, **_ZERO_ONE, **_FEATURES),
    *_data("vit_so400m_patch14_reg1_tipsv2.webli", 448, 1.0, **_ZERO_ONE, **_FEATURES),
    *_data("vit_giant_patch14_reg1_tipsv2.webli", 448, 1.0, **_ZERO_ONE, **_FEATURES),
    *_data("vit_medium_patch16_rope_reg1_gap_256.sbb_in1k", 256, license="mit"),
    *_data("vit_mediumd_patch16_rope_reg1_gap_256.sbb_in1k", 256, license="mit"),
    *_data("vit_base_patch16_rope_reg1_gap_256.sbb_in1k", 256, license="mit"),
    *_data("vit_betwixt_patch16_rope_reg4_gap_256.sbb_in1k", 256, license="mit", **_CLIP),
    *_data("vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", 256, 1.0, **_EUPE),
    *_data("vit_small_patch16_dinov3.lvd1689m", 256, 1.0, **_META),
    *_data("vit_small_patch16_dinov3_qkvb.lvd1689m", 256, 1.0, **_META),
    *_data("vit_small_patch16_dinov3_qkvb.eupe_lvd1689m", 256, 1.0, **_EUPE),
    *_data("vit_small_plus_patch16_dinov3.lvd1689m", 256, 1.0, **_META),
    *_data("vit_small_plus_patch16_dinov3_qkvb.lvd1689m", 256, 1.0, **_META),
    *_data("vit_base_patch16_dinov3.lvd1689m", 256, 1.0, **_META),
    *_data("vit_base_patch16_dinov3_qkvb.lvd1689m", 256, 1.0, **_META),
    *_data("vit_base_patch16_dinov3_qkvb.eupe_lvd1689m", 256, 1.0, **_EUPE),
    *_data("vit_large_patch16_dinov3.lvd1689m", 256, 1.0, **_META),
    *_data("vit_large_patch16_dinov3.sat493m", 256, 1.0, **(_META | _SATELLITE)),
    *_data("vit_large_patch16_dinov3_qkvb.lvd1689m", 256, 1.0, **_META),
    *_data("vit_large_patch16_dinov3_qkvb.sat493m", 256, 1.0, **(_META | _SATELLITE)),
    *_data("vit_huge_plus_patch16_dinov3.lvd1689m", 256, 1.0, **_META),
    *_data("vit_huge_plus_patch16_dinov3_qkvb.lvd1689m", 256, 1.0, **_META),
    *_data("vit_7b_patch16_dinov3.lvd1689m", 256, 1.0, **_META),
    *_data("vit_7b_patch16_dinov3.sat493m", 256, 1.0, **(_META | _SATELLITE)),
    *_lingbot("vit_small_patch16_lingbot.robbyant"),
    *_lingbot("vit_base_patch16_lingbot.robbyant"),
    *_lingbot("vit_large_patch16_lingbot.robbyant"),
    *_lingbot("vit_giant_patch16_lingbot.robbyant"),
    *_sapiens2_data("vit_base_patch16_sapiens2.fb"),
    *_sapiens2_data("vit_large_patch16_sapiens2.fb"),
    *_sapiens2_data("vit_huge_patch16_sapiens2.fb"),
    *_sapiens2_data("vit_giant_patch16_sapiens2.fb"),
    *_sapiens2_data("vit_5b_patch16_sapiens2.fb"),
    *_data("vit_base_patch16_radio_v3.c_radio", 512, 1.0, **_NVIDIA),
    *_data("vit_large_patch16_radio_v3.c_radio", 512, 1.0, **_NVIDIA),
    *_data("vit_huge_patch16_radio_v3.c_radio", 512, 1.0, **_NVIDIA),
    *_data("vit_giant_patch16_radio_v3.c_radio", 512, 1.0, **_NVIDIA),
    *_data("vit_so400m_patch16_radio_v4.c_radio", 512, 1.0, **_NVIDIA),
    *_data("vit_huge_patch16_radio_v4.c_radio", 512, 1.0, **_NVIDIA),
    *_data("vit_tiny_patch16_224.augreg_in21k_ft_in1k augreg_in21k", 224, 0.9),
    *_data("vit_tiny_patch16_384.augreg_in21k_ft_in1k", 384, 1.0),
    *_data("vit_small_patch16_224.augreg_in21k_ft_in1k augreg_in1k augreg_in21k", 224, 0.9),
    *_data("vit_small_patch16_224.dino", 224, 0.9, **_IMAGENET, **_FEATURES),
    *_data("vit_small_patch16_384.augreg_in21k_ft_in1k augreg_in1k", 384, 1.0),
    *_data("vit_base_patch16_224.augreg2_in21k_ft_in1k augreg_in21k_ft_in1k orig_in21k_ft_in1k augreg_in1k", 224, 0.9),
    *_data("vit_base_patch16_224.orig_in21k", 224, 0.9, **_FEATURES),
    *_data("vit_base_patch16_224.augreg_in21k sam_in1k", 224, 0.9),
    *_data("vit_base_patch16_224.bamboo", 224, 1.0, **_CLIP, num_classes=115217, license=None),
    *_data("vit_base_patch16_224.dino", 224, 0.9, **_IMAGENET, **_FEATURES),
    *_data("vit_base_patch16_224.mae", 224, 0.9, **_IMAGENET, **_FEATURES, license="cc-by-nc-4.0"),
    *_data("vit_base_patch16_384.augreg_in21k_ft_in1k orig_in21k_ft_in1k augreg_in1k", 384, 1.0),
    *_data("test_vit2.r160_in1k", 160),
    *_data("test_vit3.r160_in1k", 160),
    *_data("test_vit4.r160_in1k", 160, hf_hub_id=None),
]

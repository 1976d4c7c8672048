"""timm's transformers with registers for images of any size and aspect ratio: configs and pretrained cfgs."""

from typing import Any

from nfjax.models.data_config import CLIP_MEAN, CLIP_STD, HALF, DataConfig
from nfjax.models.naflex import NaFlexVitCfg


def _base(**overrides: Any) -> NaFlexVitCfg:
    return NaFlexVitCfg(init_values=1e-5, **overrides)


def _so150m2(**overrides: Any) -> NaFlexVitCfg:
    """Shape-optimised (2305.13035)."""
    return _base(embed_dim=832, depth=21, num_heads=13, mlp_ratio=34 / 13, qkv_bias=False, reg_tokens=1, **overrides)


def _radio(dim: int, depth: int, heads: int, registers: int, **overrides: Any) -> NaFlexVitCfg:
    """C-RADIO (2412.07679, 2601.17237): positions of images of up to 2048 pixels, the class token, no final norm."""
    positions: dict[str, Any] = {
        "pos_embed_grid_size": (128, 128),
        "pos_embed_interp_mode": "bilinear",
        "pos_embed_ar_preserving": True,
        "pos_embed_antialias": False,
    }
    tokens: dict[str, Any] = {"class_token": True, "reg_tokens": registers, "global_pool": "token"}
    return NaFlexVitCfg(dim, depth, heads, final_norm=False, **(positions | tokens | overrides))


_GAP: dict[str, Any] = {"global_pool": "avg", "fc_norm": True}
_CORNERS: dict[str, Any] = {"pos_embed_align_corners": True}

NAFLEX: dict[str, NaFlexVitCfg] = {
    "naflexvit_base_patch16_gap": _base(reg_tokens=4, **_GAP),
    "naflexvit_base_patch16_par_gap": _base(reg_tokens=4, pos_embed_ar_preserving=True, **_GAP),
    "naflexvit_base_patch16_parfac_gap": _base(
        reg_tokens=4, pos_embed_ar_preserving=True, pos_embed="factorized", **_GAP
    ),
    "naflexvit_base_patch16_map": _base(reg_tokens=1),
    "naflexvit_so150m2_patch16_reg1_gap": _so150m2(**_GAP),
    "naflexvit_so150m2_patch16_reg1_map": _so150m2(),
    "naflexvit_base_patch16_radio_v3": _radio(768, 12, 12, 7, init_values=1e-5, **_CORNERS),
    "naflexvit_large_patch16_radio_v3": _radio(1024, 24, 16, 7, init_values=1e-5),
    "naflexvit_huge_patch16_radio_v3": _radio(1280, 32, 16, 7, **_CORNERS),
    "naflexvit_giant_patch16_radio_v3": _radio(1536, 40, 24, 7),
    "naflexvit_so400m_patch16_radio_v4": _radio(1152, 27, 16, 9, mlp_ratio=4304 / 1152),
    "naflexvit_huge_patch16_radio_v4": _radio(1280, 32, 16, 9),
}


def _data(architecture: str, tag: str, size: int = 384, **fields: Any) -> DataConfig:
    """The pretrained cfg of one architecture, for square images of this size in pixels."""
    usual: dict[str, Any] = {
        "hf_hub_id": f"timm/{architecture}.{tag}",
        "input_size": (3, size, size),
        "crop_pct": 1.0,
        "mean": HALF,
        "std": HALF,
        "first_conv": "embeds.proj",
        "classifier": "head",
        "license": "apache-2.0",
    }
    return DataConfig(architecture, tag, **(usual | fields))


_RADIO: dict[str, Any] = {
    "size": 512, "mean": CLIP_MEAN, "std": CLIP_STD, "num_classes": 0, "license": "nvidia-open-model-license"
}  # fmt: skip

NAFLEX_DATA: list[DataConfig] = [
    *(_data(f"naflexvit_base_patch16_{kind}", "e300_s576_in1k") for kind in ("gap", "par_gap", "parfac_gap")),
    _data("naflexvit_base_patch16_map", "untrained", hf_hub_id=None),
    *(_data(f"naflexvit_so150m2_patch16_reg1_{pool}", "untrained", hf_hub_id=None) for pool in ("gap", "map")),
    *(_data(name, "c_radio", **_RADIO) for name in NAFLEX if "_radio_" in name),
]

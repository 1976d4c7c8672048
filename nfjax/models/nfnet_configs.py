"""The 36 Normalization-Free architectures of timm's nfnet.py, and what their weights expect."""

from typing import Any

from nfjax.models.data_config import HALF, DataConfig
from nfjax.models.nfnet import NfCfg

Depths = tuple[int, int, int, int]


def _nfnet(depths: Depths, **overrides: Any) -> NfCfg:
    """NFNet-F (2102.06171): GELU, squeeze-excite, groups of 128 channels."""
    channels = overrides.pop("channels", (256, 512, 1536, 1536))
    final_multiple = overrides.pop("final_multiple", 2.0)
    options: dict[str, Any] = {
        "stem_type": "deep_quad",
        "stem_chs": 128,
        "group_size": 128,
        "bottle_ratio": 0.5,
        "extra_conv": True,
        "num_features": int(channels[-1] * final_multiple),
        "act_layer": "gelu",
        "attn_layer": "se",
        "rd_ratio": 0.5,
    }
    return NfCfg(depths, channels, **(options | overrides))


def _dm_nfnet(depths: Depths) -> NfCfg:
    """NFNet-F as DeepMind published it: SAME padding, gain in the activation, SkipInit."""
    return _nfnet(depths, gamma_in_act=True, same_padding=True, skipinit=True)


def _light(depths: Depths, final_multiple: float = 2.0, **overrides: Any) -> NfCfg:
    """timm's NFNet-L: SiLU, a quarter of the inner width, groups of 64 channels."""
    options = {"group_size": 64, "bottle_ratio": 0.25, "act_layer": "silu"} | overrides
    return _nfnet(depths, final_multiple=final_multiple, **options)


def _regnet(depths: Depths, channels: tuple[int, int, int, int] = (48, 104, 208, 440)) -> NfCfg:
    """NF-RegNet-B (2101.08692), channels rounded to multiples of 8."""
    options: dict[str, Any] = {"group_size": 8, "width_factor": 0.75, "bottle_ratio": 2.25, "attn_layer": "se"}
    return NfCfg(depths, channels, num_features=1280 * channels[-1] // 440, reg=True, rd_ratio=0.5, **options)


def _resnet(depths: Depths, attn_layer: str | None = None) -> NfCfg:
    """NF-ResNet (2101.08692), pre-activation with average-pooled shortcuts."""
    options: dict[str, Any] = {"stem_type": "7x7_pool", "stem_chs": 64, "bottle_ratio": 0.25, "act_layer": "relu"}
    return NfCfg(depths, (256, 512, 1024, 2048), attn_layer=attn_layer, **options)


def _times(n: int) -> Depths:
    """Depths of NFNet-F(n-1): n times those of F0."""
    return (n, 2 * n, 6 * n, 3 * n)


_RESNET_DEPTHS: dict[int, Depths] = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

NFNETS: dict[str, NfCfg] = {
    **{f"dm_nfnet_f{n}": _dm_nfnet(_times(n + 1)) for n in range(7)},
    **{f"nfnet_f{n}": _nfnet(_times(n + 1)) for n in range(8)},
    "nfnet_l0": _light(_times(1), 1.5, rd_ratio=0.25),
    "eca_nfnet_l0": _light(_times(1), 1.5, attn_layer="eca"),
    **{f"eca_nfnet_l{n}": _light(_times(n + 1), attn_layer="eca") for n in (1, 2, 3)},
    "nf_regnet_b0": _regnet((1, 3, 6, 6)),
    "nf_regnet_b1": _regnet((2, 4, 7, 7)),
    "nf_regnet_b2": _regnet((2, 4, 8, 8), (56, 112, 232, 488)),
    "nf_regnet_b3": _regnet((2, 5, 9, 9), (56, 128, 248, 528)),
    "nf_regnet_b4": _regnet((2, 6, 11, 11), (64, 144, 288, 616)),
    "nf_regnet_b5": _regnet((3, 7, 14, 14), (80, 168, 336, 704)),
    **{f"nf_resnet{n}": _resnet(depths) for n, depths in _RESNET_DEPTHS.items()},
    **{f"nf_seresnet{n}": _resnet(depths, "se") for n, depths in _RESNET_DEPTHS.items()},
    **{f"nf_ecaresnet{n}": _resnet(depths, "eca") for n, depths in _RESNET_DEPTHS.items()},
    "test_nfnet": _light((1, 1, 1, 1), 1.5, channels=(32, 64, 96, 128), group_size=8, rd_ratio=0.25),
}


def _data(name: str, size: int, test_size: int | None = None, pool: int | None = None, **fields: Any) -> DataConfig:
    """The pretrained cfg of `architecture.tag`; sizes in pixels, `pool` the side of the last map."""
    architecture, _, tag = name.partition(".")
    deep_stem = NFNETS[architecture].stem_type == "deep_quad"
    side = pool or size // 32
    return DataConfig(
        architecture=architecture,
        tag=tag,
        hf_hub_id=f"timm/{name}" if tag else None,
        input_size=(3, size, size),
        test_input_size=(3, test_size, test_size) if test_size else None,
        pool_size=(side, side),
        crop_pct=fields.pop("crop_pct", 0.9),
        first_conv="stem.conv1" if deep_stem else "stem.conv",
        classifier="head.fc",
        license="apache-2.0",
        **fields,
    )


# size in training, size in testing, and DeepMind's crops
_F_SIZES = [
    (192, 256, 0.9), (224, 320, 0.91), (256, 352, 0.92), (320, 416, 0.94),
    (384, 512, 0.951), (416, 544, 0.954), (448, 576, 0.956), (480, 608, None),
]  # fmt: skip

NFNET_DATA: list[DataConfig] = [
    *(
        _data(f"dm_nfnet_f{n}.dm_in1k", size, test, crop_pct=crop, crop_mode="squash")
        for n, (size, test, crop) in enumerate(_F_SIZES[:7])
    ),
    *(_data(f"nfnet_f{n}", size, test) for n, (size, test, _) in enumerate(_F_SIZES)),
    _data("nfnet_l0.ra2_in1k", 224, 288, test_crop_pct=1.0),
    _data("eca_nfnet_l0.ra2_in1k", 224, 288, test_crop_pct=1.0),
    _data("eca_nfnet_l1.ra2_in1k", 256, 320, test_crop_pct=1.0),
    _data("eca_nfnet_l2.ra3_in1k", 320, 384, test_crop_pct=1.0),
    _data("eca_nfnet_l3", 352, 448, test_crop_pct=1.0),
    _data("nf_regnet_b0", 192, 256),
    _data("nf_regnet_b1.ra2_in1k", 256, 288),
    _data("nf_regnet_b2", 240, 272, pool=8),
    _data("nf_regnet_b3", 288, 320),
    _data("nf_regnet_b4", 320, 384),
    _data("nf_regnet_b5", 384, 456),
    _data("nf_resnet26", 224),
    _data("nf_resnet50.ra2_in1k", 256, 288, crop_pct=0.94),
    _data("nf_resnet101", 224),
    *(_data(f"nf_{attn}resnet{n}", 224) for attn in ("se", "eca") for n in _RESNET_DEPTHS),
    _data("test_nfnet.r160_in1k", 160, crop_pct=0.95, mean=HALF, std=HALF),
]

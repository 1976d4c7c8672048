"""Which configs make a model, and how large it may be beside the published one: arithmetic, nothing is built."""

import math
from typing import Any

from nfjax.models.base import Size
from nfjax.models.eva import EvaCfg
from nfjax.models.nfnet import NfCfg, block_cfgs, inner
from nfjax.models.vit_blocks import ViTCfg

# How many times as much as the architecture itself has, and what is allowed in any case.
CEILINGS = {"blocks": (4, 48), "parameters": (8, 100_000_000), "pixels": (64, 4096 * 4096), "patches": (64, 0)}


def misfits(config: Any) -> list[str]:
    """What of a config's fields, each of which is in its range, does not go together."""
    return _nf_misfits(config) if isinstance(config, NfCfg) else _vit_misfits(config)


def beyond(found: dict[str, int], own: dict[str, int]) -> list[str]:
    """What of an `extent` is too much, beside the architecture's own."""
    told = []
    for what, (times, least) in CEILINGS.items():
        if what in own and found[what] > (most := max(times * own[what], least)):
            why = f"{times} times the architecture's {own[what]:,}" + (
                f", or {least:,} if that is more" if least else ""
            )
            told.append(f"{found[what]:,} {what}; expected at most {most:,} ({why})")
    return told


def extent(config: Any, in_chans: int, size: Size) -> dict[str, int]:
    """How large a model is for images of this height and width: blocks, pixels or patches, and parameters, about,
    without the classifier's."""
    return (_nf_extent if isinstance(config, NfCfg) else _vit_extent)(config, in_chans, size)


def _nf_misfits(config: NfCfg) -> list[str]:
    if len(config.depths) != len(config.channels):
        return [f"depths={config.depths} and channels={config.channels}; expected as many of one as of the other"]
    told = []
    if config.stem_type == "deep_quad" and config.stem_channels < 8:
        told.append(f"stem_chs={config.stem_chs}; expected at least 8 channels for stem_type='deep_quad'")
    inside = {inner(config, block) for stage in block_cfgs(config, 32, 0.0) for block in stage}
    if any(groups < 1 or channels % groups for channels, groups in inside):
        told.append(f"group_size={config.group_size} does not divide the channels inside the blocks")
    return told


def _nf_extent(config: NfCfg, in_chans: int, size: Size) -> dict[str, int]:
    blocks = [block for stage in block_cfgs(config, 32, 0.0) for block in stage]
    params = 9 * config.stem_channels * (in_chans + config.stem_channels)
    for block in blocks:
        channels, groups = inner(config, block)
        params += (block.in_chs + block.out_chs) * channels + 9 * (1 + config.extra_conv) * channels**2 // groups
        if config.attn_layer == "se":
            params += int(2 * config.rd_ratio * (channels if config.reg else block.out_chs) ** 2)
        if block.in_chs != block.out_chs:
            params += block.in_chs * block.out_chs
    if config.num_features:
        params += blocks[-1].out_chs * config.round_channels(config.num_features)
    return {"blocks": len(blocks), "parameters": params, "pixels": math.prod(size)}


def _vit_misfits(config: ViTCfg) -> list[str]:
    told = []
    # Rotary positions turn pairs of channels on two axes; differential attention halves each head.
    halved = config.attn_layer == "diff" or config.block_fn == "diff_parallel"
    multiple = 4 if isinstance(config, EvaCfg) else 2 if halved else 1
    if config.embed_dim % (config.num_heads * multiple):
        told.append(
            f"embed_dim={config.embed_dim}; expected a multiple of {config.num_heads * multiple} "
            f"for num_heads={config.num_heads}"
        )
    told += _eva_misfits(config) if isinstance(config, EvaCfg) else []
    if config.dynamic_img_pad and not config.dynamic_img_size:
        told.append("dynamic_img_pad=True is of dynamic_img_size=True")
    pairs = 2 if config.mlp_layer == "swiglu_packed" else 1
    if config.mlp_hidden < 1 or config.mlp_hidden % pairs:
        expected = "an even number" if pairs == 2 else "at least 1"
        told.append(f"mlp_ratio={config.mlp_ratio} makes {config.mlp_hidden} channels; expected {expected}")
    return told


def _eva_misfits(config: EvaCfg) -> list[str]:
    told = []
    kv_heads = config.num_kv_heads
    if config.attn_type == "eva" and kv_heads is not None:
        told.append("num_kv_heads is of attn_type='rope'")
    moved = config.rope_shift_coords, config.rope_jitter_coords, config.rope_rescale_coords
    if config.rope_type == "cat" and any(value is not None for value in moved):
        told.append("rope_shift_coords, rope_jitter_coords and rope_rescale_coords are of rope_type='dinov3'")
    if kv_heads is not None and (len(kv_heads) != config.depth or any(config.num_heads % heads for heads in kv_heads)):
        told.append(
            f"num_kv_heads={kv_heads}; expected one for each of the {config.depth} blocks, each a divisor of "
            f"num_heads={config.num_heads}"
        )
    return told


def _vit_extent(config: ViTCfg, in_chans: int, size: Size) -> dict[str, int]:
    dim, patches = config.embed_dim, math.prod(config.grid(size))
    block = dim * (4 * dim + 2 * config.mlp_hidden)
    entries = config.positions(size) + config.reg_tokens
    params = config.depth * block + dim * (in_chans * config.patch_size**2 + entries)
    return {"blocks": config.depth, "parameters": params, "patches": patches}

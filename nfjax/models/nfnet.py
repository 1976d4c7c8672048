"""Normalization-Free networks: NF-ResNet, NF-RegNet, NFNet-F and NFNet-L, as timm defines them.

    [1] Brock, De, Smith: Characterizing signal propagation to close the performance gap in unnormalized
        ResNets. arXiv 2101.08692
    [2] Brock, De, Smith, Simonyan: High-Performance Large-Scale Image Recognition Without Normalization.
        arXiv 2102.06171

Read top-down: the configuration, the bookkeeping that turns it into blocks, the block, the network. A residual block
computes `h' = h + alpha * f(h / beta)` ([1] section 3): `beta` is the standard deviation that `h` is expected to have,
and `f`, made of scaled weight standardised convolutions and activations of unit gain, preserves variance. Names of
modules are timm's, so that parameter paths mirror timm's state dict.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from nfjax.fast import gelu, scale, silu
from nfjax.models.base import Feature, ImageModel, Images, take_indices
from nfjax.models.calling import anywhere
from nfjax.models.data_config import Chans, Classes, DataConfig
from nfjax.nn.conv import Padding
from nfjax.nn.head import POOLS, ClassifierHead
from nfjax.nn.layers import (
    EfficientChannelAttention,
    ScaledStdConv,
    SqueezeExcite,
    avg_pool,
    drop_path,
    make_divisible,
    max_pool,
    split_key,
)
from nfjax.params import param, zeros
from port.ranges import Choice, Length, Range, ShareBelow1, Width

# 1 / (standard deviation of the activation's output for a unit normal input) ([1] section 4.2, after
# DeepMind's constants).
GAMMA = {"gelu": 1.7015043497085571, "relu": 1.7139588594436646, "silu": 1.7881293296813965}
GAMMA["gelu_tanh"] = GAMMA["gelu"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"gelu": gelu, "relu": jax.nn.relu, "silu": silu}
ACTIVATIONS["gelu_tanh"] = jax.nn.gelu  # the approximate one, which DeepMind's code has, and timm's NFNets have not
STEMS = ("3x3", "7x7_pool", "deep_quad")
Maps = Float[Array, "batch height width channels"]
AnyMap = Float[Array, "batch _ _ _"]


@dataclasses.dataclass(frozen=True)
class NfCfg:
    """Architecture of a Normalization-Free network (timm `NfCfg`)."""

    depths: Annotated[tuple[Annotated[int, Range(1, 1000)], ...], Length(1, 8)]  # blocks in each stage
    channels: Annotated[tuple[Width, ...], Length(1, 8)]  # output channels of each stage, before `width_factor`
    alpha: Annotated[float, Range(0, 100)] = 0.2  # scale of the residual branch
    stem_type: Annotated[str, Choice(STEMS)] = "3x3"  # "deep_quad" are four 3x3 convolutions ([2] figure 3)
    stem_chs: Width | None = None  # output channels of the stem; None for those of the first stage
    group_size: Width | None = None  # channels in a group of the 3x3 convolutions; None for no groups
    attn_layer: Annotated[str, Choice(("se", "eca"))] | None = None
    rd_ratio: Annotated[float, Range(0, 16, open="low")] = 1 / 16  # channels inside "se", relative to those outside
    attn_gain: Annotated[float, Range(-100, 100)] = 2.0  # restores the variance which the attention's sigmoid takes
    width_factor: Annotated[float, Range(1e-3, 64)] = 1.0  # factor on all channels
    # Inner width of a block, relative to its output (its input if `reg`).
    bottle_ratio: Annotated[float, Range(1e-3, 64)] = 0.5
    num_features: Annotated[int, Range(0, 65536)] = 0  # output channels of the final 1x1 convolution; 0 for none
    ch_div: Width = 8  # channels are rounded to multiples of this
    reg: bool = False  # RegNet style: inner width from the block's input, attention before the last convolution
    extra_conv: bool = False  # a second 3x3 convolution in each block, as in NFNets
    gamma_in_act: bool = False  # put the activation's gain into the activation (DeepMind) instead of the convolutions
    same_padding: bool = False  # TensorFlow's SAME padding (DeepMind) instead of the symmetric one
    std_conv_eps: Annotated[float, Range(0, 1)] = 1e-5  # epsilon of the weight standardisation
    # Instead of an epsilon, the least that variance times fan-in counts as: 1e-4 in DeepMind's code, not in timm's.
    std_conv_floor: Annotated[float, Range(0, 1)] = 0.0
    skipinit: bool = False  # a learned scalar on each residual branch, zero at first
    act_layer: Annotated[str, Choice(tuple(ACTIVATIONS))] = "silu"

    def round_channels(self, channels: float) -> int:
        """`channels` times the width factor, rounded to a multiple of `ch_div`."""
        return make_divisible(channels * self.width_factor, self.ch_div)

    @property
    def stem_channels(self) -> int:
        return self.round_channels(self.stem_chs or self.channels[0])

    @property
    def stem_stride(self) -> int:
        return 2 if self.stem_type == "3x3" else 4

    def act(self, x: Maps) -> Maps:
        """The activation, scaled to unit gain if `gamma_in_act`."""
        y = ACTIVATIONS[self.act_layer](x)
        return y * GAMMA[self.act_layer] if self.gamma_in_act else y

    def conv(self, in_chs: int, out_chs: int, kernel_size: int, **options: Any) -> ScaledStdConv:
        """A standardised convolution with this architecture's padding, epsilon and gain."""
        gamma = 1.0 if self.gamma_in_act else GAMMA[self.act_layer]
        padding: Padding = "same" if self.same_padding else "symmetric"
        return ScaledStdConv(
            in_chs,
            out_chs,
            kernel_size,
            padding=padding,
            gamma=gamma,
            eps=self.std_conv_eps,
            floor=self.std_conv_floor,
            **options,
        )

    def attention(self, channels: int) -> EfficientChannelAttention | SqueezeExcite:
        """A weight for each image and channel."""
        if self.attn_layer == "eca":
            return EfficientChannelAttention(channels)
        return SqueezeExcite(channels, self.rd_ratio)


@dataclasses.dataclass(frozen=True)
class BlockCfg:
    """What distinguishes one block of a network from the next."""

    in_chs: int
    out_chs: int
    beta: float  # 1 / expected standard deviation of the input
    bottle_ratio: float
    stride: int
    dilation: int
    first_dilation: int
    drop_path_rate: float


def block_cfgs(cfg: NfCfg, output_stride: int, drop_path_rate: float) -> list[list[BlockCfg]]:
    """The blocks of every stage: channels, strides or dilations, and the expected variance ([1] section 3).

    The variance of the residual stream starts at 1 and grows by `alpha**2` with every block; the first block
    of a stage has its shortcut on the branch that was divided by `beta`, which resets the variance to 1.
    """
    rates = np.linspace(0.0, drop_path_rate, sum(cfg.depths)).tolist()  # one per block, over all stages
    in_chs, net_stride, dilation, variance = cfg.stem_channels, cfg.stem_stride, 1, 1.0
    stages: list[list[BlockCfg]] = []
    for depth, channels in zip(cfg.depths, cfg.channels, strict=True):
        stride = 1 if not stages and cfg.stem_stride > 2 else 2
        if stride > 1 and net_stride >= output_stride:  # dilate instead of striding
            stride, dilation = 1, dilation * stride
        net_stride *= stride
        blocks: list[BlockCfg] = []
        for i in range(depth):
            first_of_net, first_of_stage = not stages and i == 0, i == 0
            block = BlockCfg(
                in_chs=in_chs,
                out_chs=cfg.round_channels(channels),
                beta=variance**-0.5,
                bottle_ratio=1.0 if cfg.reg and first_of_net else cfg.bottle_ratio,
                stride=stride if first_of_stage else 1,
                dilation=dilation,
                first_dilation=max(dilation // 2, 1) if first_of_stage else dilation,
                drop_path_rate=rates.pop(0),
            )
            variance = (1.0 if first_of_stage else variance) + cfg.alpha**2
            in_chs = block.out_chs
            blocks.append(block)
        stages.append(blocks)
    return stages


def inner(cfg: NfCfg, block: BlockCfg) -> tuple[int, int]:
    """Channels and groups of the 3x3 convolutions of a block."""
    width = block.in_chs if cfg.reg else block.out_chs
    mid_chs = make_divisible(width * block.bottle_ratio, cfg.ch_div)
    groups = mid_chs // cfg.group_size if cfg.group_size else 1
    if cfg.group_size and cfg.group_size % cfg.ch_div == 0:
        mid_chs = cfg.group_size * groups
    return mid_chs, groups


class Stem(nnx.Module):
    """The first convolutions. Returns the output and the feature tap, which is before an activation."""

    def __init__(self, cfg: NfCfg, in_chans: int):
        self.cfg = cfg
        out = cfg.stem_channels
        if cfg.stem_type == "deep_quad":
            self.conv1 = cfg.conv(in_chans, out // 8, 3, stride=2)
            self.conv2 = cfg.conv(out // 8, out // 4, 3)
            self.conv3 = cfg.conv(out // 4, out // 2, 3)
            self.conv4 = cfg.conv(out // 2, out, 3, stride=2)
        elif cfg.stem_type in ("3x3", "7x7_pool"):
            self.conv = cfg.conv(in_chans, out, int(cfg.stem_type[0]), stride=2)
        else:
            raise ValueError(f"stem_type={cfg.stem_type!r}; expected 'deep_quad', '3x3' or '7x7_pool'.")

    def __call__(self, x: Maps) -> tuple[Float[Array, "batch h w out"], Float[Array, "batch tap_h tap_w tap_out"]]:
        act = self.cfg.act
        if self.cfg.stem_type == "deep_quad":
            tap = self.conv3(act(self.conv2(act(self.conv1(x)))))
            return self.conv4(act(tap)), tap
        tap = self.conv(x)
        return (max_pool(tap) if self.cfg.stem_type == "7x7_pool" else tap), tap


class DownsampleAvg(nnx.Module):
    """Shortcut of a block that changes shape: 2x2 average, then a 1x1 convolution ([2] figure 3)."""

    def __init__(self, cfg: NfCfg, block: BlockCfg):
        self.pooled = block.stride > 1 or block.dilation > 1
        self.stride = block.stride
        self.conv = cfg.conv(block.in_chs, block.out_chs, 1)

    def __call__(self, x: Maps) -> Float[Array, "batch out_height out_width out_channels"]:
        return self.conv(avg_pool(x, self.stride) if self.pooled else x)


class NormFreeBlock(nnx.Module):
    """Pre-activation bottleneck block, `h' = h + alpha * f(h / beta)` ([1] figure 1, [2] figure 3; timm, same name)."""

    def __init__(self, cfg: NfCfg, block: BlockCfg):
        self.cfg, self.block = cfg, block
        in_chs, out_chs = block.in_chs, block.out_chs
        mid_chs, groups = inner(cfg, block)
        reshaped = in_chs != out_chs or block.stride != 1 or block.dilation != block.first_dilation
        self.downsample = DownsampleAvg(cfg, block) if reshaped else None
        self.conv1 = cfg.conv(in_chs, mid_chs, 1)
        self.conv2 = cfg.conv(mid_chs, mid_chs, 3, stride=block.stride, dilation=block.first_dilation, groups=groups)
        self.conv2b = cfg.conv(mid_chs, mid_chs, 3, dilation=block.dilation, groups=groups) if cfg.extra_conv else None
        self.attn = cfg.attention(mid_chs) if cfg.attn_layer and cfg.reg else None
        self.conv3 = cfg.conv(mid_chs, out_chs, 1, zero_gain=not cfg.skipinit)
        self.attn_last = cfg.attention(out_chs) if cfg.attn_layer and not cfg.reg else None
        self.skipinit_gain = param((), zeros) if cfg.skipinit else None

    def __call__(self, h: Maps, key: PRNGKeyArray | None = None) -> Float[Array, "batch out_height out_width out"]:
        cfg, act = self.cfg, self.cfg.act
        x = act(h) * self.block.beta  # of unit gain, so that the division may come after it
        shortcut = h if self.downsample is None else self.downsample(x)

        x = self.conv2(act(self.conv1(x)))
        if self.conv2b is not None:
            x = self.conv2b(act(x))
        if self.attn is not None:
            x = x * (cfg.attn_gain * self.attn(x))
        f = self.conv3(act(x))
        return scale(f, self.factor(f, key)) + shortcut

    def factor(self, f: Maps, key: PRNGKeyArray | None) -> Float[Array, "batch 1 1 _"]:
        """`alpha`, and what else the branch is multiplied by: attention, SkipInit's gain, stochastic depth.

        Multiplied together first, so that they and their gradients cost almost nothing: one number per image, or per
        image and channel. In float32 at least, so that it is rounded once.
        """
        factor = jnp.full((f.shape[0], 1, 1, 1), self.cfg.alpha, jnp.promote_types(f.dtype, jnp.float32))
        if self.attn_last is not None:
            factor = factor * (self.cfg.attn_gain * self.attn_last(f))
        if self.skipinit_gain is not None:
            factor = factor * self.skipinit_gain[...]
        return drop_path(factor, self.block.drop_path_rate, key)


class NormFreeNet(ImageModel):
    """Normalization-Free network ([1], [2]; timm `NormFreeNet`). Arguments as `ImageModel`'s, and:

    Args:
        global_pool: "avg", "max", "avgmax", "catavgmax" or "".
        output_stride: 32, 16 or 8; below 32 the last stages dilate instead of striding.
    """

    def __init__(
        self,
        config: NfCfg,
        *,
        num_classes: Classes = 1000,
        in_chans: Chans = 3,
        global_pool: Annotated[str, Choice(POOLS)] = "avg",
        output_stride: Annotated[int, Choice((8, 16, 32))] = 32,
        drop_rate: ShareBelow1 = 0.0,
        drop_path_rate: ShareBelow1 = 0.0,
        dtype: Any = jnp.float32,
        data_config: DataConfig = DataConfig(),
    ):
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride={output_stride}; expected 8, 16 or 32.")
        if in_chans < 1:
            raise ValueError(f"in_chans={in_chans}; expected at least 1.")
        self.config, self.data_config = config, data_config
        self.num_classes, self.in_chans, self.output_stride = num_classes, in_chans, output_stride
        self.dtype = jnp.dtype(dtype)

        stages = block_cfgs(config, output_stride, drop_path_rate)
        self.stem = Stem(config, in_chans)
        self.stages = nnx.List([nnx.List([NormFreeBlock(config, b) for b in blocks]) for blocks in stages])
        last_chs = stages[-1][-1].out_chs
        self.num_features = config.round_channels(config.num_features) if config.num_features else last_chs
        self.final_conv = config.conv(last_chs, self.num_features, 1) if config.num_features else None
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate)

    @anywhere
    def forward_intermediates(
        self,
        x: Images,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        intermediates_only: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> list[AnyMap] | tuple[AnyMap, list[AnyMap]]:
        """Maps at strides 2 to 32, each before an activation: the stem's, and of the stages; `norm` changes nothing."""
        count = len(self.config.depths) + 1
        taken = take_indices(count, indices, least=int(intermediates_only))
        stages = self.stages[: max(taken)] if intermediates_only else self.stages
        maps = []
        x, tap = self.stem(self.check_input(x))
        if 0 in taken:
            maps.append(tap)
        keys = iter(split_key(key, sum(self.config.depths)))
        for i, stage in enumerate(stages, start=1):
            for block in stage:
                apply = jax.checkpoint(block) if self.grad_checkpointing else block
                x = apply(x, next(keys))
            if i == count - 1 and self.final_conv is not None:
                x = self.final_conv(x)
            if i in taken:
                maps.append(x)
        return maps if intermediates_only else (self.config.act(x), maps)

    def feature_taps(self) -> list[Feature]:
        cfg = self.config
        deep = cfg.stem_type == "deep_quad"
        stem_chs = cfg.stem_channels // 2 if deep else cfg.stem_channels
        taps = [Feature(stem_chs, 2, "stem.conv3" if deep else "stem.conv", 0)]
        reduction = cfg.stem_stride
        for i, blocks in enumerate(block_cfgs(cfg, self.output_stride, 0.0)):
            reduction *= blocks[0].stride
            taps.append(Feature(blocks[-1].out_chs, reduction, f"stages.{i}", i + 1))
        if cfg.num_features:
            taps[-1] = dataclasses.replace(taps[-1], num_chs=self.num_features, module="final_conv")
        return taps

    def prune(self, out_indices: Sequence[int]) -> None:
        """Return the maps `out_indices` from now on, and drop the layers that they do not need."""
        self.out_indices = tuple(take_indices(len(self.config.depths) + 1, out_indices))
        last = max(self.out_indices)
        self.reset_classifier(0, "")
        if last < len(self.stages):
            self.stages = nnx.List(list(self.stages)[:last])
            self.final_conv = None

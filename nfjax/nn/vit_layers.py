"""What vision transformers are made of, besides attention."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nfjax.fast import gelu, scale, silu
from nfjax.nn.attention import Mask, attend, merge_heads, split_heads
from nfjax.nn.head import global_pool
from nfjax.nn.layers import Conv, LayerNorm, Linear, RmsNorm, dropout, split_key
from nfjax.nn.pos_embed import RotaryTable, resample_patch_embed
from nfjax.params import Constant, Halves, Normal, TruncatedNormal, Uniform, ones, param, zeros

NORMS: dict[str, type[LayerNorm] | type[RmsNorm]] = {"layernorm": LayerNorm, "rmsnorm": RmsNorm}
# "cattokenavg", beside the class token the average patch, is what classifiers of DINOv2 see outside of timm.
POOLS = ("", "avg", "max", "avgmax", "token", "map", "prr", "cattokenavg")
Tokens = Float[Array, "batch tokens dim"]


class PatchEmbed(nnx.Module):
    """One token for each patch of an image (timm `PatchEmbed`).

    Pixels that do not fill a patch at the lower and right edge are ignored, or with `pad` zeros are put beside them.
    """

    def __init__(self, patch_size: int, in_chans: int, dim: int, *, bias: bool = True, pad: bool = False):
        self.pad = pad
        self.proj = Conv(in_chans, dim, patch_size, stride=patch_size, padding="valid")
        init = Uniform((in_chans * patch_size**2) ** -0.5)  # torch's default, of the bias too
        self.proj.kernel = param((patch_size, patch_size, in_chans, dim), init)
        self.proj.bias = param((dim,), init)
        if not bias:
            self.proj.bias = None  # type: ignore[assignment]  # of no other convolution

    def set_patch_size(self, patch_size: int) -> None:
        """Resample the kernel, in place, to patches of this side."""
        self.proj.kernel.set_value(resample_patch_embed(self.proj.kernel[...], patch_size))
        self.proj.stride = patch_size

    def __call__(self, x: Float[Array, "batch height width in_chans"]) -> Float[Array, "batch rows columns dim"]:
        if self.pad:
            below, right = (-side % self.proj.stride for side in x.shape[1:3])
            x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)))
        return self.proj(x)


class LayerScale(nnx.Module):
    """A learned factor per channel on a residual branch, `x * gamma` (2103.17239)."""

    def __init__(self, dim: int, init_value: float):
        self.gamma = param((dim,), Constant(init_value))

    def __call__(self, x: Tokens) -> Tokens:
        return scale(x, self.gamma[...])


class Mlp(nnx.Module):
    """Two linear layers with a GELU between them, and dropout after each (timm `Mlp`).

    `hidden` are the channels in between; `out_std` is the standard deviation of the second layer's initial weights.
    """

    def __init__(self, dim: int, hidden: int, *, drop: float = 0.0, out_std: float = 0.02):
        self.drop = drop
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim, std=out_std)

    def __call__(self, x: Tokens, key: PRNGKeyArray | None = None) -> Tokens:
        first, second = split_key(key, 2)
        x = dropout(gelu(self.fc1(x)), self.drop, first)
        return dropout(self.fc2(x), self.drop, second)


class SwiGLUPacked(nnx.Module):
    """Gated MLP `fc2(silu(a) * b)`, `a` and `b` the halves of `fc1` (2002.05202; timm `SwiGLUPacked`).

    `hidden` are the channels of both halves together; there is dropout before and after the second layer.
    """

    def __init__(self, dim: int, hidden: int, *, drop: float = 0.0):
        self.drop = drop
        self.fc1 = Linear(dim, hidden)
        # At first the second half is 1 everywhere, as timm has it.
        self.fc1.kernel = param((dim, hidden), Halves(Normal(0.02), Normal(1e-6)))
        self.fc1.bias = param((hidden,), Halves(zeros, ones))
        self.fc2 = Linear(hidden // 2, dim)

    def __call__(self, x: Tokens, key: PRNGKeyArray | None = None) -> Tokens:
        first, second = split_key(key, 2)
        a, b = jnp.split(self.fc1(x), 2, axis=-1)
        x = dropout(silu(a) * b, self.drop, first)
        return dropout(self.fc2(x), self.drop, second)


class SwiGLU(nnx.Module):
    """Gated MLP `fc2(silu(fc1_g(x)) * fc1_x(x))`, with dropout around the last layer (2002.05202; timm `SwiGLU`)."""

    def __init__(self, dim: int, hidden: int, *, drop: float = 0.0, out_std: float = 0.02):
        self.drop = drop
        self.fc1_g = Linear(dim, hidden)
        self.fc1_x = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim, std=out_std)

    def __call__(self, x: Tokens, key: PRNGKeyArray | None = None) -> Tokens:
        first, second = split_key(key, 2)
        x = dropout(silu(self.fc1_g(x)) * self.fc1_x(x), self.drop, first)
        return dropout(self.fc2(x), self.drop, second)


MLPS: dict[str, type[Mlp] | type[SwiGLUPacked]] = {"mlp": Mlp, "swiglu_packed": SwiGLUPacked}


class AttentionPoolLatent(nnx.Module):
    """Pooling by attention from one learned query, then a residual MLP (timm `AttentionPoolLatent`)."""

    def __init__(self, dim: int, num_heads: int, *, hidden: int, norm: LayerNorm | RmsNorm):
        self.head_dim = dim // num_heads
        self.latent = param((1, 1, dim), TruncatedNormal(dim**-0.5))
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim)
        self.proj = Linear(dim, dim)
        self.norm = norm
        self.mlp = Mlp(dim, hidden)

    def __call__(self, x: Tokens, mask: Mask | None = None) -> Float[Array, "batch dim"]:
        latent = jnp.broadcast_to(self.latent[...], (x.shape[0], 1, x.shape[2])).astype(x.dtype)
        k, v = (split_heads(part, self.head_dim) for part in self.kv.split(x, 2))
        y = self.proj(merge_heads(attend(split_heads(self.q(latent), self.head_dim), k, v, mask=mask)))
        return (y + self.mlp(self.norm(y)))[:, 0]


def masked_pool_nlc(x: Tokens, valid: Bool[Array, "batch tokens"], pool_type: str) -> Float[Array, "batch dim"]:
    """ "avg", "max" or their mean "avgmax" of the valid tokens of each image (timm `global_pool_naflex`)."""
    found = valid[:, :, None]
    average = jnp.where(found, x, 0).sum(1) / jnp.maximum(found.sum(1), 1).astype(x.dtype)
    maximum = jnp.where(found, x, jnp.finfo(x.dtype).min).max(1)
    return {"avg": average, "max": maximum, "avgmax": (average + maximum) / 2}[pool_type]


def refined_pool(x: Tokens, head_dim: int, *, token: bool) -> Float[Array, "batch dim"]:
    """The first token, or the average of all, after attention without weights: the tokens are queries, keys and values
    (timm `AttentionPoolPrr`)."""
    heads = split_heads(x, head_dim)
    refined = merge_heads(attend(heads, heads, heads))
    return refined[:, 0] if token else refined.mean(1)


def drop_patches(
    x: Tokens, rope: RotaryTable | None, prefix: int, rate: float, key: PRNGKeyArray | None
) -> tuple[Float[Array, "batch _ dim"], RotaryTable | Float[Array, "2 batch _ head_dim"] | None]:
    """The first `prefix` tokens, and of each image so many patches, drawn and in an order that is drawn (2212.00794;
    timm `PatchDropout`); with them their rows of the table of rotary positions, image by image."""
    if key is None or rate == 0:
        return x, rope
    batch, patches = x.shape[0], x.shape[1] - prefix
    kept = jnp.argsort(jax.random.normal(key, (batch, patches)))[:, : max(1, int(patches * (1 - rate)))]
    x = jnp.concatenate([x[:, :prefix], jnp.take_along_axis(x[:, prefix:], kept[..., None], axis=1)], axis=1)
    return x, None if rope is None else rope[:, kept]


def global_pool_nlc(x: Tokens, pool_type: str, num_prefix_tokens: int) -> Float[Array, "batch features"] | Tokens:
    """One vector for each image (timm `global_pool_nlc`).

    "token" takes the first token; "avg", "max" and their mean "avgmax" leave out the first
    `num_prefix_tokens`; "cattokenavg", which timm does not have, joins first token and average; "" returns `x` itself.
    """
    if pool_type == "cattokenavg":
        return jnp.concatenate([x[:, 0], global_pool(x[:, num_prefix_tokens:], "avg")], axis=-1)
    if pool_type == "token":
        return x[:, 0]
    return x if pool_type == "" else global_pool(x[:, num_prefix_tokens:], pool_type)

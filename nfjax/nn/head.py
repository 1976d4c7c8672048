"""Global pooling and the classifier (timm `ClassifierHead`)."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from nfjax.nn.layers import Linear, dropout

POOLS = ("", "avg", "max", "avgmax", "catavgmax")
Maps = Float[Array, "batch height width channels"]
# One vector for each image, or with the pool "" for each pixel.
Vectors = Float[Array, "batch features"] | Float[Array, "batch height width features"]


def global_pool(x: Float[Array, "batch *space channels"], pool_type: str) -> Float[Array, "batch ..."]:
    """One vector for each image; with twice the channels for "catavgmax".

    "" returns `x` itself. "avgmax" is the mean of the two, "catavgmax" joins average and maximum.
    """
    space = tuple(range(1, x.ndim - 1))
    if pool_type == "":
        return x
    if pool_type == "avg":
        return x.mean(space)
    if pool_type == "max":
        return x.max(space)
    average, maximum = x.mean(space), x.max(space)
    return (average + maximum) / 2 if pool_type == "avgmax" else jnp.concatenate([average, maximum], axis=-1)


class ClassifierHead(nnx.Module):
    """Pool, dropout (when the call is given a key), linear classifier; with 0 classes the pooled features are returned.

    `in_features` are the channels of the incoming map, and `pool_type` is one of `POOLS`.
    """

    def __init__(self, in_features: int, num_classes: int, pool_type: str = "avg", drop_rate: float = 0.0):
        if pool_type not in POOLS:
            raise ValueError(f"global_pool={pool_type!r} is not known; choose one of {', '.join(map(repr, POOLS))}.")
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes}; expected 0 (no classifier) or more.")
        self.in_features, self.pool_type, self.drop_rate = in_features, pool_type, drop_rate
        self.num_features = in_features * (2 if pool_type == "catavgmax" else 1)
        self.fc = Linear(self.num_features, num_classes, std=0.01) if num_classes else None

    def __call__(self, x: Maps, *, pre_logits: bool = False, key: PRNGKeyArray | None = None) -> Vectors:
        x = dropout(global_pool(x, self.pool_type), self.drop_rate, key)
        if pre_logits or self.fc is None:
            return x
        # Logits in float32 at least: a bfloat16 model keeps the resolution that the loss needs.
        return self.fc(x.astype(jnp.promote_types(x.dtype, jnp.float32)))

"""From uint8 images to what a model was made for."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

Images = Num[Array, "batch height width channels"]  # uint8, or what mixing makes of it
Inputs = Float[Array, "batch height width channels"]


@dataclasses.dataclass(frozen=True)
class Normalize:
    """Pixels in [0, 1], less the mean, over the standard deviation, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: Any = jnp.float32

    def __call__(self, images: Images) -> Inputs:
        mean, std = jnp.array(self.mean, self.dtype), jnp.array(self.std, self.dtype)
        return (images.astype(self.dtype) / 255 - mean) / std

"""Low-rank adapters (LoRA, 2106.09685): beside a kernel W two thin matrices, and W + scale A B in its place.

The sum is made in every step, before what else is done with the kernel, standardising it for example; so the model that
is saved, with the sums for its kernels, is the one that was trained. W stays as it is, outside of checkpoints.
"""

import math
import re
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfjax.params import Uniform
from train.config import Lora
from train.optim.parameters import CLASSIFIER, matching

ADAPTER = re.compile(r"(.*/)lora_[ab]")  # the path of an adapter; before it that of its layer


def split_off(lora: Lora, params: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stays as it is, and what is trained: fresh adapters, and the classifier; of arrays, or of shapes.

    A is drawn evenly from -1 / sqrt(in) to 1 / sqrt(in), B is 0, so that the first step sees the model as it was.

    Args:
        lora: `rank` is at least 1.
        params: of the model.
        seed: of the adapters; each has its own stream, from the seed and its path.

    Raises:
        ValueError: a pattern matches no layer that can have an adapter; or a rank that is no less than a matrix.
    """
    base = {path: value for path, value in params.items() if not re.fullmatch(CLASSIFIER, path)}
    trained = {path: value for path, value in params.items() if path not in base}
    for path in targets(lora, {path: value.shape for path, value in base.items()}):
        layer, kernel = path.removesuffix("kernel"), base[path]
        fan_in, out = kernel.shape[-2:]
        shapes = {f"{layer}lora_a": (fan_in, lora.rank), f"{layer}lora_b": (lora.rank, out)}
        if isinstance(kernel, jax.ShapeDtypeStruct):
            trained |= {name: jax.ShapeDtypeStruct(shape, kernel.dtype) for name, shape in shapes.items()}
            continue
        first, second = shapes
        seeds = np.random.SeedSequence([seed, zlib.crc32(first.encode())])
        drawn = Uniform(fan_in**-0.5)(np.random.Generator(np.random.Philox(seeds)), shapes[first])
        trained |= jax.device_put({first: drawn.astype(kernel.dtype), second: np.zeros(shapes[second], kernel.dtype)})
    return base, trained


def targets(lora: Lora, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The kernels that get adapters, in the order of the model."""
    fitting = [path for path, shape in shapes.items() if path.endswith("kernel") and _is_matrix(shape)]
    small = {path for path in fitting if min(shapes[path][-2:]) <= lora.rank}
    if not lora.targets:
        found = [path for path in fitting if path not in small]
        if not found:
            raise ValueError(f"lora.rank={lora.rank}: no layer has a matrix of more rows and columns than that.")
        return found
    wanted = {path for pattern in lora.targets for path in matching(pattern, fitting, "lora.targets")}
    if full := [path for path in fitting if path in wanted & small]:
        shape = "x".join(map(str, shapes[full[0]][-2:]))
        raise ValueError(f"lora.rank={lora.rank} is no less than {full[0]} has, {shape}; take a smaller one.")
    return [path for path in fitting if path in wanted]


def _is_matrix(shape: Collection[int]) -> bool:
    """A linear layer's kernel, or a 1x1 convolution's."""
    return len(shape) >= 2 and math.prod(list(shape)[:-2]) == 1


def scale_of(lora: Lora) -> float:
    """The factor on A B."""
    return lora.alpha / lora.rank


def merged(params: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """The model's parameters: kernels with the products of their adapters added, no adapters.

    Args:
        params: all of them, of jax or of numpy; the sums of numpy's are made in float64 and rounded once.
        scale: of the products.
    """
    found = {path: value for path, value in params.items() if not ADAPTER.fullmatch(path)}
    for path, a in params.items():
        if not path.endswith("/lora_a"):
            continue
        layer = path.removesuffix("lora_a")
        b, kernel = params[f"{layer}lora_b"], found[f"{layer}kernel"]
        if isinstance(kernel, np.ndarray):
            product = np.float64(scale) * (a.astype(np.float64) @ b.astype(np.float64))
            found[f"{layer}kernel"] = (kernel + product.reshape(kernel.shape)).astype(kernel.dtype)
        else:
            product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST) * scale
            found[f"{layer}kernel"] = kernel + product.reshape(kernel.shape).astype(kernel.dtype)
    return found

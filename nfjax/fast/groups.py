"""Grouped convolutions as dense ones, by the route that suits the backend.

XLA runs a grouped convolution (`feature_group_count`) slowly on a CPU (measured: 4 times forward, up to 400 times in
the weight gradient) and gathers the batch of a mesh for it. So groups become separate dense convolutions; or neighbours
are packed into one block-diagonal kernel, which costs arithmetic, but keeps the compiled program small (66 groups:
0.9 s to compile instead of 3.4 s) and fills the wide units of an accelerator.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nfjax.fast.backend import asked_route, backend
from nfjax.fast.operation import operation
from nfjax.params import Value

Images = Float[Array, "batch height width _"]
Kernel = Float[Value, "kernel_height kernel_width fan_in out_channels"]
Part = tuple[Images, Float[Value, "kernel_height kernel_width _ _"]]


class Route(NamedTuple):
    """How groups become convolutions.

    Attributes:
        most: convolutions; neighbours are packed until there are no more.
        width: input channels of one that are worth having; neighbours are packed until there are as many.
    """

    most: int | None
    width: int = 1


ROUTES: dict[str, Route] = {
    "split": Route(8),
    "packed": Route(8, 128),  # the lanes of a TPU
    "dense": Route(1),  # one block-diagonal kernel
    "grouped": Route(None),  # the library's own grouped convolution
}
# The best by the bound of their programs (benchmarks/README.md); no GPU and no TPU has been timed yet.
BY_BACKEND = {"cpu": "split", "gpu": "split", "tpu": "split", "any": "split"}


@operation
def group_parts(x: Images, kernel: Kernel, groups: int) -> list[Part]:
    """Inputs and kernels of convolutions whose results, joined, are the grouped convolution: of each group its own."""
    return list(zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True))


@group_parts.faster
def _group_parts(x: Images, kernel: Kernel, groups: int) -> list[Part]:
    chosen = ROUTES[asked_route() or BY_BACKEND[backend()]]
    if chosen.most is None:  # a kernel that sees a part of the channels
        return [(x, kernel)]
    height, width, fan_in, out = kernel.shape
    divisors = [n for n in range(1, groups + 1) if groups % n == 0]
    pack = next(n for n in divisors if groups // n <= chosen.most and (n * fan_in >= chosen.width or n == groups))
    if pack > 1:
        blocks = kernel.reshape(height, width, fan_in, groups // pack, pack, out // groups)
        # [.., q, i, g, p, o]: input channel i of member q reaches output o of member p only where p == q.
        diagonal = jnp.einsum("hwigpo,pq->hwqigpo", blocks, jnp.eye(pack, dtype=kernel.dtype))
        kernel = diagonal.reshape(height, width, pack * fan_in, out)
    return group_parts.plain(x, kernel, groups // pack)

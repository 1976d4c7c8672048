"""The operations that are written differently for the sake of one backend's speed or memory.

Each is a formula and, below it, its faster form (`nfjax.fast.operation`). Formulas elsewhere call them by name, and do
not ask what they run on.
"""

from nfjax.fast.activations import gelu, silu
from nfjax.fast.attention import attend
from nfjax.fast.barriers import row_major
from nfjax.fast.groups import group_parts
from nfjax.fast.linear import add_bias, in_parts, matmul, scale
from nfjax.fast.norms import normalize, standardize
from nfjax.fast.operation import plain_formulas
from nfjax.fast.pieces import compiled
from nfjax.fast.winograd import WinogradConv

__all__ = [
    "WinogradConv", "add_bias", "attend", "compiled", "gelu", "group_parts", "in_parts", "matmul", "normalize",
    "plain_formulas", "row_major", "scale", "silu", "standardize",
]  # fmt: skip

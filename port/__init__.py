"""The ground floor: weights (timm's names and layouts <-> ours, files, the hub), and what all commands share.

It knows no model class and imports no torch.

nfjax convert SOURCE DEST     timm weights to Flax parameters, and back
nfjax verify NAME...          a model against timm, stage by stage
"""

from typing import TYPE_CHECKING

from port.lazy import lazy

if TYPE_CHECKING:
    from port.errors import WeightsError, WeightsFileError, check_strict
    from port.files import read_weights, write_safetensors
    from port.rules import RULES, timm_shapes, to_flax, to_timm
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "port.errors": ("WeightsError", "WeightsFileError", "check_strict"),
            "port.files": ("read_weights", "write_safetensors"),
            "port.rules": ("RULES", "timm_shapes", "to_flax", "to_timm"),
        },
    )

__all__ = [
    "RULES", "WeightsError", "WeightsFileError", "check_strict", "read_weights", "timm_shapes", "to_flax", "to_timm",
    "write_safetensors",
]  # fmt: skip

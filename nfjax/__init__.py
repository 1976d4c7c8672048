"""timm's Normalization-Free networks in JAX: timm's weights in, timm's logits out, and back.

>>> import nfjax
>>> model = nfjax.load("eca_nfnet_l0")
>>> logits = model(images)  # (batch, height, width, 3) -> (batch, 1000)
"""

from nfjax.data_config import DataConfig
from nfjax.infer import compile, fold
from nfjax.loading import load
from nfjax.model import ImageModel
from nfjax.registry import UnknownModelError, data_config, list_models
from nfjax.saving import save, state_dict

__version__ = "0.1.0"

__all__ = [
    "DataConfig",
    "ImageModel",
    "UnknownModelError",
    "compile",
    "data_config",
    "fold",
    "list_models",
    "load",
    "save",
    "state_dict",
]

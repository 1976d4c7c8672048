"""timm's Normalization-Free networks and register ViTs in JAX: timm's weights in, timm's logits out, and back.

>>> import nfjax
>>> model = nfjax.load("eca_nfnet_l0")
>>> logits = model(images)  # (batch, height, width, 3) -> (batch, 1000)
"""

from nfjax.exporting import export
from nfjax.images import load_image
from nfjax.infer import compile, fold
from nfjax.labels import class_names, top_k
from nfjax.loading import load
from nfjax.models.base import ImageModel
from nfjax.models.data_config import DataConfig
from nfjax.models.registry import UnknownModelError, data_config, list_models
from nfjax.saving import save, state_dict
from nfjax.serving import load_exported
from nfjax.transforms import EvalTransform, create_transform

__version__ = "0.1.0"

__all__ = [
    "DataConfig",
    "EvalTransform",
    "ImageModel",
    "UnknownModelError",
    "class_names",
    "compile",
    "create_transform",
    "data_config",
    "export",
    "fold",
    "list_models",
    "load",
    "load_exported",
    "load_image",
    "save",
    "state_dict",
    "top_k",
]

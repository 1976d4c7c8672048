"""timm's Normalization-Free networks and register ViTs in JAX: timm's weights in, timm's logits out, and back.

>>> import nfjax
>>> model = nfjax.load("eca_nfnet_l0")
>>> logits = model(images)  # (batch, height, width, 3) -> (batch, 1000)
"""

from typing import TYPE_CHECKING

from nfjax import siblings

siblings.claim("port")  # before anything here imports it

if TYPE_CHECKING:
    from nfjax.exporting import export
    from nfjax.images import load_image
    from nfjax.infer import compile, fold
    from nfjax.labels import class_names, top_k
    from nfjax.models.base import ImageModel
    from nfjax.models.data_config import DataConfig
    from nfjax.models.known import UnknownModelError
    from nfjax.models.registry import data_config, list_models
    from nfjax.onnx.export import export_onnx
    from nfjax.serving import load_exported
    from nfjax.tasks.classifying import classify
    from nfjax.tasks.explaining import explain
    from nfjax.transforms import EvalTransform, create_transform
    from nfjax.weights.loading import load
    from nfjax.weights.publishing import push_to_hub
    from nfjax.weights.saving import save, state_dict
else:
    from port.lazy import lazy

    __getattr__, __dir__ = lazy(
        __name__,
        {
            "nfjax.tasks.classifying": ("classify",),
            "nfjax.tasks.explaining": ("explain",),
            "nfjax.exporting": ("export",),
            "nfjax.images": ("load_image",),
            "nfjax.infer": ("compile", "fold"),
            "nfjax.labels": ("class_names", "top_k"),
            "nfjax.weights.loading": ("load",),
            "nfjax.models.base": ("ImageModel",),
            "nfjax.models.data_config": ("DataConfig",),
            "nfjax.models.known": ("UnknownModelError",),
            "nfjax.models.registry": ("data_config", "list_models"),
            "nfjax.onnx.export": ("export_onnx",),
            "nfjax.weights.publishing": ("push_to_hub",),
            "nfjax.weights.saving": ("save", "state_dict"),
            "nfjax.serving": ("load_exported",),
            "nfjax.transforms": ("EvalTransform", "create_transform"),
        },
    )
    del lazy

__version__ = "0.1.0"

__all__ = [
    "DataConfig", "EvalTransform", "ImageModel", "UnknownModelError", "class_names", "classify", "compile",
    "create_transform", "data_config", "explain", "export", "export_onnx", "fold", "list_models", "load",
    "load_exported", "load_image", "push_to_hub", "save", "state_dict", "top_k",
]  # fmt: skip

"""The way back: a model's weights under timm's names, and a folder that timm loads."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

import port
from nfjax.models import registry
from nfjax.models.base import ImageModel
from nfjax.params import named_params
from port.atomic import replacing
from port.paths import user_path


def state_dict(model: ImageModel) -> dict[str, np.ndarray]:
    """The model's parameters as timm's state dict: `{timm name: contiguous numpy array}`.

    Raises:
        ValueError: for a folded model, whose standardised weights are gone.
    """
    if model.folded:
        raise ValueError("a folded model has no timm weights any more; export the model that was folded.")
    values = jax.device_get({path: var.get_value() for path, var in named_params(model).items()})
    return {name: np.array(array, order="C") for name, array in port.to_timm(values).items()}


def save(model: ImageModel, path: str | os.PathLike[str]) -> Path:
    """Write a folder in the Hugging Face hub's layout: model.safetensors and config.json.

    timm reads it as `timm.create_model("local-dir:PATH", pretrained=True)`, nfjax as
    `nfjax.load("local-dir:PATH")`. Files that are there already are replaced, each atomically.

    Raises:
        ValueError: for a folded model, or one loaded with `features_only=True`, which lacks layers.
    """
    if model.out_indices is not None:
        raise ValueError("a features_only model has lost its classifier; save the model it came from.")
    folder = user_path(path)
    state = state_dict(model)
    port.write_safetensors(state, folder / "model.safetensors", format="pt")
    with replacing(folder / "config.json") as partial:
        partial.write_text(json.dumps(hub_config(model), indent=2) + "\n", encoding="utf-8")
    return folder


def hub_config(model: ImageModel) -> dict[str, Any]:
    """The config.json of a model, in timm's layout (`timm.models.save_for_hf`)."""
    fields = {field: getattr(model.data_config, field) for field in ("input_size", "test_input_size")}
    sizes: dict[str, Any] = {field: (model.in_chans, *size[1:]) for field, size in fields.items() if size is not None}
    data = dataclasses.replace(model.data_config, num_classes=model.num_classes, **sizes)
    config: dict[str, Any] = {
        "architecture": data.architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
    }
    if model.global_pool:
        config["global_pool"] = model.global_pool
    if data.label_names is not None:
        config["label_names"] = list(data.label_names)
    # What timm's constructor must be told beyond what it reads from the pretrained cfg.
    if model_args := model.model_args(registry.MODELS[data.architecture].config):
        config["model_args"] = model_args
    return config | {"pretrained_cfg": data.to_json()}

"""The way back: a model's weights under timm's names, and a folder that timm loads."""

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

import port
from nfjax.models import registry
from nfjax.models.base import ImageModel
from nfjax.models.eva import Eva
from nfjax.models.vit import VisionTransformer
from nfjax.params import named_params
from nfjax.weights.card import About, card, write_card
from nfjax.weights.names import from_config
from nfjax.weights.planning import DTYPES, LoadOptions, make_plan
from port import messages
from port.atomic import replacing
from port.files import CHECKSUM, checksum
from port.layouts import OF_TRANSFORMERS, configs
from port.paths import require_path

logger = logging.getLogger("nfjax")

LAYOUTS = ("timm", "transformers")
# Values of options that timm's models do not have.
NOT_IN_TIMM: dict[str, Any] = {
    "global_pool": lambda pool: pool == "cattokenavg",
    "act_layer": lambda act: act == "gelu_tanh",
    "std_conv_floor": bool,
}
# What an architecture of timm fixes: its constructor takes no other value.
FIXED_IN_TIMM = ("norm_eps", "pos_embed_interp")


def state_dict(model: ImageModel) -> dict[str, np.ndarray]:
    """The model's parameters as timm's state dict: `{timm name: contiguous numpy array}`.

    Raises:
        ValueError: for a folded model, whose standardised weights are gone, and for variables that are no parameters.
    """
    if model.folded:
        raise ValueError("a folded model has no timm weights any more; export the model that was folded.")
    others = [
        f"{'.'.join(map(str, path))} ({type(node).__name__})"
        for path, node in nnx.iter_graph(model)
        if isinstance(node, nnx.Variable) and not isinstance(node, (nnx.Param, nnx.RngState))
    ]
    if others:
        raise ValueError(
            f"timm's weights have no place for {', '.join(others)}: no nnx.Param. Merge them into the parameters, or "
            "take them out, first."
        )
    values = jax.device_get({path: var.get_value() for path, var in named_params(model).items()})
    return {name: np.array(array, order="C") for name, array in port.to_timm(values).items()}


def save(model: ImageModel, path: str | os.PathLike[str], *, layout: str = "timm", about: About | None = None) -> Path:
    """Write a folder in the Hugging Face hub's layout: model.safetensors, config.json, and a model card, README.md.

    timm reads it as `timm.create_model("local-dir:PATH", pretrained=True)`, nfjax as
    `nfjax.load("local-dir:PATH")`. Files that are there already are replaced, each atomically; `nfjax.load` refuses a
    folder where only one of them was. Classes and input channels are those of the parameters, also where a layer was
    replaced by another one of its kind.

    With `layout="transformers"` the folder is one of that library, for `AutoModel` and
    `AutoModelForImageClassification`, and for nfjax: DINOv2 with registers, for square images, as Dinov2WithRegisters;
    DINOv3 with `global_pool="token"` and no classifier as DINOv3ViT; everything else as TimmWrapper, which needs timm.
    Such a folder gets no card.

    A README.md of somebody else's stays as it is. `about` is what the card says beyond what the model knows
    (`nfjax.weights.card.About`).

    Raises:
        ValueError: another layout; for a folded model, or one loaded with `features_only=True`, which lacks layers;
            and for one with other parameters than its architecture has, naming them: neither timm nor nfjax could load
            it.
    """
    folder = require_path(path)
    messages.require_name("layout", layout, LAYOUTS)
    if model.out_indices is not None:
        raise ValueError("a features_only model has lost its classifier; save the model it came from.")
    if model.data_config.classifier == "head.fc" and not hasattr(model.head, "pool_type"):
        found = type(model.head).__name__
        raise ValueError(_refusal(model.data_config.architecture, f"head is a {found}; replace head.fc alone"))
    state, config = state_dict(model), hub_config(model)
    _require_loadable(config, state)
    _require_own_layers(model)
    if layout == "transformers":
        state, config = _of_transformers(model, state, config)
    elif lacking := _beyond_timm(model):
        logger.warning(f"timm has no {lacking}, and so cannot load what is saved in {folder}; nfjax can.")
    metadata = {CHECKSUM: checksum(state)}
    with replacing(folder / "model.safetensors") as weights:
        port.write_safetensors(state, weights, format="pt", **metadata)
        # Before the weights: whatever was there before, this says that they are not its own.
        with replacing(folder / "config.json") as partial:
            partial.write_text(json.dumps(config | metadata, indent=2) + "\n", encoding="utf-8")
    if layout == "timm":
        write_card(folder, card(model, about or About()))
    return folder


def _of_transformers(
    model: ImageModel, state: dict[str, np.ndarray], config: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights and config.json as transformers has them."""
    classes, labels = config["num_classes"], config.get("label_names")
    if isinstance(model, VisionTransformer) and type(model) in (VisionTransformer, Eva):
        named = dataclasses.asdict(model.config) | {
            "global_pool": model.global_pool,
            "img_size": model.data_config.input_size[1:],
            "in_chans": config["pretrained_cfg"]["input_size"][0],
            "mlp_hidden": model.config.mlp_hidden,
            "fc_norm": model.fc_norm is not None,
        }
        args = {model.timm_names.get(name, name): value for name, value in named.items()}
        if type(model) is VisionTransformer and configs.is_dinov2(args, classes):
            written = configs.of_dinov2(args, classes, labels)
            problem = {name: config[name] for name in ("problem_type",) if name in config}
            return _written(state, written | problem)
        if type(model) is Eva and configs.is_dinov3(args, classes):
            return _written(state, configs.of_dinov3(args))
    if lacking := _beyond_timm(model):
        raise ValueError(f"neither timm nor transformers has {lacking}; save the model with layout='timm', for nfjax.")
    return _written(state, configs.of_wrapper(config))


def _written(state: dict[str, np.ndarray], config: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    return OF_TRANSFORMERS[config["architectures"][0]].from_timm(state), config


def _beyond_timm(model: ImageModel) -> str:
    """Options that timm's model cannot have, or nothing."""
    values = vars(model.config) | {"global_pool": model.global_pool}
    own = vars(registry.MODELS[model.data_config.architecture].config)
    fixed = FIXED_IN_TIMM + (("final_norm",) if isinstance(model, Eva) else ())
    beyond = [name for name, is_beyond in NOT_IN_TIMM.items() if is_beyond(values.get(name))]
    beyond += [name for name in fixed if values.get(name) != own.get(name)]
    return ", ".join(f"{name}={values[name]!r}" for name in beyond)


def hub_config(model: ImageModel) -> dict[str, Any]:
    """The config.json of a model, in timm's layout (`timm.models.save_for_hf`)."""
    fields = {field: getattr(model.data_config, field) for field in ("input_size", "test_input_size")}
    pixels = model.first_pixels(model.config)
    chans = _axis(model, model.data_config.first_conv, -2, model.in_chans * pixels) // pixels
    classes = _axis(model, model.data_config.classifier, -1, model.num_classes)
    sizes: dict[str, Any] = {field: (chans, *size[1:]) for field, size in fields.items() if size is not None}
    data = dataclasses.replace(model.data_config, num_classes=classes, **sizes)
    config: dict[str, Any] = {
        "architecture": data.architecture,
        "num_classes": classes,
        "num_features": model.num_features,
    }
    if model.global_pool:
        config["global_pool"] = model.global_pool
    if data.label_names is not None and len(data.label_names) == classes:
        config["label_names"] = list(data.label_names)
    if data.problem_type is not None:
        config["problem_type"] = data.problem_type
    # What timm's constructor must be told beyond what it reads from the pretrained cfg.
    if model_args := model.model_args(registry.MODELS[data.architecture].config):
        config["model_args"] = model_args
    return config | {"pretrained_cfg": data.to_json()}


def _axis(model: ImageModel, layer: str | None, axis: int, otherwise: int) -> int:
    """The length of an axis of a layer's kernel, which may have been replaced; `otherwise` where there is none."""
    kernel = named_params(model).get(f"{layer}/kernel".replace(".", "/"))
    return otherwise if kernel is None else int(kernel.get_value().shape[axis])


def _require_own_layers(model: ImageModel) -> None:
    """Refuse layers that may compute something else from parameters of the same names; linear ones of Flax do not."""
    for path, module in nnx.iter_graph(model):
        holds = isinstance(module, nnx.Module) and any(isinstance(v, nnx.Param) for v in vars(module).values())
        where = type(module).__module__
        if not holds or where.startswith("nfjax."):
            continue
        name = ".".join(map(str, path))
        if not (type(module) in (nnx.Linear, nnx.LinearGeneral, nnx.Einsum) and name in ("head", "head.fc")):
            raise ValueError(_refusal(model.data_config.architecture, f"{name} is a {where}.{type(module).__name__}"))


def _refusal(architecture: str, why: str) -> str:
    return (
        f"the model is no {architecture} any more, and nothing could load it: {why}. Save the backbone alone after "
        "model.reset_classifier(0), or the whole with nnx.split and orbax (docs/flax.md)."
    )


def _require_loadable(config: dict[str, Any], state: dict[str, np.ndarray]) -> None:
    """Refuse parameters that `nfjax.load` would refuse, or take for others."""
    source = from_config(config, Path(), config["architecture"])
    shapes = {p: v.get_value().shape for p, v in named_params(make_plan(source, LoadOptions(), state).build()).items()}
    inexact = [f"{name} ({a.dtype})" for name, a in state.items() if a.dtype.name not in DTYPES]
    if inexact:
        raise ValueError(f"weights are of {', '.join(DTYPES)}; found {', '.join(inexact)}.")
    expected, found = port.timm_shapes(shapes), {name: array.shape for name, array in state.items()}
    if expected == found:
        return
    beyond = [f"{name} {shape}" for name, shape in found.items() if expected.get(name) != shape]
    lacking = [f"{name} {shape}" for name, shape in expected.items() if found.get(name) != shape]
    told = [f"it has {', '.join(beyond)}" if beyond else "", f"it lacks {', '.join(lacking)}" if lacking else ""]
    raise ValueError(_refusal(config["architecture"], "; ".join(filter(None, told))))

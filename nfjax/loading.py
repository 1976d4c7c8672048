"""`nfjax.load`: a model by name, with weights from the hub, a file, a folder or memory."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import port
from nfjax.input_channels import InChansMode, adapt_in_chans
from nfjax.models import registry
from nfjax.models.base import ImageModel, sides, take_indices
from nfjax.models.data_config import DataConfig, frozen
from nfjax.params import fill, initialize, named_params
from port.files import read_config

logger = logging.getLogger("nfjax")

Weights = str | os.PathLike[str] | Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Source:
    """What a user's model name stands for."""

    entry: registry.Entry
    data: DataConfig
    model_args: dict[str, Any]
    location: str | Path | None  # hub id (of a config.json: at its commit), folder, or nowhere


def resolve(name: str) -> Source:
    """The architecture, data config and place of weights behind a name.

    Args:
        name: "arch", "arch.tag", "hf-hub:organisation/name[@revision]" (also "hf_hub:") or "local-dir:PATH".
    """
    scheme, colon, rest = name.partition(":")
    scheme = scheme.lower().replace("_", "-")
    if colon and scheme == "hf-hub":
        from port import hub  # here: it takes 60 ms to import, and files are read without it

        config, pinned = hub.fetch_config(rest)
        return _from_config(config, pinned, name)
    if colon and scheme == "local-dir":
        folder = Path(rest)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder} has no config.json; expected a folder that nfjax.save or timm wrote.")
        return _from_config(read_config(folder / "config.json"), folder, name)
    if colon and len(scheme) > 1:
        raise registry.UnknownModelError(f"unknown source {scheme!r} in {name!r}; expected hf-hub: or local-dir:.")
    entry, data = registry.find(name)
    return Source(entry, data, {}, data.hf_hub_id)


def _from_config(config: Mapping[str, Any], location: str | Path, name: str) -> Source:
    """Read a hub config.json: today's layout, or the older one without a `pretrained_cfg` entry."""
    architecture = config["architecture"]
    if architecture not in registry.MODELS:
        raise registry.UnknownModelError(
            f"{name} holds a {architecture!r}, which nfjax does not have; nfjax.list_models() shows what it has."
        )
    entry = registry.MODELS[architecture]
    ours = {theirs: field for field, theirs in entry.family.timm_names.items()}
    model_args = {ours.get(key, key): frozen(value) for key, value in (config.get("model_args") or {}).items()}
    img_size = model_args.pop("img_size", None)
    unknown = sorted(set(model_args) - entry.options())
    if unknown:
        raise ValueError(
            f"{name}: config.json sets model_args {', '.join(unknown)}, which nfjax cannot follow; "
            f"known: {', '.join(sorted(entry.options()))}."
        )
    data = dataclasses.replace(entry.data[0], tag="", hf_hub_id=location if isinstance(location, str) else None)
    data = data.updated(config.get("pretrained_cfg", config))
    data = data.updated({k: config[k] for k in ("num_classes", "label_names") if k in config})
    if img_size is not None:
        data = dataclasses.replace(data, input_size=(data.input_size[0], *sides(img_size)))
    return Source(entry, dataclasses.replace(data, architecture=architecture), model_args, location)


def load(
    name: str,
    weights: Weights = "pretrained",
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    global_pool: str | None = None,
    output_stride: int | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    dtype: Any = jnp.float32,
    seed: int = 0,
    in_chans_mode: InChansMode = "timm",
    **overrides: Any,
) -> ImageModel:
    """A timm model in JAX, with timm's weights.

    Args:
        name: "eca_nfnet_l0", "eca_nfnet_l0.ra2_in1k", "hf-hub:timm/eca_nfnet_l0" (also "hf_hub:", and with
            "@revision"), or "local-dir:PATH" of a folder with a config.json.
        weights: "pretrained" for the published ones (or the folder's own); None for fresh ones from `seed`; the
            path of a file or folder; or a mapping from timm names to arrays.
        num_classes: None for as many as the weights have. Another number keeps the backbone and makes a
            fresh classifier, and says so; 0 leaves the classifier out.
        in_chans: None for as many as the name's data config says, 3 as a rule. A number that the weights do not
            have adapts their first convolution.
        img_size: height and width of the input, in pixels; None for the model's own. A transformer's position
            embedding is resampled to it. Convolutional models take any size; it then only goes into
            `model.data_config`.
        global_pool: None for the model's own; "avg", "max", "avgmax" or "" for none; "catavgmax" for
            convolutional models; "token", the class token, for transformers.
        output_stride: 32, 16 or 8: dilate instead of striding in the last stages of a convolutional model. None for
            the model's own.
        drop_rate: dropout before the classifier, when training.
        drop_path_rate: stochastic depth of the last block, when training.
        features_only: a call returns a list of NHWC feature maps instead of logits.
        out_indices: which maps: positions, or an int for the last n; None for all five of a convolutional model,
            the last three of a transformer. Layers beyond the last one are dropped.
        dtype: compute dtype. Parameters are float32, or float64 if this is.
        seed: of everything that is drawn: fresh models and fresh classifiers.
        in_chans_mode: "timm" adapts the first convolution to `in_chans` with timm's numbers; "exact" keeps its
            response, which timm's does not where weights are standardised (see `nfjax.input_channels`).
        overrides: fields of the architecture, `model.config`, to be changed; timm's names, as in timm. For
            transformers among them `dynamic_img_size`, `pos_drop_rate`, `proj_drop_rate`, `attn_drop_rate`.

    Returns:
        An `ImageModel`; `model(x)` gives logits of shape `(batch, num_classes)`.

    Raises:
        nfjax.UnknownModelError: no such name; the closest are suggested.
        ValueError: an option that the model does not have, or a value that it cannot have.
        port.WeightsError: missing, unexpected or wrongly shaped arrays, all of them named at once.
        FileNotFoundError: no such file, or the hub cannot be reached.
    """
    source = resolve(name)
    state, origin = _read(weights, source, name)
    data, args = source.data, source.model_args

    weights_classes = _rows(state, f"{data.classifier}.weight", 0)
    if weights_classes is None:
        weights_classes = args.get("num_classes", data.num_classes)
    classes = weights_classes if num_classes is None else num_classes
    source_chans = args.get("in_chans", data.input_size[0])
    chans = source_chans if in_chans is None else in_chans
    size = data.input_size[1:] if img_size is None else sides(img_size)

    asked = {"global_pool": global_pool, "output_stride": output_stride}
    options = args | {option: value for option, value in asked.items() if value is not None} | overrides
    if state is not None:
        options = source.entry.family.weights_options(source.entry.config, state) | options
    model = source.entry.build(
        dataclasses.replace(
            data,
            num_classes=classes,
            input_size=(chans, *size),
            label_names=data.label_names if classes == weights_classes else None,
        ),
        **options
        | {
            "num_classes": classes,
            "in_chans": chans,
            "drop_rate": drop_rate,
            "drop_path_rate": drop_path_rate,
            "dtype": dtype,
        },
    )
    if state is None:
        if features_only:
            model.prune(_out_indices(model, out_indices))
        initialize(named_params(model), seed, model.param_dtype)
        return model

    state = dict(state)
    if classes != weights_classes:
        for leaf in ("weight", "bias"):
            state.pop(f"{data.classifier}.{leaf}", None)
        if classes:
            logger.warning(
                f"{data.name}: the weights have {weights_classes} classes and the model {classes}, so its classifier "
                "is fresh: train it before you trust its logits."
            )
    elif num_classes is None and classes != data.num_classes:
        logger.warning(f"{data.name}: the weights have {classes} classes, not {data.num_classes}; so has the model.")
    weights_size = model.weights_size(model.config, [data.input_size[1:], size], state)
    if weights_size is not None and weights_size != size:
        if img_size is None:
            wanted, found = (f"{height}x{width}" for height, width in (size, weights_size))
            logger.warning(
                f"{data.name}: the weights are for images of {found}, and their position embedding is resampled for "
                f"{wanted}; img_size={weights_size} keeps it as it is."
            )
        state = dict(model.adapt_size(state, weights_size))
    if chans != source_chans == _rows(state, f"{data.first_conv}.weight", 1):
        state = adapt_in_chans(state, str(data.first_conv), chans, model, in_chans_mode)

    variables = named_params(model)
    shapes = {path: var.get_value().shape for path, var in variables.items()}
    if classes != weights_classes:  # the fresh classifier is not asked of the weights
        classifier = f"{data.classifier}/".replace(".", "/")
        shapes = {path: shape for path, shape in shapes.items() if not path.startswith(classifier)}
    _check(state, shapes, what=data.name, source=origin)
    if features_only:
        model.prune(_out_indices(model, out_indices))
        variables = named_params(model)
    values = {path: array for path, array in port.to_flax(state).items() if path in variables}
    fill(variables, values, model.param_dtype)
    initialize(variables, seed, model.param_dtype)
    return model


def sizes_of(name: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `load` that make model `name` fit the weights: input channels, classes and image size."""
    entry, data = registry.find(name)
    axes = {"in_chans": (data.first_conv, 1), "num_classes": (data.classifier, 0)}
    sizes: dict[str, Any] = {option: _rows(state, f"{layer}.weight", axis) for option, (layer, axis) in axes.items()}
    sizes["img_size"] = entry.family.weights_size(entry.config, [data.input_size[1:]], state)
    return {option: size for option, size in sizes.items() if size is not None}


def _check(state: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], *, what: str, source: str) -> None:
    """Require that timm's `state` is the parameters `{path: shape}`, no more, no less, or name every difference."""
    found = {name: tuple(array.shape) for name, array in state.items()}
    inexact = [f"{name} ({a.dtype})" for name, a in state.items() if not jnp.issubdtype(a.dtype, jnp.floating)]
    if inexact:
        raise port.WeightsError(f"{source} holds arrays that are not floating point: {', '.join(inexact)}.")
    port.check_strict(found, port.timm_shapes(shapes), what=what, source=source)


def _read(weights: Weights, source: Source, name: str) -> tuple[Mapping[str, Any] | None, str]:
    """The state dict that `weights` stands for, and a word for where it came from."""
    if weights is None:
        return None, ""
    if isinstance(weights, Mapping):
        return {key: np.asarray(value) for key, value in weights.items()}, "the given mapping"
    if weights != "pretrained":
        return port.read_weights(weights), os.fspath(weights)
    if source.location is None:
        others = [d.name for d in source.entry.data if d.hf_hub_id] or registry.list_models(
            f"*{source.data.architecture.split('_')[-1]}*", pretrained=True
        )
        hint = f" Published relatives: {', '.join(others[:4])}." if others else ""
        raise ValueError(
            f"no weights were published for {name}; pass weights=None for a fresh model, or the path of a file.{hint}"
        )
    if isinstance(source.location, Path):
        return port.read_weights(source.location), str(source.location)
    from port import hub

    path = hub.fetch_weights(source.location)
    return port.read_weights(path), f"{source.location} ({path.name})"


def _rows(state: Mapping[str, Any] | None, name: str, axis: int) -> int | None:
    """Length of one axis of an array, if the weights have it with such an axis."""
    shape = np.shape(state[name]) if state is not None and name in state else ()
    return shape[axis] if len(shape) > axis else None


def _out_indices(model: ImageModel, out_indices: int | Sequence[int] | None) -> list[int]:
    return take_indices(len(model.feature_taps()), model.default_out_indices if out_indices is None else out_indices)

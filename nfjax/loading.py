"""`nfjax.load`: a model by name, with weights from the hub, a file, a folder or memory."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

import port
from nfjax.input_channels import InChansMode, adapt_in_chans
from nfjax.models import registry
from nfjax.models.base import ImageModel
from nfjax.models.options import check_types
from nfjax.names import Name, ResolvedModel, resolve
from nfjax.params import fill, initialize, named_params
from nfjax.placing import Placement, check_sharding, shardings_of
from nfjax.planning import LoadOptions, Plan, make_plan, rows
from port import messages
from port.errors import listed
from port.files import CHECKSUM, read_with_metadata
from port.paths import user_path
from port.pickled import state_in

logger = logging.getLogger("nfjax")

# Licences of weights that ask for no more than to be kept with them.
FREE = (None, "apache-2.0", "mit")

Weights = str | os.PathLike[str] | Mapping[str, Any] | None


def load(
    name: Name,
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
    strict_finite: bool = False,
    param_dtype: Any = None,
    sharding: Placement | None = None,
    **overrides: Any,
) -> ImageModel:
    """A timm model in JAX, with timm's weights.

    Args:
        name: "eca_nfnet_l0", "eca_nfnet_l0.ra2_in1k", "hf-hub:timm/eca_nfnet_l0" (also "hf_hub:", and with
            "@revision"), or a folder with a config.json, also as "local-dir:PATH" or `pathlib.Path`; the work folder
            of a run means its `final`. A known model comes before a folder of the same name.
        weights: "pretrained" for the published ones (or the folder's own); None for fresh ones from `seed`; the path of
            a file or folder; or a mapping from timm names to arrays.
        num_classes: None for as many as the weights have. Another number keeps the backbone and makes a fresh
            classifier, and says so; 0 leaves the classifier out.
        in_chans: None for as many as the name's data config says, 3 as a rule. For another number the first convolution
            of the weights is adapted.
        img_size: height and width of the input, in pixels; None for the model's own. A transformer's position embedding
            is resampled to it. For convolutional models, which take any size, it only goes into `model.data_config`.
        global_pool: None for the model's own; "avg", "max", "avgmax" or "" for none; "catavgmax" for convolutional
            models; "token", the class token, for transformers.
        output_stride: 32, 16 or 8: dilate instead of striding in the last stages of a convolutional model.
        drop_rate: dropout before the classifier, when training.
        drop_path_rate: stochastic depth of the last block, when training.
        features_only: a call returns a list of NHWC feature maps instead of logits.
        out_indices: which maps: positions, or an int for the last n; None for all five of a convolutional model, the
            last three of a transformer. Layers beyond the last one are dropped.
        dtype: compute dtype.
        seed: of everything that is drawn: fresh models and fresh classifiers.
        in_chans_mode: "timm" adapts the first convolution to `in_chans` with timm's numbers; "exact" keeps its
            response, which timm's does not where weights are standardised (see `nfjax.input_channels`).
        strict_finite: refuse weights with numbers that are not finite in the dtype of the parameters. Otherwise a
            warning counts them and names their arrays.
        param_dtype: of the parameters; None for float32, or float64 if `dtype` is. "bfloat16" halves their memory, for
            inference: what they are multiplied with is still computed in `dtype`.
        sharding: where parameters are put; None for jax's default device. A `jax.sharding.Mesh` spreads each over all
            its devices, along its longest axis that can be divided, so that no device holds the whole model; a
            `Sharding` is that of every one; or a mapping from paths, or a function `(path, shape)`, to shardings.
        overrides: fields of the architecture, `model.config`, to be changed; timm's names, as in timm. For transformers
            among them `dynamic_img_size`, `pos_drop_rate`, `proj_drop_rate`, `attn_drop_rate`.

    Returns:
        An `ImageModel`; `model(x)` gives logits of shape `(batch, num_classes)`.

    Raises:
        nfjax.UnknownModelError: no such name; the closest are suggested.
        ValueError: an option that the model does not have, or a value that it cannot have.
        port.WeightsError: missing, unexpected or wrongly shaped arrays, all of them named at once; or the weights of a
            folder are not those that its config.json was saved with.
        FileNotFoundError: no such file, or the hub cannot be reached.
    """
    given = {"global_pool": global_pool, "output_stride": output_stride}
    asked = LoadOptions(
        num_classes=num_classes,
        in_chans=in_chans,
        img_size=img_size,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        features_only=features_only,
        out_indices=out_indices,
        dtype=dtype,
        param_dtype=param_dtype,
        in_chans_mode=in_chans_mode,
        options={option: value for option, value in given.items() if value is not None} | overrides,
    )
    check_types({"seed": seed, "strict_finite": strict_finite}, {"seed": int, "strict_finite": bool})
    if seed < 0:
        raise ValueError(f"seed={seed}; expected at least 0.")
    check_sharding(sharding)
    source = resolve(name)
    place = _place(weights, source, name)
    if isinstance(place, str) and asked != LoadOptions():  # a mistake is told before anything is fetched
        make_plan(source, asked).build()
    state, origin = _read(place, source)
    plan = make_plan(source, asked, state)
    model = plan.build()
    for note in plan.notes:
        logger.warning(note)
    if isinstance(place, str) and plan.data.license not in FREE:
        logger.warning(
            f"{plan.data.name}: the licence of its weights, {plan.data.license}, restricts what they may do."
        )
    fitted = {} if state is None else _fitted(plan, model, dict(state), origin)
    if features_only:
        model.prune(plan.taps(model))
    variables = named_params(model)
    flax = port.to_flax(fitted)
    shardings = shardings_of(sharding, {path: var.get_value().shape for path, var in variables.items()})
    odd = fill(variables, {path: a for path, a in flax.items() if path in variables}, model.param_dtype, shardings)
    if odd:
        names = dict(zip(flax, fitted, strict=True))
        _report_not_finite({names[path]: count for path, count in odd.items()}, origin, strict_finite)
    initialize(variables, seed, model.param_dtype, shardings)
    return model


def sizes_of(name: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `load` that make model `name` fit the weights: input channels, classes and image size."""
    source = resolve(name)
    entry, data = source.entry, source.data
    axes = {"in_chans": (data.first_conv, 1), "num_classes": (data.classifier, 0)}
    sizes: dict[str, Any] = {option: rows(state, f"{layer}.weight", axis) for option, (layer, axis) in axes.items()}
    sizes["img_size"] = entry.family.weights_size(entry.config, [data.input_size[1:]], state)
    return {option: size for option, size in sizes.items() if size is not None}


def _fitted(plan: Plan, model: ImageModel, state: dict[str, Any], origin: str) -> dict[str, Any]:
    """The state dict, adapted to the model, whose parameters it must then be: no more, no less."""
    data = plan.data
    if plan.fresh_classifier:
        for leaf in ("weight", "bias"):
            state.pop(f"{data.classifier}.{leaf}", None)
    if plan.weights_size is not None:
        state = dict(model.adapt_size(state, plan.weights_size))
    if plan.adapts_in_chans:
        state = adapt_in_chans(state, str(data.first_conv), model.in_chans, model, plan.asked.in_chans_mode)
    shapes = {path: var.get_value().shape for path, var in named_params(model).items()}
    if plan.fresh_classifier:  # it is not asked of the weights
        classifier = f"{data.classifier}/".replace(".", "/")
        shapes = {path: shape for path, shape in shapes.items() if not path.startswith(classifier)}
    inexact = [f"{name} ({a.dtype})" for name, a in state.items() if not jnp.issubdtype(a.dtype, jnp.floating)]
    if inexact:
        raise port.WeightsError(f"{origin} holds arrays that are not floating point: {listed(inexact)}.")
    found = {name: tuple(array.shape) for name, array in state.items()}
    port.check_strict(found, port.timm_shapes(shapes), what=data.name, source=origin)
    return state


def _place(weights: Weights, source: ResolvedModel, name: Name) -> str | Path | Mapping[str, Any] | None:
    """Where `load` takes the weights from: a hub id, a file or folder, a mapping, or nowhere."""
    if weights is None or isinstance(weights, Mapping):
        return weights
    if not isinstance(weights, str | os.PathLike):
        raise ValueError(
            f"weights={weights!r:.80}; expected 'pretrained', None, the path of a file or folder, or a mapping "
            "from names to arrays."
        )
    if str(weights).lower() == "none" and not user_path(weights).exists():
        raise ValueError(f"weights={weights!r} is text; fresh weights are weights=None.")
    if weights != "pretrained":
        return user_path(weights)
    if source.location is None:
        others = [d.name for d in source.entry.data if d.hf_hub_id] or registry.list_models(
            f"*{source.data.architecture.split('_')[-1]}*", pretrained=True
        )
        hint = f" Published relatives: {', '.join(others[:4])}." if others else ""
        raise ValueError(
            f"no weights were published for {name}; {messages.option('weights', None)} is a fresh model, and "
            f"{messages.option('weights', 'FILE')} takes those of a file.{hint}"
        )
    return source.location


def _read(place: str | Path | Mapping[str, Any] | None, source: ResolvedModel) -> tuple[Mapping[str, Any] | None, str]:
    """The state dict that is there, and a word for where it came from."""
    if place is None:
        return None, ""
    if isinstance(place, Mapping):
        return state_in(place, "the given mapping"), "the given mapping"
    if isinstance(place, Path):
        state, metadata = read_with_metadata(place)
        if place == source.location and source.checksum not in (None, metadata.get(CHECKSUM)):
            raise port.WeightsError(
                f"{place}: its weights are not those that its config.json was saved with, as where saving was "
                f"interrupted. Save it again; if they do belong together, take {CHECKSUM!r} out of config.json."
            )
        return state, str(place)
    from port import hub  # here: it takes 60 ms to import

    path = hub.fetch_weights(place)
    return port.read_weights(path), f"{place} ({path.name})"


def _report_not_finite(odd: Mapping[str, int], origin: str, strict: bool) -> None:
    """A warning of how many numbers of which arrays are not finite; a WeightsError if it is to be strict."""
    named = listed([f"{name} ({count})" for name, count in odd.items()])
    found = f"{origin}: {sum(odd.values())} numbers in {len(odd)} arrays are not finite: {named}."
    if strict:
        raise port.WeightsError(f"{found} Use other weights, or load them with strict_finite=False.")
    logger.warning(f"{found} What the model computes from them is not either; strict_finite=True refuses such weights.")

"""`nfjax.load`: a model by name, with weights from the hub, a file, a folder or memory."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

import port
from nfjax.models.base import ImageModel
from nfjax.models.options import check_types
from nfjax.params import fill, initialize, named_params
from nfjax.weights.input_channels import InChansMode, adapt_in_chans
from nfjax.weights.names import Name, ResolvedModel, resolve
from nfjax.weights.placing import Placement, check_sharding, shardings_of
from nfjax.weights.planning import LoadOptions, Plan, make_plan
from nfjax.weights.sources import Read, Weights, place_of, read
from nfjax.weights.which import unnamed
from port.errors import listed
from port.layouts import require_layout
from port.unwrap import require_one_kind

logger = logging.getLogger("nfjax")

# Licences of weights that ask for no more than to be kept with them.
FREE = (None, "apache-2.0", "mit")


def load(
    name: Name | None,
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
    weights_key: str | None = None,
    layout: str | None = None,
    param_dtype: Any = None,
    sharding: Placement | None = None,
    **overrides: Any,
) -> ImageModel:
    """A timm model in JAX, with timm's weights.

    Args:
        name: "eca_nfnet_l0", "eca_nfnet_l0.ra2_in1k", "hf-hub:timm/eca_nfnet_l0" (also "hf_hub:", and with
            "@revision"), or a folder with a config.json, also as "local-dir:PATH" or `pathlib.Path`; the work folder
            of a run means its `final`. A known model comes before a folder of the same name. None for the architecture
            that `weights`, a path or a mapping, are of, where they are of one.
        weights: "pretrained" for the published ones (or the folder's own); None for fresh ones from `seed`; the path of
            a file or folder; or a mapping from timm names to arrays.
        num_classes: None for as many as the weights have. Another number keeps the backbone and makes a fresh
            classifier, and says so; 0 leaves the classifier out.
        in_chans: None for as many as the name's data config says, 3 as a rule. For another number the first convolution
            of the weights is adapted.
        img_size: height and width of the input, in pixels; None for the model's own. A transformer's position embedding
            is resampled to it. For convolutional models, which take any size, it only goes into `model.data_config`.
        global_pool: None for the model's own; "avg", "max", "avgmax" or "" for none; "catavgmax" for convolutional
            models; "token", the class token, "map" or "prr" for transformers.
        output_stride: 32, 16 or 8: dilate instead of striding in the last stages of a convolutional model.
        drop_rate: dropout before the classifier, when training.
        drop_path_rate: stochastic depth of the last block, when training.
        features_only: a call returns a list of NHWC feature maps instead of logits.
        out_indices: which maps: positions, or an int for the last n; None for all five of a convolutional model, the
            last three of a transformer. Layers beyond the last one are dropped.
        dtype: compute dtype.
        seed: of everything that is drawn: fresh models and fresh classifiers.
        in_chans_mode: "timm" adapts the first convolution to `in_chans` with timm's numbers; "exact" keeps its
            response, which timm's does not where weights are standardised (see `nfjax.weights.input_channels`).
        strict_finite: refuse weights with numbers that are not finite in the dtype of the parameters. Otherwise a
            warning counts them and names their arrays.
        weights_key: of a training checkpoint: "state_dict" for the raw weights where there is a moving average, with
            dots for what is inside of another, "teacher.backbone"; None for the averaged ones. What was taken is said.
        layout: whose names the weights have: "timm", "meta", "transformers", "deepmind" or "big_vision"; None for what
            they are recognised as by their names, which is said (docs/weights.md).
        param_dtype: of the parameters; None for float32, or float64 if `dtype` is. "bfloat16" halves their memory, for
            inference: what they are multiplied with is still computed in `dtype`.
        sharding: where parameters are put; None for jax's default device. A `jax.sharding.Mesh` spreads each over all
            its devices, along its longest axis that can be divided, so that no device holds the whole model; a
            `Sharding` is that of every one; or a mapping from paths, or a function `(path, shape)`, to shardings.
        overrides: fields of the architecture, `model.config`, to be changed; timm's names, as in timm. For transformers
            among them `dynamic_img_size`, `dynamic_img_pad`, `qk_norm`, `pos_drop_rate`, `patch_drop_rate`,
            `proj_drop_rate`, `attn_drop_rate`.

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
    kinds = {"seed": int, "strict_finite": bool, "weights_key": str | None}
    check_types({"seed": seed, "strict_finite": strict_finite, "weights_key": weights_key}, kinds)
    if seed < 0:
        raise ValueError(f"seed={seed}; expected at least 0.")
    check_sharding(sharding)
    require_layout(layout)
    found: Weights | Read = weights
    if name is None:
        name, asked, found = unnamed(asked, weights, weights_key, layout)
    source = resolve(name)
    place = place_of(found, source, name)
    if isinstance(place, str) and asked != LoadOptions():  # a mistake is told before anything is fetched
        make_plan(source, asked).build()
    state, origin, known = read(place, source, weights_key, layout)
    if known is not None:
        asked = _as_there(known.options(state or {}), source, asked, origin)
    if state is not None:
        state = source.entry.family.own_names(source.entry.config, state)
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


def _as_there(there: Mapping[str, Any], source: ResolvedModel, asked: LoadOptions, origin: str) -> LoadOptions:
    """The options, with those of a model that computes what the layout's own library does, where timm's computes
    something else."""
    usual, takes = vars(source.entry.config), source.entry.options()
    own = {option: value for option, value in there.items() if option in takes and usual.get(option) != value}
    options = own | dict(asked.options)
    told = ", ".join(f"{option}={value!r}" for option, value in own.items() if options[option] == value)
    logger.warning(f"{origin}" + (f", computed as there: {told}." if told else "."))
    return dataclasses.replace(asked, options=options)


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
    require_one_kind(found, origin)
    port.check_strict(found, port.timm_shapes(shapes), what=data.name, source=origin)
    return state


def _report_not_finite(odd: Mapping[str, int], origin: str, strict: bool) -> None:
    """A warning of how many numbers of which arrays are not finite; a WeightsError if it is to be strict."""
    named = listed([f"{name} ({count})" for name, count in odd.items()])
    found = f"{origin}: {sum(odd.values())} numbers in {len(odd)} arrays are not finite: {named}."
    if strict:
        raise port.WeightsError(f"{found} Use other weights, or load them with strict_finite=False.")
    logger.warning(f"{found} What the model computes from them is not either; strict_finite=True refuses such weights.")

"""`nfjax.load`: a model by name, with weights from the hub, a file, a folder or memory."""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

import jax.numpy as jnp
import numpy as np

import port
from nfjax.input_channels import InChansMode, adapt_in_chans
from nfjax.models import registry
from nfjax.models.base import ImageModel, Size, sides, take_indices
from nfjax.models.data_config import DataConfig
from nfjax.models.options import check_types, plain_numbers
from nfjax.names import Name, ResolvedModel, resolve
from nfjax.params import fill, initialize, named_params
from nfjax.sources import Read, Weights, place_of, read
from port.errors import listed
from port.unwrap import require_one_kind

logger = logging.getLogger("nfjax")

# Options of timm.create_model that have another name here.
OF_TIMM = {
    "pretrained": 'weights: "pretrained", which is the default, or None for fresh ones',
    "checkpoint_path": "weights=PATH",
    "pretrained_cfg": "the name: architecture.tag, or hf-hub:organisation/name",
}


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """The options of `load`, which says what they mean."""

    num_classes: int | None = None
    in_chans: int | None = None
    img_size: int | Sequence[int] | None = None
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    features_only: bool = False
    out_indices: int | Sequence[int] | None = None
    dtype: Any = jnp.float32
    in_chans_mode: InChansMode = "timm"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for option, value in vars(self).items():  # as Python's, which config.json can hold
            object.__setattr__(self, option, plain_numbers(value))
        check_types(vars(self), get_type_hints(type(self)))
        _floating(self.dtype)
        for option in [option for option in OF_TIMM if option in self.options]:
            raise ValueError(f"{option} is timm's; here it is {OF_TIMM[option]}.")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `load` builds, and what becomes of the weights; no array is looked at to decide it."""

    asked: LoadOptions
    entry: registry.Entry
    data: DataConfig  # of the model: its classes, channels and image size
    options: Mapping[str, Any]  # for `entry.build`
    fresh_classifier: bool  # is the classifier not that of the weights?
    adapts_in_chans: bool  # is the first convolution of the weights adapted?
    weights_size: Size | None  # of images that the weights are for, if their position embedding must be resampled
    notes: tuple[str, ...]  # what a user should know of all this

    def build(self) -> ImageModel:
        """The whole model, as shapes without values; a ValueError for an option that it does not have."""
        model = self.entry.build(self.data, **self.options)
        if self.asked.features_only:
            self.taps(model)
        return model

    def taps(self, model: ImageModel) -> list[int]:
        """Positions of the feature maps that are asked for."""
        wanted = model.default_out_indices if self.asked.out_indices is None else self.asked.out_indices
        return take_indices(len(model.feature_taps()), wanted)


def make_plan(source: ResolvedModel, asked: LoadOptions, state: Mapping[str, Any] | None = None) -> Plan:
    """Decide what `load` does.

    Args:
        source: the model.
        asked: the options.
        state: timm's state dict, of which only shapes are looked at; None for fresh weights, or before any are read.

    Raises:
        ValueError: an option that the model does not have, or weights for which nothing fits.
    """
    data, args = source.data, source.model_args
    if asked.in_chans_mode not in get_args(InChansMode):
        raise ValueError(f"in_chans_mode={asked.in_chans_mode!r}; expected 'timm' or 'exact'.")
    weights_classes = rows(state, f"{data.classifier}.weight", 0)
    if weights_classes is None:
        weights_classes = args.get("num_classes", data.num_classes)
    classes = weights_classes if asked.num_classes is None else asked.num_classes
    source_chans = args.get("in_chans", data.input_size[0])
    chans = source_chans if asked.in_chans is None else asked.in_chans
    size = data.input_size[1:] if asked.img_size is None else sides(asked.img_size)

    rates = {"drop_rate": asked.drop_rate, "drop_path_rate": asked.drop_path_rate}
    for option, rate in (rates | {k: v for k, v in asked.options.items() if k.endswith("drop_rate")}).items():
        if not 0 <= rate < 1:
            raise ValueError(f"{option}={rate}; expected at least 0 and less than 1.")
    own = {} if state is None else source.entry.family.weights_options(source.entry.config, state)
    options = {**own, **args, **asked.options}
    options |= {"num_classes": classes, "in_chans": chans, "dtype": _floating(asked.dtype)}
    options |= {"drop_rate": asked.drop_rate, "drop_path_rate": asked.drop_path_rate}
    config, _ = source.entry.configured(options)
    if told := source.entry.beyond(config, chans, size):
        raise ValueError(f"{data.name}: {'; '.join(told)}.")
    weights_size, notes = None, []
    if state is not None:
        weights_size = source.entry.family.weights_size(config, [data.input_size[1:], size], state)
        weights_size = None if weights_size == size else weights_size
        if classes != weights_classes and classes:
            notes.append(
                f"{data.name}: the weights have {weights_classes} classes and the model {classes}, so its classifier "
                "is fresh: train it before you trust its logits."
            )
        elif asked.num_classes is None and classes != data.num_classes:
            notes.append(f"{data.name}: the weights have {classes} classes, not {data.num_classes}; so has the model.")
        if weights_size is not None and asked.img_size is None:
            wanted, found = (f"{height}x{width}" for height, width in (size, weights_size))
            notes.append(
                f"{data.name}: the weights are for images of {found}, and their position embedding is resampled for "
                f"{wanted}; img_size={weights_size} keeps it as it is."
            )
    names = data.label_names if classes == weights_classes else None
    return Plan(
        asked=asked,
        entry=source.entry,
        data=dataclasses.replace(data, num_classes=classes, input_size=(chans, *size), label_names=names),
        options=options,
        fresh_classifier=classes != weights_classes,
        adapts_in_chans=chans != source_chans and source_chans == rows(state, f"{data.first_conv}.weight", 1),
        weights_size=weights_size,
        notes=tuple(notes),
    )


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
            models; "token", the class token, for transformers.
        output_stride: 32, 16 or 8: dilate instead of striding in the last stages of a convolutional model.
        drop_rate: dropout before the classifier, when training.
        drop_path_rate: stochastic depth of the last block, when training.
        features_only: a call returns a list of NHWC feature maps instead of logits.
        out_indices: which maps: positions, or an int for the last n; None for all five of a convolutional model, the
            last three of a transformer. Layers beyond the last one are dropped.
        dtype: compute dtype. Parameters are float32, or float64 if this is.
        seed: of everything that is drawn: fresh models and fresh classifiers.
        in_chans_mode: "timm" adapts the first convolution to `in_chans` with timm's numbers; "exact" keeps its
            response, which timm's does not where weights are standardised (see `nfjax.input_channels`).
        strict_finite: refuse weights with numbers that are not finite in the dtype of the parameters. Otherwise a
            warning counts them and names their arrays.
        weights_key: of a training checkpoint: "state_dict" for the raw weights where there is a moving average, with
            dots for what is inside of another, "teacher.backbone"; None for the averaged ones. What was taken is said.
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
        in_chans_mode=in_chans_mode,
        options={option: value for option, value in given.items() if value is not None} | overrides,
    )
    kinds = {"seed": int, "strict_finite": bool, "weights_key": str | None}
    check_types({"seed": seed, "strict_finite": strict_finite, "weights_key": weights_key}, kinds)
    if seed < 0:
        raise ValueError(f"seed={seed}; expected at least 0.")
    found: Weights | Read = weights
    if name is None:
        from nfjax.which import unnamed  # it builds on this file

        name, asked, found = unnamed(asked, weights, weights_key)
    source = resolve(name)
    place = place_of(found, source, name)
    if isinstance(place, str) and asked != LoadOptions():  # a mistake is told before anything is fetched
        make_plan(source, asked).build()
    state, origin = read(place, source, weights_key)
    plan = make_plan(source, asked, state)
    model = plan.build()
    for note in plan.notes:
        logger.warning(note)
    fitted = {} if state is None else _fitted(plan, model, dict(state), origin)
    if features_only:
        model.prune(plan.taps(model))
    variables = named_params(model)
    flax = port.to_flax(fitted)
    odd = fill(variables, {path: a for path, a in flax.items() if path in variables}, model.param_dtype)
    if odd:
        names = dict(zip(flax, fitted, strict=True))
        _report_not_finite({names[path]: count for path, count in odd.items()}, origin, strict_finite)
    initialize(variables, seed, model.param_dtype)
    return model


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


def _floating(dtype: Any) -> Any:
    with contextlib.suppress(TypeError):
        if dtype is not None and jnp.issubdtype(jnp.dtype(dtype), jnp.floating):  # numpy's None is float64
            return jnp.dtype(dtype)
    raise ValueError(f"dtype={dtype!r}; expected floating point, such as 'float32' or 'bfloat16'.")


def rows(state: Mapping[str, Any] | None, name: str, axis: int) -> int | None:
    """Length of one axis of an array, if the weights have it with such an axis."""
    shape = np.shape(state[name]) if state is not None and name in state else ()
    return shape[axis] if len(shape) > axis else None

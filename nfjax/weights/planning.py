"""What `nfjax.load` will do, decided before anything is built: a frozen plan."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

from nfjax.models import registry
from nfjax.models.base import ImageModel, Size, sides, take_indices
from nfjax.models.data_config import DataConfig
from nfjax.models.options import check_types, plain_numbers
from nfjax.weights.input_channels import InChansMode
from nfjax.weights.names import ResolvedModel

DTYPES = ("float32", "float64", "bfloat16", "float16")  # of parameters, that every reader of a folder understands

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
    param_dtype: Any = None
    in_chans_mode: InChansMode = "timm"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for option, value in vars(self).items():  # as Python's, which config.json can hold
            object.__setattr__(self, option, plain_numbers(value))
        check_types(vars(self), get_type_hints(type(self)))
        floating(self.dtype)
        if self.param_dtype is not None:
            _storable(floating(self.param_dtype, "param_dtype"))
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
        if self.asked.param_dtype is not None:
            model.stored_dtype = floating(self.asked.param_dtype)
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
    options |= {"num_classes": classes, "in_chans": chans, "dtype": floating(asked.dtype)}
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
    names, problem = (data.label_names, data.problem_type) if classes == weights_classes else (None, None)
    pixels = source.entry.family.first_pixels(config)
    return Plan(
        asked=asked,
        entry=source.entry,
        data=dataclasses.replace(
            data, num_classes=classes, input_size=(chans, *size), label_names=names, problem_type=problem
        ),
        options=options,
        fresh_classifier=classes != weights_classes,
        adapts_in_chans=chans != source_chans and source_chans * pixels == rows(state, f"{data.first_conv}.weight", 1),
        weights_size=weights_size,
        notes=tuple(notes),
    )


def floating(dtype: Any, option: str = "dtype") -> Any:
    with contextlib.suppress(TypeError):
        if dtype is not None and jnp.issubdtype(jnp.dtype(dtype), jnp.floating):  # numpy's None is float64
            return jnp.dtype(dtype)
    raise ValueError(f"{option}={dtype!r}; expected floating point, such as 'float32' or 'bfloat16'.")


def _storable(dtype: Any) -> None:
    if dtype.name not in DTYPES:
        raise ValueError(f"param_dtype={dtype.name!r}; expected one of {', '.join(DTYPES)}.")
    if dtype == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError("param_dtype='float64' needs jax.config.update('jax_enable_x64', True).")


def rows(state: Mapping[str, Any] | None, name: str, axis: int) -> int | None:
    """Length of one axis of an array, if the weights have it with such an axis."""
    shape = np.shape(state[name]) if state is not None and name in state else ()
    return shape[axis] if len(shape) > axis else None

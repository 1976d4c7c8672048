"""What every model of the library can do."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from nfjax.models.calling import HOW_TO_TRAIN, anywhere
from nfjax.models.data_config import DataConfig
from nfjax.nn.head import ClassifierHead
from nfjax.params import initialize, named_params

Size = tuple[int, int]  # height and width, in pixels
# `(batch, height, width, in_chans)`, floating point: what else an array is, `ImageModel.check_input` explains. A model
# with `patch_keys` takes a dictionary of patches too, and then `forward_features` returns one of tokens.
Patches = Mapping[str, Any]
Images = Shaped[Array | np.ndarray, "..."] | Patches
Features = Float[Array, "batch height width channels"] | Float[Array, "batch tokens dim"] | Patches
# One vector for each image, or with the pool "" for each pixel or token.
Vectors = (
    Float[Array, "batch features"] | Float[Array, "batch height width features"] | Float[Array, "batch _ features"]
)


def sides(img_size: int | Sequence[int]) -> Size:
    """Height and width, given as two numbers or as one for both."""
    numbers = np.atleast_1d(img_size).tolist()
    if len(numbers) > 2:
        raise ValueError(f"img_size={img_size}; expected one number, or height and width.")
    return numbers[0], numbers[-1]


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature tap: its channels, its stride to the input, and the module it leaves (timm's name)."""

    num_chs: int
    reduction: int
    module: str
    index: int


class FeatureInfo(Sequence[Feature]):
    """The feature taps of a model, or those that a `features_only` model returns (timm `FeatureInfo`)."""

    def __init__(self, features: Sequence[Feature]):
        self._features = tuple(features)

    @overload
    def __getitem__(self, index: int) -> Feature: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Feature]: ...
    def __getitem__(self, index: int | slice) -> Feature | Sequence[Feature]:
        return self._features[index]

    def __len__(self) -> int:
        return len(self._features)

    def __repr__(self) -> str:
        return f"FeatureInfo({list(self._features)})"

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [f.num_chs for f in self]

    def reduction(self) -> list[int]:
        """Input pixels per map pixel."""
        return [f.reduction for f in self]

    def module_name(self) -> list[str]:
        """timm's name of the module that each map leaves."""
        return [f.module for f in self]


def take_indices(count: int, indices: int | Sequence[int] | None, *, least: int = 1) -> list[int]:
    """Absolute positions in a list of `count` taps: None all, an int the last n, negatives from the end.

    At least `least` of them, in the order and as often as they are asked for.

    Source: timm `feature_take_indices`.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 0 < indices <= count:
            raise ValueError(f"the last {indices} feature maps were asked for; the model has {count}.")
        return list(range(count - indices, count))
    taken = [count + i if i < 0 else i for i in indices]
    if len(taken) < least or not all(0 <= i < count for i in taken):
        raise ValueError(f"feature indices {list(indices)} asked for; the model has 0 to {count - 1}.")
    return taken


class ImageModel(nnx.Module):
    """An image classifier and feature backbone.

    A family sets the attributes below and defines `feature_taps`, `forward_intermediates` and `prune`. Parameters are
    shapes without values until `nfjax.params.fill` or `initialize` gives them some.

    Args of every family, beside the attributes:
        global_pool: how the features of an image become one vector.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.

    The head is a `ClassifierHead`; a family with another one overrides what deals with it.
    """

    config: Any  # the frozen architecture
    data_config: DataConfig  # what the weights expect of their input
    num_features: int  # channels of `forward_features`
    num_classes: int  # 0 if the classifier is left out
    in_chans: int
    dtype: jnp.dtype  # to compute in
    stored_dtype: Any = None  # of the parameters; None for float32, or float64 if `dtype` is
    output_stride: int  # input pixels per pixel of the last map
    head: Any
    out_indices: tuple[int, ...] | None = None  # feature maps that a call returns, or None for a classifier
    folded: bool = False  # has `nfjax.fold` baked the weight standardisation in?
    grad_checkpointing: bool = False
    default_out_indices: ClassVar[int | None] = None  # of a `features_only` model: None for all, an int for the last n
    patch_keys: ClassVar[tuple[str, ...]] = ()  # of a dictionary of patches, if a call takes one
    timm_names: ClassVar[Mapping[str, str]] = {}  # of fields of the config that are called otherwise here

    @property
    def name(self) -> str:
        """Architecture and tag; the class, for a model that was not built by name."""
        return self.data_config.name or type(self).__name__

    @property
    def global_pool(self) -> str:
        return self.head.pool_type

    @anywhere
    def __call__(self, x: Images, *, key: PRNGKeyArray | None = None) -> Any:
        """Logits of a batch of images.

        Args:
            x: floating array `(batch, height, width, in_chans)`, normalised by `data_config.mean` and `.std`.
            key: PRNG key; given one, the call trains: dropout and stochastic depth are active.

        Returns:
            Array `(batch, num_classes)`, float32 (float64 if the model is); the pooled features `(batch, num_features)`
            in the compute dtype if `num_classes` is 0; a list of NHWC maps if the model is `features_only`, in the
            order and as often as `out_indices` says.
        """
        if self.out_indices is not None:
            # In the order and as often as they were asked for, so that `feature_info` is of them.
            taken = sorted(set(self.out_indices))
            maps = dict(zip(taken, self.forward_intermediates(x, taken, intermediates_only=True, key=key), strict=True))
            return [maps[i] for i in self.out_indices]
        head_key = None
        if key is not None:
            key, head_key = jax.random.split(key)
        return self.forward_head(self.forward_features(x, key=key), key=head_key)

    @anywhere
    def forward_features(self, x: Images, *, key: PRNGKeyArray | None = None) -> Features:
        """The last map, after its activation, or all tokens, normalised if the model does that before it pools."""
        return self.forward_intermediates(x, (), key=key)[0]

    def forward_intermediates(
        self,
        x: Images,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        intermediates_only: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> Any:
        """Feature maps, in the order of the network, as timm's `forward_intermediates` gives them.

        Args:
            x: normalised images, floating point.
            indices: None for all maps, an int for the last n, or a sequence of their positions.
            norm: apply the final norm to each map, if it is before the pooling.
            intermediates_only: return the maps alone, and compute nothing after the last of them.
            key: for training.

        Returns:
            `(features, maps)`, with `features` as `forward_features` returns them, or `maps`: a list of arrays
            `(batch, height, width, channels)`.
        """
        raise NotImplementedError

    @anywhere
    def forward_head(self, features: Features, *, pre_logits: bool = False, key: PRNGKeyArray | None = None) -> Vectors:
        """Logits of what `forward_features` returns; with `pre_logits`, the pooled features."""
        return self.head(features, pre_logits=pre_logits, key=key)

    def feature_taps(self) -> list[Feature]:
        raise NotImplementedError

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, reduction and name of each feature map, in the order in which they are returned."""
        taps = self.feature_taps()
        return FeatureInfo(taps if self.out_indices is None else [taps[i] for i in self.out_indices])

    @property
    def head_hidden_size(self) -> int:
        """Channels that enter the classifier: twice `num_features` when pooling with "catavgmax"."""
        return self.head.num_features

    def get_classifier(self) -> Any:
        """The last linear layer (timm, same name); None without classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, *, seed: int = 0) -> None:
        """Replace the classifier by a fresh one, or with 0 classes by none, in place.

        A `global_pool` replaces the pooling too; the new weights are drawn from `seed`.
        """
        pool = self.head.pool_type if global_pool is None else global_pool
        self.head = ClassifierHead(self.num_features, num_classes, pool, self.head.drop_rate)
        self.num_classes = num_classes
        fresh = {f"head/{path}": var for path, var in named_params(self.head).items()}
        initialize(fresh, seed, self.param_dtype)

    def train(self, **attributes: Any) -> None:
        """Of layers that you put in (`nnx.Module.train`): those here have no mode, and calls with `key=` train.

        Raises:
            ValueError: there is no layer with a mode.
        """
        modules = [node for _, node in nnx.iter_graph(self) if isinstance(node, nnx.Module)]
        if not any(hasattr(module, mode) for module in modules for mode in ("deterministic", "use_running_average")):
            raise ValueError(f"model.train() would change nothing: {HOW_TO_TRAIN}")
        super().train(**attributes)

    def eval(self, **attributes: Any) -> None:
        """Of layers that you put in (`nnx.Module.eval`): those here have no mode, and calls without `key=` evaluate."""
        super().eval(**attributes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass: less memory, about a third more time."""
        self.grad_checkpointing = enable

    @property
    def param_dtype(self) -> jnp.dtype:
        """Dtype of the parameters: float32, or float64 where the compute dtype is, unless another was asked for."""
        return jnp.promote_types(self.dtype, jnp.float32) if self.stored_dtype is None else self.stored_dtype

    @classmethod
    def weights_options(cls, config: Any, state: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of the config that timm's state dict decides."""
        return {}

    @classmethod
    def weights_size(cls, config: Any, sizes: Sequence[Size], state: Mapping[str, Any]) -> Size | None:
        """Height and width of the images that timm's state dict is made for: where it leaves a choice, the first
        of `sizes` that fits; None where any size will do."""
        return None

    @classmethod
    def own_names(cls, config: Any, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """timm's state dict of a kindred family as one of this; any other as it is."""
        return state

    @classmethod
    def first_pixels(cls, config: Any) -> int:
        """Inputs of the first layer for each channel: 1 of a convolution, as many as a patch has of a linear layer."""
        return 1

    def adapt_size(self, state: Mapping[str, Any], size: Size) -> Mapping[str, Any]:
        """timm's state dict, made for images of this height and width, as it fits the model's own."""
        return state

    def model_args(self, own: Any) -> dict[str, Any]:
        """What differs from the architecture `own`, as arguments of timm's constructor."""
        fields = [field.name for field in dataclasses.fields(own) if not field.name.endswith("_drop_rate")]
        values = {name: getattr(self.config, name) for name in fields}
        values |= {"global_pool": self.global_pool, "output_stride": self.output_stride}
        defaults = {name: getattr(own, name) for name in fields} | {"global_pool": "avg", "output_stride": 32}
        return {name: value for name, value in values.items() if value != defaults[name]}

    def prune(self, out_indices: Sequence[int]) -> None:
        """Turn the model, in place, into one that returns the feature maps `out_indices`."""
        raise NotImplementedError

    def check_input(self, x: Images) -> Float[Array, "batch height width in_chans"]:
        """`x` in the compute dtype, or a ValueError that says what is wrong with it."""
        if isinstance(x, Mapping):
            raise ValueError(f"a dictionary of patches; {self.name} takes images.")
        shape, wanted = tuple(x.shape), f"(batch, height, width, {self.in_chans})"
        if len(shape) != 4 or shape[-1] != self.in_chans:
            hint = ""
            if len(shape) == 4 and shape[1] == self.in_chans:
                hint = " It looks like torch's NCHW: pass x.transpose(0, 2, 3, 1)."
            elif len(shape) == 3:
                hint = " Add a batch axis: x[None]."
            raise ValueError(f"input of shape {shape}; expected {wanted}.{hint}")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"input of dtype {x.dtype}; expected floating point, normalised with "
                f"mean={self.data_config.mean} and std={self.data_config.std} of pixels in [0, 1]."
            )
        return jnp.asarray(x.astype(self.dtype))

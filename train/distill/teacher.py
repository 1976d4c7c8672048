"""A teacher: a model that is asked about the images that another one is trained with, as they were changed for it."""

import dataclasses
import functools
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

import nfjax
from nfjax.fast.backend import backend
from nfjax.models.data_config import MULTI_LABEL, DataConfig
from nfjax.params import Uniform, merge, split
from nfjax.weights.names import resolve
from train.data import Dataset
from train.data.classes import outputs
from train.data.sources.base import digest
from train.distill.losses import make_distill_loss
from train.optim.state import Arrays, Scalar
from train.settings.teaching import Distill

PLACE = "teacher/"  # its parameters, beside those of the model
PROJECTION = "distill/projection/"  # from the model's features to as many as the teacher has


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model that is not trained, and what is done with its outputs."""

    distill: Distill
    graphdef: nnx.GraphDef  # of the model, folded
    params: Arrays  # its weights, whose paths begin with `PLACE`
    seen: "Seen"  # from images as the model takes them to images as the teacher does
    places: np.ndarray  # its output for each class of the data set
    width: int  # of what it says: as many classes, or features
    dtype: Any  # that it computes in

    def __call__(self, params: Mapping[str, jax.Array], images: Float[Array, "batch h w c"]) -> Float[Array, "batch k"]:
        """What it says of a batch, float32 at least; its own parameters are among `params`."""
        own = {path.removeprefix(PLACE): value for path, value in params.items() if path.startswith(PLACE)}
        model, x = merge(self.graphdef, own), self.seen(images)
        if self.distill.kind == "features":
            found = model.forward_head(model.forward_features(x), pre_logits=True)
        else:
            found = model(x)[:, self.places]
        return jax.lax.stop_gradient(found.astype(jnp.promote_types(found.dtype, jnp.float32)))

    def loss(self, logits: Any, features: Any, told: Any, params: Mapping[str, Any]) -> Scalar:
        """What the model is told by it; `features` where it is about those, of all `params` the projection's count."""
        own = logits[:, : self.width]
        if self.distill.kind == "features":
            own = features.astype(logits.dtype)
            if f"{PROJECTION}kernel" in params:
                kernel, bias = (params[f"{PROJECTION}{name}"].astype(own.dtype) for name in ("kernel", "bias"))
                own = own @ kernel + bias
        found: Scalar = make_distill_loss(self.distill)(own, told)
        return found

    @functools.cached_property
    def identity(self) -> str:
        """Changes when it would say something else."""
        wide = np.float64 if self.dtype == np.float64 else np.float32
        arrays = (np.asarray(value, wide) for value in self.params.values())
        return digest([self.distill.kind, repr(self.seen), self.places, *arrays])


@dataclasses.dataclass(frozen=True)
class Seen:
    """Images that are normalised for one model, as another one takes them: its mean, deviation and size."""

    mean: tuple[float, ...]  # that they are normalised by
    std: tuple[float, ...]
    own_mean: tuple[float, ...]
    own_std: tuple[float, ...]
    size: tuple[int, int] | None  # height and width that they are resized to; None to leave them

    def __call__(self, images: jax.Array) -> jax.Array:
        if (self.mean, self.std) == (self.own_mean, self.own_std) and self.size is None:
            return images
        mean, std, own_mean, own_std = (
            jnp.array(v, images.dtype) for v in (self.mean, self.std, self.own_mean, self.own_std)
        )
        pixels = images * std + mean
        if self.size is not None:
            shape = (images.shape[0], *self.size, images.shape[3])
            pixels = jax.image.resize(pixels, shape, "cubic", antialias=True)
        return (pixels - own_mean) / own_std


def load_teacher(distill: Distill, dataset: Dataset, dtype: str) -> nfjax.ImageModel:
    """The model that is the teacher, in half precision on an accelerator.

    Args:
        distill: names it.
        dataset: whose images it is asked about.
        dtype: that the model which it teaches computes in.

    Raises:
        ValueError, OSError: there is no such model, or it takes other images.
    """
    name, chans = str(distill.teacher), dataset.train.shape[-1]
    there = resolve(name).data.input_size[0]
    if there != chans:
        raise ValueError(f"distill.teacher={name}: it takes images of {there} channels, and these have {chans}.")
    return nfjax.load(name, dtype=compute_dtype(dtype))


def compute_dtype(dtype: str) -> str:
    """That a teacher computes in, beside a model that computes in `dtype`."""
    if dtype == "float64":
        return dtype
    return "float32" if backend() == "cpu" else "bfloat16"


def make_teacher(distill: Distill, dataset: Dataset, model: nfjax.ImageModel) -> Teacher:
    """A teacher of a loaded model, or of one of shapes.

    Raises:
        ValueError: it does not know the classes, or says of them what cannot be compared.
    """
    if distill.kind in ("hard", "features") and distill.temperature != 1:
        raise ValueError(f"distill.temperature is of 'kl' and 'bce', and means nothing for kind={distill.kind!r}.")
    several = dataset.train.source.several
    data, theirs = dataset.data_config, model.data_config
    name = distill.teacher or model.name
    if distill.kind in ("kl", "hard") and (several or theirs.problem_type == MULTI_LABEL):
        who = "images have" if several else f"{name} was trained on images with"
        raise ValueError(f"distill.kind={distill.kind!r}: {who} several labels each; expected 'bce' or 'features'.")
    if distill.kind == "features":
        places, width = np.zeros(0, np.int32), model.head_hidden_size
    elif not model.num_classes:
        raise ValueError(f"distill.teacher={name} has no classifier; its features remain: distill.kind='features'.")
    else:
        try:
            places = outputs(dataset.class_names, model)
        except ValueError as error:
            raise ValueError(f"distill.teacher={name}: {error}") from None
        width = len(places)
    abstract = any(isinstance(v, jax.ShapeDtypeStruct) for v in split(model)[1].values())
    graphdef, params = split(model if abstract or model.folded else nfjax.fold(model))
    return Teacher(
        distill,
        graphdef,
        {PLACE + path: value for path, value in params.items()},
        Seen(data.mean, data.std, theirs.mean, theirs.std, _size(theirs, dataset)),
        places,
        width,
        model.dtype,
    )


def _size(theirs: DataConfig, dataset: Dataset) -> tuple[int, int] | None:
    height, width = theirs.input_size[1:]
    return None if (height, width) == dataset.train.shape[:2] else (height, width)


def projection(teacher: Teacher, width: int, seed: int, dtype: Any) -> Arrays:
    """The parameters of the layer from `width` features to those of the teacher, as torch draws them; or none."""
    if teacher.distill.kind != "features" or width == teacher.width:
        return {}

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        seeds = np.random.SeedSequence([seed, zlib.crc32(f"{PROJECTION}{name}".encode())])
        return Uniform(width**-0.5)(np.random.Generator(np.random.Philox(seeds)), shape).astype(dtype)

    shapes = {"kernel": (width, teacher.width), "bias": (teacher.width,)}
    found: Arrays = jax.device_put({PROJECTION + name: draw(name, shape) for name, shape in shapes.items()})
    return found

"""From a config to what a run consists of: data, model, devices, and what becomes of each parameter."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import nfjax
from nfjax.params import named_params, split
from port.stores import readable
from train.checkpoints.averages import run_weights
from train.cli.mistakes import check
from train.config import Config, Model
from train.data import DEVICE_KEYS, Batch, Dataset, for_config
from train.device.batch_transform import BatchTransform, make_batch_transform
from train.device.normalize import Normalize
from train.distill.answers import kept_answers, require_unchanged
from train.distill.teacher import Teacher, load_teacher, make_teacher, projection
from train.machine.mesh import make_mesh, state_shardings
from train.optim.lora import merged, scale_of, split_off
from train.optim.losses import class_weights, make_loss
from train.optim.optimizer import base_lr, make_optimizer
from train.optim.parameters import BESIDE, CLASSIFIER, Treatments, treatments
from train.optim.schedules import LearningRate, make_schedule
from train.optim.state import Arrays, State


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One run, ready to start; `train.step` makes compiled functions of it."""

    config: Config  # what was asked for
    dataset: Dataset
    mesh: jax.sharding.Mesh
    model: nfjax.ImageModel  # with its first weights, for its architecture and data config
    graphdef: nnx.GraphDef  # of the model; `nfjax.params.merge(graphdef, params)` is the model with other weights
    params: Arrays  # the first weights, of what may be trained
    base: Arrays  # weights that stay as they are: those beside adapters, those of a teacher
    treatments: Treatments  # what each parameter is due
    tx: optax.GradientTransformationExtraArgs
    learning_rate: LearningRate  # it knows how long the run is
    loss: Callable[[jax.Array, jax.Array], jax.Array]  # `(logits, targets) -> scalar`
    transform: BatchTransform  # of a training batch
    teacher: Teacher | None  # that the model learns from, too

    @property
    def several(self) -> bool:
        """May an image have several labels?"""
        return self.dataset.train.source.several

    def adapted(self, params: Arrays) -> Arrays:
        """The model's parameters, from all that there are: with its adapters, if it has any, merged."""
        params = {path: value for path, value in params.items() if not path.startswith(BESIDE)}
        return merged(params, scale_of(self.config.lora)) if self.config.lora.rank else params

    def answers(self, workdir: Path, say: Callable[[str], Any]) -> np.ndarray | None:
        """What the teacher says of each training image, where that is asked once: `distill.cache`."""
        if self.teacher is None or not self.config.distill.cache:
            return None
        normalize = self.transform.normalize
        return kept_answers(self.config, self.dataset, self.mesh, normalize, self.teacher, workdir, say)

    def for_devices(self, batch: Batch, answers: np.ndarray | None = None) -> Batch:
        """What of a training batch goes to the devices: images, labels, and what the teacher says of them, if kept."""
        sent = {key: batch[key] for key in DEVICE_KEYS}
        return sent if answers is None else sent | {"teacher": np.asarray(answers[batch["index"]])}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a training image."""
        return self.dataset.train.shape

    @property
    def steps_per_epoch(self) -> int:
        """Batches that pass over all training images once; the last one borrows from the next pass."""
        return math.ceil(len(self.dataset.train) / self.config.data.batch_size)

    def every(self, epochs: float) -> int:
        """Epochs as a number of steps, at least one."""
        return max(1, round(epochs * self.steps_per_epoch))

    @functools.cached_property
    def state_shapes(self) -> State:
        """Shapes, dtypes and shardings of the training state."""
        axes = {path: treatment.fsdp_axes for path, treatment in self.treatments.items()}
        shapes = jax.eval_shape(self._first_state, self.params, self.base)
        shardings = state_shardings(self.mesh, shapes, axes)
        return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)

    @property
    def shardings(self) -> State:
        """Where each part of the training state lies."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.state_shapes)

    def init(self) -> State:
        """The state before the first step, on the mesh."""
        shardings = self.shardings
        first = jax.device_put((self.params, self.base), (shardings.params, shardings.base))
        return jax.jit(self._first_state, out_shardings=shardings)(*first)

    def based(self, base: Arrays) -> Arrays:
        """Weights that stay, on the mesh, for a state that was read without."""
        if not base:
            return {}
        shardings = self.shardings.base
        return jax.jit(lambda base: jax.tree.map(jnp.copy, base), out_shardings=shardings)(
            jax.device_put(base, shardings)
        )

    def _first_state(self, params: Arrays, base: Arrays) -> State:
        params, base = jax.tree.map(jnp.copy, (params, base))  # the steps consume theirs; the caller's stay
        ema = jax.tree.map(jnp.copy, params) if self.config.ema.decay else {}
        key = jax.random.key_data(jax.random.key(self.config.seed))
        return State(jnp.zeros((), jnp.int32), params, self.tx.init(params), ema, key, self.learning_rate.init(), base)


def build(
    config: Config,
    *,
    model: nfjax.ImageModel | None = None,
    dataset: Dataset | None = None,
    teacher: nfjax.ImageModel | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Experiment:
    """Check a config against the data and the devices, and make everything that a run needs; nothing is computed yet.

    Args:
        config: what is asked for.
        model: with its first weights, instead of the one that the config names.
        dataset: instead of the one that the config names.
        teacher: likewise; without `distill.teacher` too.
        devices: those of another machine, to compile for it; this one's by default.

    Raises:
        ValueError: for a config that cannot be run, naming the fields.
    """
    check(config)
    mesh, batch_size = make_mesh(config.mesh, devices), config.data.batch_size
    parts = mesh.size * config.grad_accum_steps
    if batch_size % parts:
        raise ValueError(
            f"data.batch_size={batch_size} does not divide into {mesh.size} devices times "
            f"grad_accum_steps={config.grad_accum_steps}; take a multiple of {parts}."
        )
    dataset = for_config(config) if dataset is None else dataset
    images = len(dataset.train)
    if batch_size > images:
        raise ValueError(
            f"data.batch_size={batch_size} is more than the {images} training images that {config.data.name} has."
        )
    several = dataset.train.source.several
    _check_measures(config, dataset, several)
    if dataset.num_classes == 1 and config.model.num_classes is None and not several:
        raise ValueError(
            f"{config.data.name} has one class, {dataset.class_names[0]!r}: there is nothing to tell apart. Is "
            "data.root one folder too high or too low? To train on it nevertheless, set model.num_classes=1."
        )
    model = build_model(config, dataset) if model is None else model
    if (chans := dataset.train.shape[-1]) != model.in_chans or model.num_classes < dataset.num_classes:
        raise ValueError(
            f"the model has {model.in_chans} input channels and {model.num_classes} classes; {config.data.name} has "
            f"{chans} and {dataset.num_classes}. Load it with in_chans={chans}, num_classes={dataset.num_classes}."
        )
    weights = class_weights(config.loss, model.num_classes, dataset.train.source.labels())
    graphdef, params = split(model)
    base, params = _divided(config, params)
    taught = _teacher(config, dataset, teacher)
    if taught is not None:
        params = params | projection(taught, model.head_hidden_size, config.seed, model.param_dtype)
    due = _due(config, base, params)
    per_epoch, peak = math.ceil(images / batch_size), base_lr(config.optim, batch_size)
    normalize = Normalize(dataset.data_config.mean, dataset.data_config.std, model.param_dtype)
    return Experiment(
        config=config,
        dataset=dataset,
        mesh=mesh,
        model=model,
        graphdef=graphdef,
        params=params,
        base=base if taught is None or config.distill.cache else base | taught.params,
        treatments=due,
        tx=make_optimizer(config.optim, due),
        learning_rate=make_schedule(config.schedule, lr=peak, epochs=config.epochs, steps_per_epoch=per_epoch),
        loss=make_loss(config.loss, weights, several=several),
        transform=make_batch_transform(
            config,
            normalize,
            num_classes=model.num_classes,
            steps_per_epoch=per_epoch,
            policy=dataset.policy,
            several=several,
        ),
        teacher=taught,
    )


def _teacher(config: Config, dataset: Dataset, model: nfjax.ImageModel | None) -> Teacher | None:
    distill = config.distill
    if distill.teacher is None and model is None:
        if distill != type(distill)():
            raise ValueError("config.distill says how to learn from a teacher, not from which: distill.teacher=NAME.")
        return None
    if config.model.resume_timm is not None:
        raise ValueError("model.resume_timm continues a training without a teacher; leave distill.teacher out.")
    if distill.cache:
        require_unchanged(config)
    model = load_teacher(distill, dataset, config.model.dtype) if model is None else model
    return make_teacher(distill, dataset, model)


def _divided(config: Config, params: Arrays) -> tuple[Arrays, Arrays]:
    """What stays as it is beside adapters, and what may be trained."""
    if config.lora.rank:
        for field in ("resume_timm", "resume_run"):
            if getattr(config.model, field) is not None:
                raise ValueError(f"model.{field} continues a training of all weights; set lora.rank=0.")
        return split_off(config.lora, params, config.seed)
    if config.lora.targets:
        raise ValueError("lora.targets means nothing with lora.rank=0; set lora.rank=8, for example.")
    return {}, params


def _due(config: Config, base: Arrays, params: Arrays) -> Treatments:
    """What each parameter is due; those that stay as they are have the treatment of frozen ones."""
    due = treatments(config.optim, base | params)
    due |= {path: due[path]._replace(frozen=True) for path in base}
    if all(due[path].frozen for path in params):
        raise ValueError("optim.freeze and optim.groups freeze the classifier and every adapter; leave one of them.")
    return due


def _check_measures(config: Config, dataset: Dataset, several: bool) -> None:
    """Refuse a metric that is not measured, and weights of other classes."""
    measured = ("map", "f1", "loss") if several else ("top1", "top5", "loss")
    asked = {"checkpoint.metric": config.checkpoint.metric}
    if config.early_stop.patience is not None:
        asked["early_stop.metric"] = config.early_stop.metric
    for field, metric in asked.items():
        if metric not in measured:
            labels = "several labels" if several else "one label"
            raise ValueError(
                f"{field}={metric!r} is not measured where images have {labels} each; expected one of "
                f"{', '.join(measured)}."
            )
    weights, classes = config.loss.pos_weight, config.model.num_classes or dataset.num_classes
    if weights is not None and len(weights) not in (1, classes):
        raise ValueError(
            f"loss.pos_weight has {len(weights)} numbers; expected one, or one for each of {classes} classes."
        )


def build_model(config: Config, dataset: Dataset) -> nfjax.ImageModel:
    """The model of a config, with its first weights, for the images of a data set."""
    options = config.model
    if options.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("model.dtype='float64' needs the environment variable JAX_ENABLE_X64=1.")
    classes = dataset.num_classes if options.num_classes is None else options.num_classes
    if classes < dataset.num_classes:
        raise ValueError(
            f"model.num_classes={classes} is fewer than the {dataset.num_classes} classes that {config.data.name} has "
            "labels of."
        )
    _require_one_beginning(options)
    begun = options.resume_timm or options.resume_run
    weights: Any = None if begun else options.weights  # the loop puts those in
    if weights is not None and (readable(weights) / "checkpoints").is_dir():
        weights = run_weights(readable(weights))
    model = nfjax.load(
        options.name,
        weights=weights,
        weights_key=options.weights_key,
        num_classes=classes,
        in_chans=dataset.train.shape[-1],
        img_size=dataset.train.shape[:2],
        drop_rate=options.drop_rate,
        drop_path_rate=options.drop_path_rate,
        dtype=options.dtype,
        seed=config.seed,
    )
    model.set_grad_checkpointing(options.grad_checkpointing)
    _init_head(model, options)
    names = dataset.class_names if classes == dataset.num_classes else None
    # The trained weights belong to these images, not to those that the architecture was published with.
    tag = "wds" if config.data.name.startswith("wds/") else config.data.name  # a pattern of paths is none
    origin: dict[str, Any] = {"tag": tag, "hf_hub_id": None, "pool_size": None}
    model.data_config = dataclasses.replace(dataset.data_config, num_classes=classes, label_names=names, **origin)
    return model


def _require_one_beginning(options: Model) -> None:
    """Refuse what contradicts a state to begin with."""
    if options.resume_timm is not None and options.resume_run is not None:
        raise ValueError("model.resume_timm and model.resume_run are both a state to begin with; give one of them.")
    for field in ("resume_timm", "resume_run"):
        if getattr(options, field) is None:
            continue
        if options.weights_key is not None:
            raise ValueError(f"model.{field} takes both weights, raw and averaged: leave out weights_key.")
        if (options.head_init_scale, options.head_init_bias) != (None, None):
            raise ValueError(
                f"model.{field} takes the classifier too: leave out model.head_init_scale and model.head_init_bias."
            )


def _init_head(model: nfjax.ImageModel, options: Model) -> None:
    """Change the classifier's first weights as `head_init_scale` and `head_init_bias` say (timm `train.py`)."""
    if options.head_init_scale is None and options.head_init_bias is None:
        return
    for path, parameter in named_params(model).items():
        if not re.fullmatch(CLASSIFIER, path):
            continue
        value = parameter.get_value()
        if options.head_init_scale is not None:
            value = value * jnp.asarray(options.head_init_scale, value.dtype)
        if options.head_init_bias is not None and path.endswith("/bias"):
            value = jnp.full_like(value, options.head_init_bias)
        parameter.set_value(value)

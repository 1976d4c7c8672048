"""From a config to what a loop needs: data, model, mesh, optimiser, and the two compiled functions."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import nfjax
from nfjax.fast.backend import compiler_options
from nfjax.params import split
from train import data as pipeline
from train.checkpoints.averages import run_weights
from train.cli.mistakes import check
from train.config import Config
from train.device.inputs import Normalize, make_inputs
from train.machine.mesh import batch_sharding, make_mesh
from train.optim.groups import treatments
from train.optim.optimizer import base_lr, make_optimizer
from train.optim.schedules import LearningRate, make_schedule
from train.step import Arrays, State, init_state, make_eval_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One run, ready to start.

    Attributes:
        config: what was asked for.
        dataset: the images.
        mesh: the devices.
        model: with its first weights, for its architecture and data config.
        graphdef: of the model; `nfjax.params.merge(graphdef, params)` is the model with other weights.
        params: the first weights.
        tx: the optimiser.
        learning_rate: the schedule; it knows how long the run is.
        steps_per_epoch: batches that pass over all training images once; the last one borrows from the next pass.
        state: shapes, dtypes and shardings of the training state.
        frozen: paths of the parameters that stay as they are.
        train_step: `(state, batch) -> (state, metrics)`, jitted.
        eval_step: `(params, batch) -> sums`, jitted.
    """

    config: Config
    dataset: pipeline.Dataset
    mesh: jax.sharding.Mesh
    model: nfjax.ImageModel
    graphdef: nnx.GraphDef
    params: Arrays
    tx: optax.GradientTransformationExtraArgs
    learning_rate: LearningRate
    steps_per_epoch: int
    state: State
    frozen: frozenset[str]
    train_step: Any
    eval_step: Any

    def init(self) -> State:
        """The state before the first step, on the mesh."""
        return init_state(self.params, self.tx, self.learning_rate, self.config, self.mesh)

    def compile(self) -> jax.stages.Compiled:
        """The train step, compiled for this state and batch ahead of time: it can be asked what it will take."""
        spread, size = batch_sharding(self.mesh), self.config.data.batch_size
        batch = {
            "image": jax.ShapeDtypeStruct((size, *self.dataset.train.shape), jnp.uint8, sharding=spread),
            "label": jax.ShapeDtypeStruct((size,), jnp.int32, sharding=spread),
        }
        return self.train_step.lower(self.state, batch).compile(compiler_options())

    def every(self, epochs: float) -> int:
        """Epochs as a number of steps, at least one."""
        return max(1, round(epochs * self.steps_per_epoch))


def build(config: Config, devices: Sequence[jax.Device] | None = None) -> Experiment:
    """Check a config against the data and the devices, and make everything that a run needs; nothing is computed yet.

    Args:
        config: what is asked for.
        devices: those of another machine, to compile for it; this one's by default.

    Raises:
        ValueError: for a config that cannot be run, naming the fields.
    """
    check(config)
    mesh = make_mesh(config.mesh, devices)
    parts = mesh.size * config.grad_accum_steps
    if config.data.batch_size % parts:
        raise ValueError(
            f"data.batch_size={config.data.batch_size} does not divide into {mesh.size} devices times "
            f"grad_accum_steps={config.grad_accum_steps}; take a multiple of {parts}."
        )
    dataset = pipeline.for_config(config)
    if config.data.batch_size > len(dataset.train):
        raise ValueError(
            f"data.batch_size={config.data.batch_size} is more than the {len(dataset.train)} training images that "
            f"{config.data.name} has."
        )
    model = build_model(config, dataset)
    graphdef, params = split(model)
    steps_per_epoch = math.ceil(len(dataset.train) / config.data.batch_size)
    frozen = frozenset(path for path, treatment in treatments(config.optim, params).items() if treatment.frozen)
    tx = make_optimizer(config.optim)
    learning_rate = make_schedule(
        config.schedule,
        lr=base_lr(config.optim, config.data.batch_size),
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
    )
    state = init_state(params, tx, learning_rate, config, mesh, abstract=True)
    normalize = Normalize(dataset.mean, dataset.std, jnp.promote_types(config.model.dtype, jnp.float32))
    inputs = make_inputs(
        config,
        normalize,
        num_classes=model.num_classes,
        steps_per_epoch=steps_per_epoch,
        policy=dataset.policy,
    )
    return Experiment(
        config=config,
        dataset=dataset,
        mesh=mesh,
        model=model,
        graphdef=graphdef,
        params=params,
        tx=tx,
        learning_rate=learning_rate,
        steps_per_epoch=steps_per_epoch,
        state=state,
        frozen=frozen,
        train_step=make_train_step(graphdef, tx, learning_rate, inputs, config, mesh, state, frozen),
        eval_step=make_eval_step(graphdef, normalize, mesh, state),
    )


def build_model(config: Config, dataset: pipeline.Dataset) -> nfjax.ImageModel:
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
    weights: Any = options.weights
    if weights is not None and (Path(weights) / "checkpoints").is_dir():
        weights = run_weights(Path(weights))
    model = nfjax.load(
        options.name,
        weights=weights,
        num_classes=classes,
        in_chans=dataset.train.shape[-1],
        img_size=dataset.train.shape[:2],
        drop_rate=options.drop_rate,
        drop_path_rate=options.drop_path_rate,
        dtype=options.dtype,
        seed=config.seed,
    )
    model.set_grad_checkpointing(options.grad_checkpointing)
    names = dataset.class_names if classes == dataset.num_classes else None
    # The trained weights belong to these images, not to those that the architecture was published with.
    model.data_config = dataclasses.replace(
        dataset.data_config,
        tag=config.data.name,
        hf_hub_id=None,
        pool_size=None,
        num_classes=classes,
        label_names=names,
    )
    return model

"""The training state, and the two compiled functions over it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nfjax.params import merge
from train.optim import ClipState

Arrays = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that a step changes: the step counter, the parameters by path, the optimiser's state."""

    step: jax.Array
    params: Arrays
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Normalize:
    """uint8 images to what the model was made for, on the device."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
        return (images.astype(jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)


def data_mesh() -> Mesh:
    """All devices along one axis, "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis of a batch is spread over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def init_state(params: Arrays, tx: optax.GradientTransformation, mesh: Mesh) -> State:
    """The state before the first step, on the mesh."""
    state = State(jnp.zeros((), jnp.int32), params, tx.init(params))
    return jax.device_put(state, replicated(mesh))


def make_train_step(
    graphdef: nnx.GraphDef,
    tx: optax.GradientTransformation,
    normalize: Normalize,
    mesh: Mesh,
    *,
    seed: int,
    label_smoothing: float = 0.0,
) -> Callable[[State, Arrays], tuple[State, Arrays]]:
    """One optimisation step, jitted: `(state, batch) -> (state, metrics)`; the given state is consumed.

    Every random choice is folded from the seed and the step, so that a resumed run repeats none and skips none.
    The metrics are scalars: the mean loss, the accuracy on the batch, the gradient's norm, and the share of
    units that adaptive gradient clipping clipped.
    """

    def train_step(state: State, batch: Arrays) -> tuple[State, Arrays]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_fn(params: Arrays) -> tuple[jax.Array, jax.Array]:
            logits = merge(graphdef, params)(normalize(batch["image"]), key=key)
            targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], logits.shape[-1]), label_smoothing)
            return optax.softmax_cross_entropy(logits, targets).mean(), logits

        (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params: Arrays = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "top1": jnp.mean(logits.argmax(-1) == batch["label"]),
            "grad_norm": optax.tree.norm(grads),
        }
        if isinstance(opt_state[0], ClipState):
            metrics["clip_rate"] = opt_state[0].clip_rate
        return State(state.step + 1, params, opt_state), metrics

    whole, spread = replicated(mesh), batch_sharding(mesh)
    return jax.jit(train_step, in_shardings=(whole, spread), out_shardings=(whole, whole), donate_argnums=0)


def make_eval_step(graphdef: nnx.GraphDef, normalize: Normalize, mesh: Mesh) -> Callable[[Arrays, Arrays], Arrays]:
    """Sums over a batch, jitted: `(params, batch) -> {top1, top5, loss, count}`; padding counts for nothing."""

    def eval_step(params: Arrays, batch: Arrays) -> Arrays:
        logits = merge(graphdef, params)(normalize(batch["image"]))
        label, valid = batch["label"][:, None], batch["valid"]
        own = jnp.take_along_axis(logits, label, axis=-1)
        rank = jnp.sum((logits > own) | ((logits == own) & (jnp.arange(logits.shape[-1]) < label)), axis=-1)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {
            "top1": jnp.sum(valid & (rank < 1)),
            "top5": jnp.sum(valid & (rank < 5)),
            "loss": jnp.sum(jnp.where(valid, loss, 0.0)),
            "count": jnp.sum(valid),
        }

    whole, spread = replicated(mesh), batch_sharding(mesh)
    return jax.jit(eval_step, in_shardings=(whole, spread), out_shardings=whole)

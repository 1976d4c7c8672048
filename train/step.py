"""The training state, and the two compiled functions over it."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from nfjax.fast.backend import compiler_options
from nfjax.params import merge
from train import config
from train.device.inputs import Inputs, Normalize
from train.machine.mesh import AXES, batch_sharding, replicated, state_shardings
from train.optim.clip import tree_norm
from train.optim.losses import make_loss, top_k
from train.optim.schedules import LearningRate

Arrays = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that a step changes, and the key of all its random choices; dicts are keyed by parameter path.

    Attributes:
        step: how many steps were done, int32.
        params: the parameters, float32 or float64.
        opt_state: of the optimiser.
        ema: moving average of the parameters; empty if there is none.
        key: base key, as uint32 data.
        plateau: what the schedule remembers of evaluations; empty for those that depend on the step alone.
    """

    step: jax.Array
    params: Arrays
    opt_state: Any
    ema: Arrays
    key: jax.Array
    plateau: Any

    @property
    def eval_params(self) -> Arrays:
        """What is evaluated and saved: the moving average where there is one."""
        return self.ema or self.params


def init_state(
    params: Arrays,
    tx: optax.GradientTransformationExtraArgs,
    learning_rate: LearningRate,
    config: config.Config,
    mesh: jax.sharding.Mesh,
    *,
    abstract: bool = False,
) -> State:
    """The state before the first step, on the mesh; if `abstract`, only its shapes, dtypes and shardings."""

    def build(params: Arrays) -> State:
        params = jax.tree.map(jnp.copy, params)  # the steps consume theirs; the caller's stay
        ema = jax.tree.map(jnp.copy, params) if config.ema.decay else {}
        key = jax.random.key_data(jax.random.key(config.seed))
        return State(jnp.zeros((), jnp.int32), params, tx.init(params), ema, key, learning_rate.init())

    shapes = jax.eval_shape(build, params)
    shardings = state_shardings(mesh, shapes)
    if abstract:
        return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings)
    return jax.jit(build, out_shardings=shardings)(jax.device_put(params, shardings.params))


def ema_decay(ema: config.Ema, step: jax.Array) -> jax.Array:
    """Share of the moving average that step `step`, counted from 0, keeps (timm `ModelEmaV3.get_decay`)."""
    warm = 1 - (1 + step.astype(float)) ** (-2 / 3) if ema.warmup else ema.decay
    return jnp.where(step > 0, jnp.minimum(warm, ema.decay), 0.0)


def make_train_step(
    graphdef: nnx.GraphDef,
    tx: optax.GradientTransformationExtraArgs,
    learning_rate: LearningRate,
    inputs: Inputs,
    config: config.Config,
    mesh: jax.sharding.Mesh,
    state: State,
    frozen: Collection[str] = (),
) -> Any:
    """One optimisation step, jitted: `(state, batch) -> (state, metrics)`; the given state is consumed.

    Every random choice is folded from the state's key and step, so that a resumed run repeats none and skips none.
    The metrics are scalars: `loss`, its mean over the batch; `top1`, the share that was classified correctly, mixed
    images as what they are most; `lr`, the learning rate; `grad_norm`, of the gradient before clipping; `clip_rate`,
    the share of units that adaptive clipping clipped, if there is one.

    Args:
        graphdef: of the model, from `nfjax.params.split`.
        tx: from `train.optim.make_optimizer`.
        learning_rate: from `train.optim.schedules.make_schedule`.
        inputs: from `train.device.inputs.make_inputs`.
        config: of the run.
        mesh: of the devices.
        state: or its shapes.
        frozen: paths of parameters that get no gradient.
    """
    loss_fn, parts = make_loss(config.loss), config.grad_accum_steps
    whole, spread = replicated(mesh), batch_sharding(mesh)
    shardings = state_shardings(mesh, state)

    def gradients(params: Arrays, batch: Arrays, key: jax.Array, step: jax.Array) -> tuple[Arrays, Arrays]:
        model_key, inputs_key = jax.random.split(key)
        images, labels = inputs(batch["image"], batch["label"], inputs_key, step)

        def loss(trained: Arrays) -> tuple[jax.Array, Arrays]:
            # Each device works on its images with whole parameters: what fsdp divided is gathered here. Left to
            # itself, the compiler may gather activations instead, which are far larger.
            gathered = jax.lax.with_sharding_constraint(params | trained, whole)
            logits = merge(graphdef, gathered)(images, key=model_key)
            logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
            value = loss_fn(logits, labels)
            return value, {"loss": value, "top1": jnp.mean(top_k(logits, labels, 1), dtype=value.dtype)}

        trained = {path: value for path, value in params.items() if path not in frozen}
        grads, metrics = jax.grad(loss, has_aux=True)(trained)
        return {path: jax.lax.with_sharding_constraint(g, shardings.params[path]) for path, g in grads.items()}, metrics

    def accumulated(params: Arrays, batch: Arrays, key: jax.Array, step: jax.Array) -> tuple[Arrays, Arrays]:
        if parts == 1:
            return gradients(params, batch, key, step)
        # Part i is rows i, i + parts, ...: each device finds all of its own parts among its own images.
        split = {k: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for k, x in batch.items()}
        split = jax.lax.with_sharding_constraint(
            split, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, AXES))
        )

        def part(total: tuple[Arrays, Arrays], index: jax.Array) -> tuple[tuple[Arrays, Arrays], None]:
            rows = {k: x[index] for k, x in split.items()}
            grads = gradients(params, rows, jax.random.fold_in(key, index), step)
            return jax.tree.map(jnp.add, total, grads), None

        first = {k: x[0] for k, x in split.items()}
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(gradients, params, first, key, step))
        total, _ = jax.lax.scan(part, zeros, jnp.arange(parts))
        return jax.tree.map(lambda x: x / parts, total)

    def train_step(state: State, batch: Arrays) -> tuple[State, Arrays]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        grads, metrics = accumulated(state.params, batch, key, state.step)
        rate = learning_rate(state.step, state.plateau)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, learning_rate=rate)
        params: Arrays = optax.apply_updates(state.params, updates)
        metrics |= {"lr": rate, "grad_norm": tree_norm(grads)}
        clip_rate = optax.tree.get(opt_state, "clip_rate")
        if clip_rate is not None:
            metrics["clip_rate"] = clip_rate
        ema = state.ema
        if ema:
            keep = ema_decay(config.ema, state.step)
            ema = jax.tree.map(lambda old, new: (old + (1 - keep) * (new - old)).astype(new.dtype), ema, params)
        return dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state, ema=ema), metrics

    return jax.jit(train_step, in_shardings=(shardings, spread), out_shardings=(shardings, whole), donate_argnums=0)


def make_eval_step(graphdef: nnx.GraphDef, normalize: Normalize, mesh: Any, state: State) -> Callable[..., Arrays]:
    """Sums over a batch, jitted: `(params, batch) -> {top1, top5, loss, count}`; padding counts for nothing."""
    whole, spread = replicated(mesh), batch_sharding(mesh)

    def eval_step(params: Arrays, batch: Arrays) -> Arrays:
        params = jax.lax.with_sharding_constraint(params, whole)
        logits = merge(graphdef, params)(normalize(batch["image"]))
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        valid = batch["valid"]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {
            "top1": jnp.sum(valid & top_k(logits, batch["label"], 1)),
            "top5": jnp.sum(valid & top_k(logits, batch["label"], 5)),
            "loss": jnp.sum(jnp.where(valid, loss, 0.0)),
            "count": jnp.sum(valid),
        }

    shardings = state_shardings(mesh, state).params
    options = compiler_options()
    return jax.jit(eval_step, in_shardings=(shardings, spread), out_shardings=whole, compiler_options=options)

"""The compiled functions of an experiment: a training step, and a step of an evaluation."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nfjax.fast.backend import compiler_options, gathered_where_used
from nfjax.params import merge
from train.distill.answers import answer_dtype
from train.distill.teacher import PLACE, PROJECTION
from train.experiment import Experiment
from train.machine.mesh import AXES, batch_sharding, replicated
from train.optim.clip import tree_norm
from train.optim.losses import top_k
from train.optim.state import Arrays, State, ema_decay


def make_train_step(experiment: Experiment) -> Any:
    """One optimisation step, jitted: `(state, batch) -> (state, metrics)`; the given state is consumed.

    Every random choice is folded from the state's key and step, so that a resumed run repeats none and skips none.
    The metrics are scalars: `loss`, its mean over the batch; `top1`, the share that was classified correctly, mixed
    images as what they are most; `lr`, the learning rate; `grad_norm`, of the gradient before clipping; `clip_rate`,
    the share of units that adaptive clipping clipped, if there is one. Of several labels an image there is no `top1`;
    with a teacher `task_loss` and `distill_loss` are the two parts of the loss.
    """
    mesh, parts, shardings = experiment.mesh, experiment.config.grad_accum_steps, experiment.shardings
    whole, spread = replicated(mesh), batch_sharding(mesh)
    gather = functools.partial(jax.lax.with_sharding_constraint, shardings=whole)

    def where_used(path: str, value: jax.Array) -> bool:
        """Is it one of the model's matrices, which are gathered as they are multiplied by?"""
        others = path.startswith((PLACE, PROJECTION))
        return mesh.shape["fsdp"] > 1 and value.ndim == 2 and path.endswith("/kernel") and not others

    def gradients(params: Arrays, batch: Arrays, key: jax.Array, step: jax.Array) -> tuple[Arrays, Arrays]:
        model_key, transform_key = jax.random.split(key)
        images, labels = experiment.transform(batch["image"], batch["label"], transform_key, step)
        told = _told(experiment, params, images, batch)

        def loss(trained: Arrays) -> tuple[jax.Array, Arrays]:
            # Each device works on its images with whole parameters: what fsdp divided is gathered. Left to itself,
            # the compiler may gather activations instead, which are far larger.
            given = params | trained
            late = {path: value for path, value in given.items() if where_used(path, value)}
            gathered = gather({path: value for path, value in given.items() if path not in late}) | late
            with gathered_where_used(gather) if late else contextlib.nullcontext():
                logits, features = _outputs(experiment, gathered, images, model_key)
            logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
            value = experiment.loss(logits, labels)
            metrics = {"loss": value}
            if experiment.teacher is not None:
                distill, taught = experiment.config.distill, experiment.teacher.loss(logits, features, told, gathered)
                metrics |= {"task_loss": value, "distill_loss": taught}
                value = distill.task_weight * value + distill.weight * taught
                metrics["loss"] = value
            if not experiment.several:
                metrics["top1"] = jnp.mean(top_k(logits, labels, 1), dtype=value.dtype)
            return value, metrics

        due = experiment.treatments  # of all but a teacher's parameters
        trained = {path: value for path, value in params.items() if path in due and not due[path].frozen}
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
        grads, metrics = accumulated(state.base | state.params, batch, key, state.step)
        rate = experiment.learning_rate(state.step, state.plateau)
        updates, opt_state = experiment.tx.update(grads, state.opt_state, state.params, learning_rate=rate)
        params: Arrays = optax.apply_updates(state.params, updates)
        metrics |= {"lr": rate, "grad_norm": tree_norm(grads)}
        clip_rate = optax.tree.get(opt_state, "clip_rate")
        if clip_rate is not None:
            metrics["clip_rate"] = clip_rate
        ema = state.ema
        if ema:
            keep = ema_decay(experiment.config.ema, state.step)
            ema = jax.tree.map(lambda old, new: (old + (1 - keep) * (new - old)).astype(new.dtype), ema, params)
        return dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state, ema=ema), metrics

    return jax.jit(train_step, in_shardings=(shardings, spread), out_shardings=(shardings, whole), donate_argnums=0)


def _told(experiment: Experiment, params: Arrays, images: jax.Array, batch: Arrays) -> jax.Array | None:
    """What the teacher says of the images: now, or where it was asked before, then."""
    if "teacher" in batch or experiment.teacher is None:
        return batch.get("teacher")
    return experiment.teacher(params, images)


def _outputs(
    experiment: Experiment, params: Arrays, images: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Logits, and what enters the classifier where a teacher is about that."""
    model = merge(experiment.graphdef, experiment.adapted(params))
    if experiment.teacher is None or experiment.config.distill.kind != "features":
        return model(images, key=key), None
    key, head_key = jax.random.split(key)  # as a call of the model does
    maps = model.forward_features(images, key=key)
    return model.forward_head(maps, key=head_key), model.forward_head(maps, pre_logits=True, key=head_key)


def trace_train_step(experiment: Experiment) -> jax.stages.Traced:
    """The training step, traced for the experiment's state and batch."""
    spread, size = batch_sharding(experiment.mesh), experiment.config.data.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((size, *experiment.image_shape), jnp.uint8, sharding=spread),
        "label": jax.ShapeDtypeStruct((size,), jnp.int32, sharding=spread),
    }
    if experiment.several:
        batch["label"] = jax.ShapeDtypeStruct((size, experiment.dataset.num_classes), jnp.int8, sharding=spread)
    if experiment.teacher is not None and experiment.config.distill.cache:
        shape = size, experiment.teacher.width
        batch["teacher"] = jax.ShapeDtypeStruct(shape, answer_dtype(experiment.teacher), sharding=spread)
    traced: jax.stages.Traced = make_train_step(experiment).trace(experiment.state_shapes, batch)
    return traced


def compile_train_step(experiment: Experiment) -> jax.stages.Compiled:
    """The training step, compiled for the experiment's state and batch; its memory and FLOPs can be read."""
    return trace_train_step(experiment).lower().compile({**compiler_options()})


def make_eval_step(experiment: Experiment) -> Callable[..., Arrays]:
    """Sums over a batch, jitted: `(params, batch) -> {top1, top5, loss, count}`; padding counts for nothing.

    Of several labels an image: `{logits, label, valid}` of the whole batch, for `train.optim.scores`.
    """
    whole, spread = replicated(experiment.mesh), batch_sharding(experiment.mesh)

    def eval_step(params: Arrays, batch: Arrays) -> Arrays:
        params = experiment.adapted(jax.lax.with_sharding_constraint(params, whole))
        logits = merge(experiment.graphdef, params)(experiment.transform.normalize(batch["image"]))
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        valid = batch["valid"]
        if experiment.several:
            return {"logits": logits[:, : batch["label"].shape[1]], "label": batch["label"], "valid": valid}
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return {
            "top1": jnp.sum(valid & top_k(logits, batch["label"], 1)),
            "top5": jnp.sum(valid & top_k(logits, batch["label"], 5)),
            "loss": jnp.sum(jnp.where(valid, loss, 0.0)),
            "count": jnp.sum(valid),
        }

    shardings, options = experiment.shardings.eval_params, compiler_options()
    return jax.jit(eval_step, in_shardings=(shardings, spread), out_shardings=whole, compiler_options=options)

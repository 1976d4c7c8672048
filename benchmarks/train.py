"""Time of a training step: SGD (Nesterov) with adaptive gradient clipping and cross-entropy, uint8 images in.

ours: the step that `train.main` compiles. timm's is torch autograd with timm's clipping and optimiser, set up as its
training script does: eager (channels_last) and torch.compile of the model, both with AMP if it is bfloat16. All start
from the same weights, normalise the same batch on the device and take turns.

Before anything is timed each does three steps. In float32 their losses, relative to the way that timm's went, and the
way itself, which is the change of all parameters together, must be timm's but for 1e-4: float32's rounding makes 4e-6
of the way, a learning rate or a clip that is wrong by 1 % makes 5e-3. In bfloat16 all are compared with timm's in
float32, and ours may be twice as far as timm's AMP, whose way is 5e-3 off.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

import nfjax
import port
from benchmarks import harness, peer
from nfjax.parity import oracle
from nfjax.profile import profile
from train import config as c
from train import data
from train.experiment import Experiment, build
from train.machine.mesh import put_batch
from train.step import compile_train_step

STEPS = 3  # the second and the third show what the gradient and the momentum did
LIMIT = 1e-4
OPTIM = c.Optim("sgd", lr=0.1, momentum=0.9, weight_decay=2e-5, clip_mode="agc", clip_grad=0.015)
BACKWARD = 2  # gradients of inputs and of weights: as many products again, each
Params = Mapping[str, np.ndarray]


def main(argv: list[str] | None = None) -> int:
    return harness.main("train", __doc__, Task, argv, size=160, batch=[8])


def random_batch(size: int, count: int, classes: int = 1000) -> data.Batch:
    """Noise: the time of a step does not depend on what is in the images."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    return {"image": images, "label": rng.integers(0, classes, count).astype(np.int32)}


def experiment(
    model: str,
    images: data.Batch,
    batch: int,
    *,
    classes: int = 1000,
    dtype: str = "float32",
    devices: Sequence[jax.Device] | None = None,
    fsdp: int = 1,
) -> Experiment:
    """What `train.main` builds for these images, with a line of metrics for every step."""
    config = c.Config(
        epochs=1,
        model=c.Model(name=model, dtype=cast(Any, dtype)),  # the config's own check says what it may be
        data=c.Data(name="random", image_size=images["image"].shape[1], batch_size=batch),
        optim=OPTIM,
        schedule=c.Schedule("constant"),
        log=c.Log(every_steps=1),
        mesh=c.Mesh(fsdp=fsdp),
    )
    source = data.ArraySource(images["image"], images["label"], tuple(map(str, range(classes))))
    dataset = data.load_dataset(config.data, nfjax.data_config(model), images=(source, source))
    return build(config, dataset=dataset, devices=devices)


class Task:
    """One model and batch, for `harness`."""

    def __init__(self, case: harness.Case):
        assert case.size is not None
        self.case, self.size = case, (case.size, case.size)
        self.state, self.options = peer.weights(case.model, case.size)
        classes = oracle.timm().get_pretrained_cfg(case.model).num_classes
        self.batch = random_batch(case.size, case.batch, classes)
        self.experiment = experiment(case.model, self.batch, case.batch, classes=classes, dtype=case.dtype)
        macs = profile(self.experiment.model, self.size).macs
        self.flops = 2 * macs * (1 + BACKWARD) * case.batch
        self.ours: dict[str, harness.Make] = {"ours": lambda: Ours(self.experiment, self.state, self.batch)}
        self.theirs: dict[str, harness.Make] = {
            "timm eager": lambda: self.timm(),
            "torch.compile": lambda: self.timm(compiled=True),
        }

    def timm(self, **options: Any) -> "Timms":
        model = peer.build(self.case.model, self.state, self.options)
        return Timms(model, self.batch, **{"dtype": self.case.dtype, **options})

    def check(self, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """The way of each rival in the first steps; it consumes them."""
        start = port.to_flax(self.state)
        runs = {name: first_steps(call) for name, call in calls.items()}
        if self.case.dtype == "float32":
            expected = runs["timm eager"]
        else:
            expected = first_steps(self.timm(dtype="float32", chunk=peer.CHUNK))
        losses = {name: losses_apart(found, expected[0]) for name, (found, _) in runs.items()}
        ways = {name: ways_apart(found, expected[1], start) for name, (_, found) in runs.items()}
        for what, far in {"losses": losses, "steps": ways}.items():
            limit = LIMIT if self.case.dtype == "float32" else peer.bfloat16_limit(far)
            peer.within(far, limit, what)
        return ways


def first_steps(call: Any) -> tuple[list[float], Params]:
    """The losses of the first steps, and where they led to."""
    return [float(call()) for _ in range(STEPS)], call.params()


def losses_apart(found: list[float], expected: list[float]) -> float:
    """Largest difference, relative to how far the loss went."""
    apart, way = (np.max(np.abs(np.subtract(a, b))) for a, b in ((found, expected), (expected, expected[0])))
    return float(apart / way) if way else float("inf")


def ways_apart(found: Params, expected: Params, start: Params) -> float:
    """Distance of the parameters, relative to how far they went; both Euclidean, over all of them."""
    apart, way = (
        sum(float(np.sum(np.square(a[path] - b[path], dtype=np.float64))) for path in start) ** 0.5
        for a, b in ((found, expected), (expected, start))
    )
    return apart / way if way else float("inf")


class Ours:
    """Our step, compiled for the state and the batch; each call goes one on, and gives the loss before it."""

    def __init__(self, experiment: Experiment, state: Params, batch: data.Batch):
        params = {path: jax.numpy.asarray(value) for path, value in port.to_flax(state).items()}
        self._step = compile_train_step(experiment)
        self._state = dataclasses.replace(experiment, params=params).init()
        self._batch = put_batch(experiment.mesh, batch)

    def __call__(self) -> Any:
        self._state, metrics = jax.block_until_ready(self._step(self._state, self._batch))
        return metrics["loss"]

    def params(self) -> Params:
        """By path."""
        return jax.device_get(self._state.params)


class Timms:
    """timm's step; each call goes one on, and gives the loss before it.

    Args:
        model: timm's, on the device.
        batch: uint8 images, NHWC, and labels.
        dtype: bfloat16 for AMP.
        compiled: by torch.compile.
        chunk: do so many images at a time and add their gradients up, to save memory.
    """

    def __init__(self, model: Any, batch: data.Batch, *, dtype: str, compiled: bool = False, chunk: int | None = None):
        import torch
        from timm.optim import create_optimizer_v2

        self._model = model.requires_grad_(True).train()
        self._dtype, device = dtype, peer.device()
        self._optimizer = create_optimizer_v2(
            model, OPTIM.name, lr=OPTIM.lr, weight_decay=OPTIM.weight_decay, momentum=OPTIM.momentum
        )
        cfg = model.pretrained_cfg
        self._mean, self._std = (
            255 * torch.tensor(cfg[key], device=device).reshape(1, -1, 1, 1) for key in ("mean", "std")
        )
        self._x = torch.from_numpy(batch["image"]).to(device).permute(0, 3, 1, 2)  # NHWC in memory is channels_last
        self._y = torch.from_numpy(batch["label"]).long().to(device)
        self._chunk = chunk or len(self._x)
        self._forward = peer.compile(model) if compiled else model
        if compiled:
            self._gradients()
            self._optimizer.zero_grad()

    def _gradients(self) -> Any:
        """The loss, and the gradients in the parameters."""
        import torch

        total = 0.0
        for x, y in zip(self._x.split(self._chunk), self._y.split(self._chunk), strict=True):
            x = x.float().sub_(self._mean).div_(self._std)
            with peer.autocast(self._dtype):
                loss = torch.nn.functional.cross_entropy(self._forward(x), y) * (len(x) / len(self._x))
            loss.backward()
            total += loss.detach()
        return total

    def __call__(self) -> Any:
        from timm.models import model_parameters
        from timm.utils import dispatch_clip_grad

        loss = self._gradients()
        dispatch_clip_grad(model_parameters(self._model, exclude_head=True), OPTIM.clip_grad, OPTIM.clip_mode)
        self._optimizer.step()
        self._optimizer.zero_grad()
        peer.wait()
        return loss

    def params(self) -> Params:
        """By our paths."""
        return port.to_flax({name: p.detach().cpu().numpy().copy() for name, p in self._model.named_parameters()})

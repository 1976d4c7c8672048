"""One training step, compiled for devices that may not be there: what it needs of each, and the least time it takes."""

import copy
import dataclasses
import math
import re
import time
from typing import Any

import jax

from nfjax.fast.backend import traced_for
from nfjax.models.base import ImageModel
from nfjax.profile import profile
from nfjax.weights.names import resolve
from nfjax.weights.planning import LoadOptions, make_plan
from train.cli.mistakes import check
from train.config import Config
from train.data import Dataset, for_config, load_dataset
from train.data.sources.base import Example, Source
from train.distill.teacher import compute_dtype
from train.experiment import Experiment, build
from train.machine.mesh import bytes_per_device
from train.plan.devices import Devices
from train.plan.program import operations
from train.step import compile_train_step

BACKWARD = 2  # gradients of inputs and of weights: as many products as before, each
SIZES = {"imagenet2012": (1_281_167, 1000), "imagenet-1k": (1_281_167, 1000)}  # images to train on, classes
ACTIVATIONS = "activations, gradients"
ENOUGH = 0.95  # of the memory, to call a batch the largest
# What XLA says of a TPU's memory that is too small: for all of it, or for temporary arrays alone.
SHORT = re.compile(r"(?:Used |\()([\d.]+)([KMGT])i?B?\)? (?:of|exceeds)")
LIBRARIES = re.compile(r"cudnn|ptxas", re.IGNORECASE)  # which jax and XLA look for as they trace and compile
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Absent(Source):
    """So many images that nobody reads."""

    def __init__(self, images: int, classes: int):
        self._images, self.class_names = images, tuple(map(str, range(classes)))

    def __len__(self) -> int:
        return self._images

    def __getitem__(self, index: int) -> Example:
        raise OSError("these images are only counted.")

    def fingerprint(self) -> str:
        return f"{self._images} absent"


def dataset_of(config: Config, images: int | None, classes: int | None) -> Dataset:
    """The data set of a config; where it is not there, its size: given, or known by its name.

    Raises:
        ValueError, OSError: it is neither there nor known.
    """
    known = next((size for name, size in SIZES.items() if config.data.name.endswith(f"/{name}")), None)
    if images is None and classes is None and known is None:
        try:
            return for_config(config)
        except (ValueError, OSError) as error:
            raise type(error)(f"{error}\nTo plan without the images, give --images and --classes.") from None
    count, many = known or (None, None)
    count, many = images or count, classes or config.model.num_classes or many
    if count is None or many is None:
        raise ValueError("--images and --classes go together: the images to train on, and their classes.")
    source = Absent(count, many)
    return load_dataset(config.data, resolve(config.model.name).data, config.augment, images=(source, source))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a step of a config needs of each device.

    Attributes:
        memory: bytes by what they are for; "at least" alone where XLA says no more.
        moved: bytes that its kernels read and write.
        flops: operations of its products.
        sent: bytes that the device sends to others.
        compiled_in: seconds.
    """

    config: Config
    devices: Devices
    memory: dict[str, float]
    moved: float
    flops: float
    sent: float
    compiled_in: float

    @property
    def total(self) -> float:
        """Bytes of a device."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.devices.memory

    @property
    def least(self) -> dict[str, float]:
        """Seconds that a step takes at least, by what would take them."""
        kind = self.devices.kind
        peak = kind.peak if self.config.model.dtype == "bfloat16" else kind.peak_float32
        times = {"memory": self.moved / kind.bandwidth, "products": self.flops / peak}
        return times | {"links": self.sent / self.devices.link if self.sent else 0.0}

    @property
    def seconds(self) -> float:
        """Of a step at least: the longest of those, which at best go on at once."""
        return max(self.least.values())


def estimate(config: Config, dataset: Dataset, devices: Devices) -> Estimate:
    """Compile the training step of a config for devices, and read from the program what it needs."""
    start = time.perf_counter()
    check(config)
    made = devices.make()
    model = abstract(config, dataset)
    with traced_for(devices.kind.backend):
        experiment = build(config, model=model, dataset=dataset, teacher=_teacher(config), devices=made)
        try:
            compiled = compile_train_step(experiment)
        except RuntimeError as error:
            if LIBRARIES.search(str(error)):
                raise devices.lack(error) from None
            if (short := SHORT.search(str(error))) is None:
                raise
            memory = {"at least": float(short[1]) * UNITS[short[2]]}
            return Estimate(config, devices, memory, 0, 0, 0, time.perf_counter() - start)
    return Estimate(
        config,
        devices,
        _memory(experiment, compiled.memory_analysis(), devices),
        *_work(experiment, compiled, devices),
        time.perf_counter() - start,
    )


def abstract(config: Config, dataset: Dataset) -> ImageModel:
    """The model of a config, as shapes without values."""
    options = config.model
    asked = LoadOptions(
        num_classes=options.num_classes or dataset.num_classes,
        in_chans=dataset.train.shape[-1],
        img_size=dataset.train.shape[:2],
        drop_rate=options.drop_rate,
        drop_path_rate=options.drop_path_rate,
        dtype=options.dtype,
    )
    model = make_plan(resolve(options.name), asked).build()
    model.set_grad_checkpointing(options.grad_checkpointing)
    return model


def _teacher(config: Config) -> ImageModel | None:
    """The teacher of a config, as shapes without values, not folded."""
    if config.distill.teacher is None:
        return None
    asked = LoadOptions(dtype=compute_dtype(config.model.dtype))
    return make_plan(resolve(config.distill.teacher), asked).build()


def _memory(experiment: Experiment, found: Any, devices: Devices) -> dict[str, float]:
    state = experiment.state_shapes
    parts = {
        "parameters": bytes_per_device((state.base, state.params)),
        "optimiser": bytes_per_device(state.opt_state),
        "moving average": bytes_per_device(state.ema),
    }
    there = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return {
        **parts,
        "images and the rest": max(there - sum(parts.values()), 0),
        ACTIVATIONS: found.temp_size_in_bytes,
        "program": found.generated_code_size_in_bytes,
    }


def _work(experiment: Experiment, compiled: jax.stages.Compiled, devices: Devices) -> tuple[float, float, float]:
    """Bytes moved, operations and bytes sent of a step, on one device."""
    done = operations(compiled.as_text() or "")
    images = experiment.config.data.batch_size / devices.count
    height, width, _ = experiment.image_shape
    passes = 1 + BACKWARD + experiment.config.model.grad_checkpointing
    flops = 2 * profile(experiment.model, (height, width)).macs * passes * images
    return sum(o.moved * o.times for o in done), flops, sum(o.sent(devices.count) for o in done)


def changed(config: Config, **fields: Any) -> Config:
    """A copy of a config with other values, by their paths."""
    config = copy.deepcopy(config)
    for name, value in fields.items():
        section, _, field = name.rpartition(".")
        setattr(getattr(config, section) if section else config, field, value)
    return config


def largest_batch(first: Estimate, dataset: Dataset) -> Estimate | None:
    """The largest batch that fits; None if none does.

    What a step needs grows with its images along a straight line, near enough for two points to show where it ends. The
    first is a guess: without images there would be the state and the gradients.
    """
    memory, parts = first.devices.memory, first.devices.count * first.config.grad_accum_steps
    without = first.total - first.memory.get(ACTIVATIONS, first.total) + first.memory.get("parameters", 0)
    points = [(0, without), (first.config.data.batch_size // parts, first.total)]
    best = first if first.fits else None
    for _ in range(3):
        (fewer, less), (each, all_of_it) = points[-2:]
        slope = (all_of_it - less) / (each - fewer)
        most = each + math.floor((memory - all_of_it) / slope) if slope > 0 else 0
        most = most // 8 * 8 if most >= 16 else most
        if most < 1 or most in dict(points) or most * parts > len(dataset.train):
            break
        found = estimate(changed(first.config, **{"data.batch_size": most * parts}), dataset, first.devices)
        points.append((most, found.total))
        best = max((e for e in (best, found) if e and e.fits), key=lambda e: e.config.data.batch_size, default=None)
        if found.fits and found.total > ENOUGH * memory:
            break
    return best

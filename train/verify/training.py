"""Training against timm: the same weights and images through our training step and through timm's, in float64.

Ours is the step that `train.main` compiles. timm's side is torch autograd, timm's loss, clipping, optimiser, scheduler
and moving average, set up from the same config as its training script would. Images are random and not augmented.
"""

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import nfjax
import port
from nfjax.parity import oracle
from train import data
from train.config import Checkpoint, Config, Data, Distill, Ema, Loss, Model, Optim, Schedule
from train.experiment import build
from train.machine.mesh import put_batch
from train.step import make_train_step
from train.verify.theirs import Theirs

TOLERANCE = 1e-9
EPOCHS = 4


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A model, how it is trained, and a small model of its family for quick checks."""

    config: Config  # of the run; its model is the full-size one
    small: str  # its name
    small_size: int  # side of its images
    small_options: Mapping[str, Any]  # cuts it down further, in both libraries
    sized: bool = False  # the models are built for one size of images
    teacher: str | None = None  # name of a model that takes images of any size


RECIPES: dict[str, Recipe] = {
    # The published recipe of eca_nfnet_l0: Nesterov, adaptive clipping, coupled decay.
    "sgd": Recipe(
        Config(
            model=Model("eca_nfnet_l0"),
            data=Data(image_size=96, batch_size=4),
            optim=Optim("sgd", lr=0.1, weight_decay=2e-5, clip_mode="agc", clip_grad=0.015),
            schedule=Schedule("cosine", warmup_epochs=1, warmup_lr=1e-3, min_lr=1e-3),
            ema=Ema(0.99),
        ),
        small="test_nfnet", small_size=64, small_options={"depths": (1, 1), "channels": (32, 64)},
    ),
    # Fine-tuning as the sbb ViTs were: layer decay, clipping by norm, binary cross-entropy with a threshold.
    "adamw": Recipe(
        Config(
            model=Model("vit_medium_patch16_reg4_gap_256"),
            data=Data(image_size=128, batch_size=4),
            loss=Loss("bce", smoothing=0.1, bce_target_thresh=0.2),
            optim=Optim("adamw", lr=1e-2, lr_base_size=256, weight_decay=0.05, layer_decay=0.75, clip_mode="norm",
                        clip_grad=0.05),
            schedule=Schedule("cosine", warmup_epochs=1, warmup_prefix=True, warmup_lr=1e-5),
            ema=Ema(0.99, warmup=True),
        ),
        small="test_vit2", small_size=80, small_options={"depth": 3}, sized=True,
    ),
    # timm's NAdamW, changing the learning rate once an epoch.
    "nadamw": Recipe(
        Config(
            model=Model("vit_little_patch16_reg4_gap_256"),
            data=Data(image_size=128, batch_size=4),
            loss=Loss("ce", smoothing=0.1),
            optim=Optim("nadamw", lr=1e-3, weight_decay=0.05, clip_mode="norm", clip_grad=5.0),
            schedule=Schedule("cosine", on_updates=False, warmup_epochs=1, warmup_lr=1e-4),
        ),
        small="test_vit4", small_size=80, small_options={"depth": 3}, sized=True,
    ),
    # Several labels an image, of which some are unknown.
    "multilabel": Recipe(
        Config(
            model=Model("vit_little_patch16_reg4_gap_256"),
            data=Data(image_size=128, batch_size=4, multi_label=True),
            loss=Loss("bce", smoothing=0.1, pos_weight=(3.0,)),
            optim=Optim("adamw", lr=1e-3, weight_decay=0.05, clip_mode="norm", clip_grad=1.0),
            schedule=Schedule("cosine", warmup_epochs=1, warmup_lr=1e-4),
            checkpoint=Checkpoint(metric="map"),
        ),
        small="test_vit2", small_size=80, small_options={"depth": 2}, sized=True,
    ),
    # A teacher of another mean and deviation, by its softmax (timm `LogitDistillationTask`).
    "distill": Recipe(
        Config(
            model=Model("vit_little_patch16_reg4_gap_256"),
            data=Data(image_size=128, batch_size=4),
            distill=Distill(weight=0.7, task_weight=0.3, temperature=2.0),
            optim=Optim("adamw", lr=1e-3, weight_decay=0.05, clip_mode="norm", clip_grad=1.0),
            schedule=Schedule("cosine", warmup_epochs=1, warmup_lr=1e-4),
        ),
        small="test_vit2", small_size=80, small_options={"depth": 2}, sized=True, teacher="test_nfnet",
    ),
}  # fmt: skip


class Difference(NamedTuple):
    """How far ours is from timm's: relative to the largest value, and to the largest change since the start."""

    of_size: float
    of_way: float


class Comparison(NamedTuple):
    """One recipe on one model."""

    recipe: str
    model: str
    losses: list[tuple[float, float]]  # ours and timm's of every step
    params: dict[str, Difference]  # by parameter path, after the last step
    ema: dict[str, Difference]  # the same of the moving average; empty without one
    seconds: tuple[float, float]  # ours and timm's time for the steps, compilation included

    @property
    def ok(self) -> bool:
        """Whether every loss, parameter and average is within the tolerance, by both measures."""
        losses = [abs(ours - theirs) / abs(theirs) for ours, theirs in self.losses]
        found = [*losses, *(x for table in (self.params, self.ema) for d in table.values() for x in d)]
        return all(x <= TOLERANCE for x in found)  # False for NaN

    def lines(self) -> Iterator[str]:
        """The table: the loss every five steps, then the parameters that are furthest off."""
        yield f"{self.recipe}: {self.model}, ours {self.seconds[0]:.0f} s, timm {self.seconds[1]:.0f} s"
        for i, (ours, theirs) in enumerate(self.losses):
            if i % 5 == 0 or i == len(self.losses) - 1:
                yield f"  loss of step {i + 1:<3} {ours:20.15f}   timm {theirs:20.15f}   {abs(ours - theirs):.1e}"
        for what, table in (("parameters", self.params), ("moving averages", self.ema)):
            for i, measure in enumerate(("of its size", "of its way")):
                if table:
                    worst = max(table, key=lambda path: (not table[path][i] <= 1e300, table[path][i]))
                    yield f"  {len(table)} {what}, largest difference {table[worst][i]:.1e} {measure}: {worst}"
        yield f"  {'PASS' if self.ok else 'FAIL'} at {TOLERANCE:.0e}"


def compare(name: str, *, steps: int = 20, small: bool = False, seed: int = 0) -> Comparison:
    """Train with one recipe in both libraries; the schedule is stretched to so many steps."""
    recipe = RECIPES[name]
    config = dataclasses.replace(recipe.config, seed=seed, epochs=EPOCHS)
    options: dict[str, Any] = {}
    if small:
        options |= recipe.small_options
        config = dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, name=recipe.small),
            data=dataclasses.replace(config.data, image_size=recipe.small_size),
        )
    if recipe.sized:
        options["img_size"] = config.data.image_size
    theirs = oracle.shapes(config.model.name, **options)
    start = oracle.random_state(theirs, seed)
    rng = np.random.default_rng(seed)
    side, rows = config.data.image_size, config.data.batch_size
    assert side is not None  # every recipe says it
    shape, classes = (rows, side, side, theirs.in_chans), theirs.num_classes

    def labels() -> np.ndarray:
        if config.data.multi_label:
            return rng.choice(np.array([-1, 0, 1], np.int8), (rows, classes), p=(0.1, 0.7, 0.2))
        return rng.integers(0, classes, rows)

    batches = [{"image": rng.integers(0, 256, shape, np.uint8), "label": labels()} for _ in range(steps)]
    taught = (recipe.teacher, oracle.random_state(oracle.shapes(recipe.teacher), seed + 1)) if recipe.teacher else None
    per_epoch = max(1, steps // EPOCHS)
    del theirs

    clock = time.perf_counter()
    expected = _theirs(config, start, options, batches, per_epoch, taught)
    seconds = time.perf_counter() - clock
    clock = time.perf_counter()
    found = _ours(config, start, options, batches, per_epoch, taught)
    first = port.to_flax({key: value.astype(np.float64) for key, value in start.items()})

    def differences(which: str) -> dict[str, Difference]:
        ours, timms = found[which], port.to_flax(expected[which])
        return {path: _difference(ours[path], timms[path], first[path]) for path in timms}

    losses = list(zip(found["losses"], expected["losses"], strict=True))
    timing = (time.perf_counter() - clock, seconds)
    return Comparison(name, config.model.name, losses, differences("params"), differences("ema"), timing)


def _difference(ours: np.ndarray, theirs: np.ndarray, start: np.ndarray) -> Difference:
    """A parameter that did not move at all is infinitely far off: nothing would have been compared."""
    distance, way = np.max(np.abs(ours - theirs)), np.max(np.abs(theirs - start))
    return Difference(float(distance / np.max(np.abs(theirs))), float(distance / way) if way else float("inf"))


def _ours(
    config: Config, start: Mapping[str, np.ndarray], options: Any, batches: Any, per_epoch: int, teacher: Any
) -> Any:
    """Losses, parameters and averages by path, through the step that training compiles."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        model = nfjax.load(config.model.name, weights=start, dtype="float64", **options)
        images, labels = (np.concatenate([batch[key] for batch in batches[:per_epoch]]) for key in ("image", "label"))
        epoch = data.ArraySource(images, labels, tuple(map(str, range(model.num_classes))))
        dataset = data.load_dataset(config.data, model.data_config, images=(epoch, epoch))
        taught = None
        if teacher is not None:
            taught = nfjax.load(teacher[0], weights=teacher[1], dtype="float64", img_size=config.data.image_size)
        experiment = build(config, model=model, dataset=dataset, teacher=taught, devices=jax.devices()[:1])
        step, state = make_train_step(experiment), experiment.init()
        losses = []
        for batch in batches:
            state, metrics = step(state, put_batch(experiment.mesh, batch))
            losses.append(float(metrics["loss"]))
        return {"losses": losses, "params": jax.device_get(state.params), "ema": jax.device_get(state.ema)}


def _theirs(
    config: Config, start: Mapping[str, np.ndarray], options: Any, batches: Any, per_epoch: int, teacher: Any
) -> Any:
    """Losses, parameters and averages by timm name, as timm's training script gets them from the same config."""
    model = None if teacher is None else oracle.build(teacher[0], teacher[1], "float64")
    theirs = Theirs(config, start, options, per_epoch, teacher=model)
    return {"losses": theirs.train(batches), **theirs.state()}


def run(recipes: Sequence[str], *, steps: int, small: bool, seed: int) -> int:
    """Print the table; 0 if every recipe passes, 1 if one fails."""
    jax.config.update("jax_platforms", "cpu")  # float64, which TPUs do not have
    passed = []
    for name in recipes or RECIPES:
        print(f"{name}: {steps} steps in each library ...", file=sys.stderr, flush=True)
        result = compare(name, steps=steps, small=small, seed=seed)
        print("\n".join(result.lines()), flush=True)
        passed.append(result.ok)
    print(f"{passed.count(True)} of {len(passed)} recipes equal timm.")
    return 0 if all(passed) else 1

"""Loss curves of the recipes of the four models' cards: our training and timm's, from the same photographs.

Both sides follow the recipe of `train/configs`: its augmentation and mixing, its optimiser, clipping, decay, schedule
and moving average, its dropout and stochastic depth. Smaller are the images, the batch, the network (fewer blocks of
the same width) and the run, over which the schedule is stretched, warm-up and all; everything is computed in float32.
Ours is what `train.main` runs: our pipeline and the step that it compiles. timm's side is put together of timm's pieces
as its train.py does: `create_loader` with `FastCollateMixup` and random erasing, `create_optimizer_v2`,
`create_scheduler_v2`, `dispatch_clip_grad`, `ModelEmaV3`. Weights are drawn by each library, order and chance too, so
that the curves can be equal in distribution only: the yardstick is how far runs of one side with other seeds are apart.

The photographs are those of `--what data`: pieces of eight, of about 160 x 120 pixels, and which of the eight it is has
to be told.
"""

import argparse
import dataclasses
import importlib
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from PIL import ImageOps

from benchmarks import peer, report
from benchmarks.data import make_files
from nfjax.augment.ops import posterize
from train.config import Config

BATCH, EPOCHS, FILES = 16, 10, (160, 120)
LAST = 50  # steps at the end, whose mean loss is compared
SMOOTH = 25  # steps that a curve is a running mean over
OURS, TIMM = "nfjax", "timm"


class Small(NamedTuple):
    """What is left of a recipe's network."""

    size: int  # of the images, in pixels
    network: dict[str, Any]  # options of the model that make it smaller, in both libraries

    @property
    def sized(self) -> dict[str, Any]:
        """The options, for models that have to be told the size."""
        return self.network | {"img_size": self.size}


NARROW = {"channels": (64, 128), "stem_chs": 32, "num_features": 384, "group_size": 16}
RECIPES = {  # by config
    "eca_nfnet_l0": Small(64, {"depths": (1, 1)} | NARROW),
    "nfnet_l0": Small(64, {"depths": (1, 1)} | NARROW),
    "eca_nfnet_l2": Small(64, {"depths": (1, 2)} | NARROW),
    "vit_sbb_finetune": Small(64, {"depth": 4, "embed_dim": 192, "num_heads": 3}),
}
Runs = dict[str, list[list[tuple[float, float]]]]  # by side, for each seed: loss and learning rate of each step


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="cores; all by default")
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the JSON and the PNG")
    args = parser.parse_args(argv)
    peer.threads(args.threads)
    per_epoch = math.ceil(args.steps / EPOCHS)
    header = {"steps": args.steps, "batch": BATCH, "images": per_epoch * BATCH, "last": LAST}
    runs: dict[str, Runs] = {name: {OURS: [], TIMM: []} for name in args.recipes}
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), per_epoch * BATCH, FILES)
        for seed, name in itertools.product(range(args.seeds), args.recipes):
            for side, train in ((OURS, ours), (TIMM, timms)):
                start = time.process_time()
                steps = itertools.islice(train(reduced(name, folder, seed), RECIPES[name].sized), args.steps)
                runs[name][side].append(list(steps))
                spent = time.process_time() - start
                print(f"{name}, {side}, seed {seed}: {spent:.0f} s of processor time", flush=True)
            print(said(row(name, runs[name])), flush=True)
            rows = [row(name, done) for name, done in runs.items() if done[TIMM]]
            path = report.save("recipes", header, rows, args.out)  # each time: it takes long
            draw(rows, path.with_suffix(".png"))
    print(f"{path} and {path.with_suffix('.png').name}")
    return 0


def reduced(name: str, folder: str, seed: int) -> Config:
    """The recipe for small images of the folder, in float32 and from fresh weights; the warm-up's share stays."""
    config: Config = importlib.import_module(f"train.configs.{name}").get_config()
    schedule = dataclasses.replace(
        config.schedule, warmup_epochs=config.schedule.warmup_epochs * EPOCHS / config.epochs
    )
    model = dataclasses.replace(config.model, name=config.model.name.partition(".")[0], weights=None, dtype="float32")
    images = dataclasses.replace(
        config.data,
        name="folder",
        root=folder,
        val_split=None,
        image_size=RECIPES[name].size,
        batch_size=BATCH,
        workers=0,
    )
    return dataclasses.replace(config, seed=seed, epochs=EPOCHS, model=model, data=images, schedule=schedule)


def ours(config: Config, options: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """Loss and learning rate of each step of ours."""
    import jax

    import nfjax
    from train import data
    from train.experiment import build
    from train.machine.mesh import put_batch
    from train.step import compile_train_step

    dataset = data.for_config(config)
    options = options | {"drop_rate": config.model.drop_rate, "drop_path_rate": config.model.drop_path_rate}
    model = nfjax.load(config.model.name, weights=None, num_classes=dataset.num_classes, seed=config.seed, **options)
    experiment = build(config, model=model, dataset=dataset, devices=jax.devices()[:1])
    step, state = compile_train_step(experiment), experiment.init()
    for batch in data.train_batches(dataset.train, config.data, config.seed):
        state, metrics = step(state, put_batch(experiment.mesh, experiment.for_devices(batch)))
        yield float(metrics["loss"]), float(metrics["lr"])


def timms(config: Config, options: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """Loss and learning rate of each step of timm's."""
    import torch

    from nfjax.parity import oracle
    from train.verify.theirs import Theirs

    timm = oracle.timm()
    timm.utils.random_seed(config.seed, 0)
    images, augment, mix = config.data, config.augment, config.mix
    dataset = timm.data.create_dataset("", root=f"{images.root}/train", is_training=True)
    classes = len(dataset.reader.class_to_idx)
    rates = {"drop_rate": config.model.drop_rate, "drop_path_rate": config.model.drop_path_rate}
    if not config.model.name.startswith("vit"):  # timm's NFNets take images of any size
        options = {key: value for key, value in options.items() if key != "img_size"}
    theirs = Theirs(config, None, {"num_classes": classes} | rates | options, len(dataset) // images.batch_size)
    cfg = theirs.model.pretrained_cfg
    mixing = timm.data.FastCollateMixup(
        mixup_alpha=mix.mixup,
        cutmix_alpha=mix.cutmix,
        cutmix_minmax=mix.cutmix_minmax,
        prob=mix.mixup_prob,
        switch_prob=mix.mixup_switch_prob,
        mode=mix.mixup_mode,
        label_smoothing=config.loss.smoothing,
        num_classes=classes,
    )
    loader = timm.data.create_loader(
        dataset,
        input_size=(3, images.image_size, images.image_size),
        batch_size=images.batch_size,
        is_training=True,
        re_prob=mix.reprob,
        re_mode=mix.remode,
        re_count=mix.recount,
        scale=augment.scale,
        ratio=augment.ratio,
        hflip=augment.hflip,
        color_jitter=augment.color_jitter[0],
        auto_augment=augment.auto_augment,
        interpolation=augment.interpolation,
        mean=cfg["mean"],
        std=cfg["std"],
        num_workers=0,
        collate_fn=mixing,
        device=torch.device("cpu"),
    )
    with mock.patch.object(ImageOps, "posterize", posterize):  # to 0 bits, which Pillow 13 refuses
        while True:
            for x, y in loader:
                rate = theirs.rate
                yield theirs.learn(x, y), rate


def row(name: str, runs: Runs) -> dict[str, Any]:
    """What is kept of a recipe: all losses, and their means at the end."""
    losses = {side: [[loss for loss, _ in steps] for steps in own] for side, own in runs.items()}
    rates = {side: [rate for _, rate in own[0]] for side, own in runs.items()}
    ends = {side: [statistics.mean(one[-LAST:]) for one in own] for side, own in losses.items()}
    errors = {
        side: [statistics.stdev(one[-LAST:]) / len(one[-LAST:]) ** 0.5 for one in own] for side, own in losses.items()
    }
    apart = max(abs(a - b) for a, b in zip(rates[OURS], rates[TIMM], strict=True)) / max(rates[TIMM])
    return {
        "recipe": name,
        **RECIPES[name]._asdict(),
        "ends": ends,
        "errors": errors,
        "rates_apart": apart,
        "losses": losses,
    }


def said(row: dict[str, Any]) -> str:
    """A line: the mean loss at the end of each seed, with its standard error, and how far apart the means are."""
    told = {
        side: ", ".join(f"{end:.3f} +- {error:.3f}" for end, error in zip(ends, row["errors"][side], strict=True))
        for side, ends in row["ends"].items()
    }
    means = {side: statistics.mean(ends) for side, ends in row["ends"].items()}
    return (
        f"{row['recipe']}: mean loss of the last {LAST} steps {told[OURS]}; timm {told[TIMM]}; difference "
        f"{means[OURS] - means[TIMM]:+.3f}; learning rates within {row['rates_apart']:.1e}"
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for each recipe: running means of the losses of every run, ours and timm's."""
    from nfjax.support.pictures import make_figure, open_frame, save_figure

    columns = min(2, len(rows))
    figure = make_figure(6.2 * columns, 3.6 * math.ceil(len(rows) / columns) + 0.7)
    axes = figure.subplots(math.ceil(len(rows) / columns), columns, squeeze=False).ravel()
    for axis, row in zip(axes, rows, strict=False):
        for side, color in ((OURS, "C0"), (TIMM, "C1")):
            for seed, losses in enumerate(row["losses"][side]):
                width = min(SMOOTH, len(losses))
                smooth = np.convolve(losses, np.ones(width) / width, "valid")
                style = ("-", "--", ":")[seed % 3]
                places = np.arange(len(smooth)) + (width + 1) / 2
                axis.plot(places, smooth, style, color=color, label=f"{side}, seed {seed}", lw=1.5)
        blocks = row["network"].get("depth") or sum(row["network"]["depths"])
        axis.set_title(f"{row['recipe']}: {blocks} blocks, {row['size']} pixels", fontsize=11)
        axis.set_xlabel("step")
        axis.set_ylabel(f"training loss (nats), mean of {SMOOTH} steps")
        axis.grid(alpha=0.3)
        open_frame(axis)
    for axis in axes[len(rows) :]:
        axis.set_axis_off()
    figure.suptitle(f"The cards' recipes, reduced, batch {BATCH}: nfjax and timm", fontsize=13)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    save_figure(figure, path)

"""A run that is killed again and again, and whose newest checkpoint is damaged meanwhile, ends with the same bits.

    python tests/train/test_kill.py [--kind plain|taught] [--kills 25] [--epochs 12] [--seed 0] [--folder DIR]

The network trains with dropout, stochastic depth, shifted images and a moving average, and saves every third step.
"taught" has several labels an image, weights by which images are drawn, a teacher, adapters and an early end too. It is
killed (SIGKILL) at random moments, and at random moments within a save; afterwards, sometimes, the newest
checkpoint is cut short or loses a bit, unless it is the only one. The same command starts it again.
"""

import argparse
import collections
import dataclasses
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import nfjax
from tests.helpers.checkpoints import damage, files_of
from train.checkpoints.files import load_arrays

ROOT = Path(__file__).parents[2]
SAVE_STEPS = 3
EPOCH = 12  # steps
PLAIN = """
from train.config import Augment, Checkpoint, Config, Data, Ema, Log, Mix, Model, Optim, Schedule


def get_config() -> Config:
    return Config(
        epochs={epochs},
        model=Model(drop_rate=0.2, drop_path_rate=0.2),
        data=Data(batch_size=120, image_size=16, shift=1),
        augment=Augment(train_crop_mode="rkrr", auto_augment="rand-m9-mstd0.5-inc1", gaussian_blur_prob=0.3),
        mix=Mix(mixup=0.2, cutmix=1.0, reprob=0.25),
        optim=Optim(lr=0.05, clip_mode="agc", clip_grad=0.02, lookahead=0.5, lookahead_steps=4),
        schedule=Schedule(warmup_epochs=1),
        ema=Ema(decay=0.9, warmup=True),
        checkpoint=Checkpoint(every_epochs=0.25),
        log=Log(every_steps=1, tensorboard=False),
    )
"""
# An improvement by 9 is none, so that it ends when patience does.
TAUGHT = """
from train.config import Augment, Checkpoint, Config, Data, Distill, EarlyStop, Ema, Log, Lora, Loss, Mix, Model, Optim


def get_config() -> Config:
    return Config(
        epochs={epochs} + 5,
        model=Model("test_vit2", drop_rate=0.2, drop_path_rate=0.2),
        data=Data(
            "manifest", "{folder}/images.csv", multi_label=True, weight_key="often", batch_size=16, image_size=16
        ),
        augment=Augment(train_crop_mode="rkrr", auto_augment="rand-m9-mstd0.5-inc1", gaussian_blur_prob=0.3),
        mix=Mix(mixup=0.2, cutmix=1.0, reprob=0.25),
        loss=Loss("bce", pos_weight=(2.0,), smoothing=0.1),
        distill=Distill("{folder}/teacher", "features", weight=0.5),
        lora=Lora(4),
        optim=Optim("adamw", lr=0.01, clip_mode="agc", clip_grad=0.02, lookahead=0.5, lookahead_steps=4),
        ema=Ema(decay=0.9, warmup=True),
        checkpoint=Checkpoint(every_epochs=0.25, metric="map"),
        early_stop=EarlyStop(patience={epochs} - 1, metric="map", min_delta=9.0),
        log=Log(every_steps=1, tensorboard=False),
    )
"""


def make_taught(folder):
    """Images with several labels, unknown ones and weights in a table; and a teacher."""
    rng, classes = np.random.default_rng(0), ("ant", "bee", "cat")
    (folder / "images").mkdir()
    rows = [f"path,{','.join(classes)},often,split"]
    for number in range(EPOCH * 16 + 16):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / "images" / f"{number:03}.png")
        labels, split = rng.choice(["-1", "0", "1"], 3), "train" if number < EPOCH * 16 else "val"
        rows.append(f"images/{number:03}.png,{','.join(labels)},{rng.integers(1, 5)},{split}")
    (folder / "images.csv").write_text("\n".join(rows) + "\n")
    teacher = nfjax.load("test_vit3", weights=None, num_classes=3, img_size=16)
    teacher.data_config = dataclasses.replace(teacher.data_config, label_names=classes)
    nfjax.save(teacher, folder / "teacher")


class Kind(NamedTuple):
    """What is trained."""

    config: str
    prepare: Callable[[Path], None]
    leaf: str  # of the parameters in a checkpoint


KINDS = {
    "plain": Kind(PLAIN, lambda folder: None, "stem/conv1/kernel"),
    "taught": Kind(TAUGHT, make_taught, "blocks/1/attn/qkv/lora_a"),
}


class Run:
    """The training command on one work folder, and what is in that folder."""

    def __init__(self, folder, name, epochs, kind):
        self.workdir, self.checkpoints = folder / name, folder / name / "checkpoints"
        self.output = folder / f"{name}.txt"
        config = folder / "config.py"
        config.write_text(kind.config.format(epochs=epochs, folder=folder))
        self.command = [sys.executable, "-m", "train.main", f"--config={config}", f"--workdir={self.workdir}"]
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),  # filled by the run that nobody kills
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def start(self):
        self.started = time.time()
        with self.output.open("a") as output:
            return subprocess.Popen(self.command, env=self.environment, stdout=output, stderr=output, cwd=ROOT)

    def steps(self):
        found = os.listdir(self.checkpoints) if self.checkpoints.is_dir() else []
        return sorted(int(entry) for entry in found if entry.isdecimal())

    def newest(self):
        return max(self.steps(), default=0)

    def saving(self):
        """Whether the process is writing or removing a checkpoint; what an earlier one left does not count."""
        try:
            entries = [entry for entry in self.checkpoints.iterdir() if "." in entry.name]
            return any(entry.stat().st_mtime > self.started for entry in entries)
        except FileNotFoundError:
            return False

    def last_state(self):
        return load_arrays(self.workdir, self.steps()[-1])


def wait(process, condition=lambda: False, seconds=1800.0):
    """Until the condition holds, the time is over, or the process has ended."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline and not condition():
        time.sleep(0.001)


def survive(folder, *, kills, epochs, seed, kind="plain", say=print):
    """Train without interruption and with `kills` of them; raises AssertionError unless both end with the same bits.

    Returns:
        How often what was done to the second run.
    """
    trained = KINDS[kind]
    trained.prepare(folder)
    whole, killed = Run(folder, "whole", epochs, trained), Run(folder, "killed", epochs, trained)
    rng, count, damaged = random.Random(seed), collections.Counter(), []
    started, process = time.monotonic(), whole.start()
    wait(process, whole.newest)
    life = 1.5 * (time.monotonic() - started)  # as long as the start takes, and some steps
    wait(process)
    assert process.wait(timeout=1) == 0, whole.output.read_text()

    process = killed.start()
    while count["kills"] < kills:
        goal = killed.newest() + rng.choice([SAVE_STEPS, 2 * SAVE_STEPS])  # so that the run lasts
        if rng.random() < 0.5:
            wait(process, lambda goal=goal: killed.newest() >= goal)
            wait(process, killed.saving)
            wait(process, seconds=rng.uniform(0, 0.05))
        else:
            wait(process, lambda goal=goal: killed.newest() >= goal, seconds=rng.uniform(0, life))
            wait(process, seconds=rng.uniform(0, 0.2))
        assert process.poll() is None, f"ended after {dict(count)}: more epochs are needed\n{killed.output.read_text()}"
        within = killed.saving()
        process.kill()
        process.wait()
        count["kills"] += 1
        count["kills within a save"] += within
        steps = killed.steps()
        say(f"kill {count['kills']}{' within a save' * within}: checkpoints {steps}", flush=True)
        if rng.random() < 0.7 and len(steps) > 1:
            file = rng.choice(files_of(killed.checkpoints / str(steps[-1])))
            how = rng.choice(["flip", "cut"])
            if damage(file, how, rng):
                say(f"  {how}: {file.relative_to(killed.checkpoints)}", flush=True)
                count[f"damaged: {how}"] += 1
                place = killed.checkpoints / str(steps[-1])
                damaged += [place.stat().st_ino] if place.stat().st_ino not in damaged else []
        process = killed.start()
    wait(process)
    assert process.wait(timeout=1) == 0, killed.output.read_text()

    aside = killed.workdir / "checkpoints_damaged"
    assert (
        sorted(damaged) == sorted(place.stat().st_ino for place in aside.iterdir()) if damaged else not aside.exists()
    )
    assert killed.output.read_text().count(" is damaged: ") == len(damaged)
    for place in ("final", "best"):
        for name in ("model.safetensors", "config.json"):
            first, second = (run.workdir / place / name for run in (whole, killed))
            assert first.read_bytes() == second.read_bytes(), f"{place}/{name}"
    assert killed.steps()[-1] == whole.steps()[-1] == EPOCH * epochs
    first, second = whole.last_state(), killed.last_state()
    assert first.keys() == second.keys()
    assert {"step", "key", f"params/{trained.leaf}", f"ema/{trained.leaf}"} < first.keys()
    assert [name for name in first if first[name].tobytes() != second[name].tobytes()] == []
    assert (killed.workdir / "metrics.jsonl").read_text() == (whole.workdir / "metrics.jsonl").read_text()
    return dict(count) | {"put aside": len(damaged)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_25_times(kind, tmp_path):
    done = survive(tmp_path, kills=25, epochs=12, seed=0, kind=kind)
    assert done["kills"] == 25
    assert done["kills within a save"] >= 3
    assert done["put aside"] >= 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="plain")
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="an empty one; by default a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = survive(
            args.folder or Path(folder), kills=args.kills, epochs=args.epochs, seed=args.seed, kind=args.kind
        )
    print("the same bits, after", ", ".join(f"{what}: {number}" for what, number in done.items()))


if __name__ == "__main__":
    main()

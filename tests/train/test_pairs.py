"""Pieces of two photographs side by side, with the labels of both; and what a smaller model learns from that one."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import nfjax
from tests.helpers.photos import ALIKE, make_pairs
from train.config import Augment, Checkpoint, Config, Data, Distill, Ema, Log, Loss, Model, Optim, Schedule
from train.loop import run

SEEDS = (0, 1, 2)


def config(root: Path, model: str, **changes) -> Config:
    return dataclasses.replace(
        Config(
            epochs=12,
            eval_epochs=4,
            model=Model(model),
            data=Data("folder", root=str(root), multi_label=True, batch_size=32, image_size=64, cache=True),
            augment=Augment(scale=(0.8, 1.0), color_jitter=(0.2,)),
            loss=Loss("bce"),
            optim=Optim("adamw", lr=3e-3, weight_decay=0.05, clip_mode="agc", clip_grad=0.015),
            schedule=Schedule(warmup_epochs=1),
            ema=Ema(decay=0.99, warmup=True),
            checkpoint=Checkpoint(every_epochs=4, metric="map"),
            log=Log(tensorboard=False),
        ),
        **changes,
    )


@pytest.mark.slow  # two minutes of a processor, and as long again for the six students
@pytest.mark.usefixtures("optimised")
def test_pairs_are_told_apart_and_a_student_learns_from_that(tmp_path):
    root = make_pairs(tmp_path / "pairs", train=2000, val=200)
    teacher = run(config(root, "test_vit2"), tmp_path / "teacher")
    print(teacher)
    assert teacher.scores["map"] >= 0.95
    assert nfjax.load(tmp_path / "teacher").data_config.label_names == ALIKE
    found = {kind: students(tmp_path, root, distill) for kind, distill in kinds(tmp_path / "teacher").items()}
    for kind, scores in found.items():
        print(f"{kind}: map {np.mean(scores):.4f} +- {np.std(scores):.4f}, {scores}")
    assert np.mean(found["taught"]) > np.mean(found["alone"])


def kinds(teacher: Path) -> dict[str, Distill]:
    return {"alone": Distill(), "taught": Distill(str(teacher), "bce", weight=1.0, task_weight=0.0)}


def students(folder: Path, root: Path, distill: Distill) -> list[float]:
    """Mean average precision of test_nfnet after 112 steps on a tenth of the images, for each seed.

    A piece of an image may lack what its labels say: there a teacher knows more than they do (2106.05237).
    """
    scores = []
    for seed in SEEDS:
        asked = config(root, "test_nfnet", epochs=16, seed=seed, distill=distill)
        asked.data.train_split, asked.data.val_split = "train[:200]", "val"
        asked.augment.scale = (0.25, 1.0)
        work = folder / f"student-{seed}-{distill.teacher is not None}"
        scores.append(run(asked, work).scores["map"])
    return scores

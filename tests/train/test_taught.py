"""Several labels an image, a teacher and adapters in one run: what it keeps, and that it goes on to the same bits."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import nfjax
from nfjax.params import named_params
from train import config as c
from train import data
from train.checkpoints.averages import run_weights
from train.checkpoints.base import load_base
from train.checkpoints.files import load_arrays, steps
from train.distill.teacher import PROJECTION
from train.experiment import build
from train.loop import run
from train.optim.lora import ADAPTER
from train.report.metrics import read_metrics

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def taught(tmp_path, monkeypatch):
    """A config with all of it on, and a folder with the teacher."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 16, 16, 3), np.uint8)
    source = data.ArraySource(images, rng.choice([-1, 0, 1], (24, 3)), CLASSES)
    monkeypatch.setitem(data.SOURCES, "noise", lambda *_: {"train": source, "test": source})
    teacher = nfjax.load("test_vit3", weights=None, num_classes=3, img_size=16)
    teacher.data_config = dataclasses.replace(teacher.data_config, label_names=CLASSES[::-1])
    nfjax.save(teacher, tmp_path / "teacher")
    return c.Config(
        epochs=1,
        model=c.Model("test_vit2", drop_path_rate=0.1),
        data=c.Data("noise", batch_size=8, image_size=16, multi_label=True),
        augment=c.Augment(no_aug=True),
        mix=c.Mix(mixup=0.5),
        loss=c.Loss("bce", pos_weight=(2.0,), smoothing=0.1),
        distill=c.Distill(str(tmp_path / "teacher"), "features", weight=2.0, task_weight=0.5),
        lora=c.Lora(4, targets=(r".*attn/(qkv|proj)/kernel",)),
        optim=c.Optim("adamw", lr=0.01, clip_mode="norm", clip_grad=1.0),
        ema=c.Ema(decay=0.5),
        checkpoint=c.Checkpoint(every_epochs=0.34, keep_last=3, metric="map"),
        log=c.Log(every_steps=1, tensorboard=False),
    )


def test_a_run_with_all_of_it(taught, tmp_path):
    workdir = tmp_path / "run"
    result = run(taught, workdir)
    assert steps(workdir) == [1, 2, 3]
    lines = read_metrics(workdir)
    assert lines[0]["loss"] == pytest.approx(0.5 * lines[0]["task_loss"] + 2 * lines[0]["distill_loss"], rel=1e-6)
    assert {"test_map", "test_f1", "test_macro_f1", "test_loss"} <= lines[-1].keys()
    assert str(result).startswith(f"map={result.scores['map']:.4f} f1=")
    kept = load_arrays(workdir, 3)
    own = {name.removeprefix("params/") for name in kept if name.startswith("params/")}
    plain = {"head/kernel", "head/bias", f"{PROJECTION}kernel", f"{PROJECTION}bias"}
    assert {path for path in own if not ADAPTER.fullmatch(path)} == plain
    assert {name.removeprefix("ema/") for name in kept if name.startswith("ema/")} == own
    assert not [name for name in kept if name.startswith(("base/", "teacher/"))]
    final, best = nfjax.load(workdir / "final"), nfjax.load(workdir / "best")
    assert best.data_config.label_names == final.data_config.label_names == CLASSES
    assert json.loads((workdir / "final" / "config.json").read_text())["problem_type"] == "multi_label_classification"
    base = load_base(workdir)
    found = {path: np.asarray(var.get_value()) for path, var in named_params(final).items()}
    moved = {path for path in found if not np.array_equal(found[path], base[path])}
    assert {path.split("/")[-2] for path in moved} == {"qkv", "proj", "head"}
    merged, state = run_weights(workdir), nfjax.state_dict(final)  # of the newest checkpoint, and of `final`
    assert max(np.abs(state[name] - merged[name]).max() for name in state) < 1e-6

    before = (workdir / "final" / "model.safetensors").read_bytes(), (workdir / "metrics.jsonl").read_text()
    for name in ("final", "best", "checkpoints/2", "checkpoints/3"):
        shutil.rmtree(workdir / name)
    assert run(taught, workdir).scores == result.scores
    assert ((workdir / "final" / "model.safetensors").read_bytes(), (workdir / "metrics.jsonl").read_text()) == before
    again = load_arrays(workdir, 3)
    assert [name for name in kept if kept[name].tobytes() != again[name].tobytes()] == []

    (workdir / "base" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"base/model\.safetensors: no such file; the adapters of the run"):
        run_weights(workdir)
    other = nfjax.load("test_vit3", weights=None, num_classes=3, img_size=16, seed=9)
    nfjax.save(other, tmp_path / "teacher")
    with pytest.raises(ValueError, match="the run was trained on"):
        run(taught, workdir)


def test_answers_are_kept(taught, tmp_path):
    """They are what the teacher says of the images as they are, and nothing random may be done to those."""
    changed = dataclasses.replace(taught, distill=dataclasses.replace(taught.distill, cache=True))
    with pytest.raises(ValueError, match=r"distill\.cache=true is for images .* here is mix\.mixup"):
        build(changed)
    experiment = build(dataclasses.replace(changed, mix=c.Mix()))
    assert not [path for path in experiment.base if path.startswith("teacher/")]
    said = []
    batch = {"image": experiment.dataset.train.source._images[4:6], "label": np.zeros((2, 3), np.int8), "index": [4, 5]}
    found = experiment.for_devices(batch, experiment.answers(tmp_path, said.append))["teacher"]
    assert "asking the teacher about 24 images, once" in said[0]
    teacher = experiment.teacher
    expected = teacher(teacher.params, experiment.transform.normalize(jnp.asarray(batch["image"])))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    again = experiment.answers(tmp_path, said.append)[batch["index"]]
    assert len(said) == 1
    assert np.array_equal(found, again)

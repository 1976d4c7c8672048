"""A run from config to final model: interrupted, continued, on several devices, and what the user is told."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import nfjax
from train import data as pipeline
from train.checkpoint import Checkpoints, claim
from train.config import Config, Data, Model, Optim
from train.loop import run


def tiny(**changes):
    config = Config(
        epochs=2,
        eval_epochs=1,
        checkpoint_epochs=1,
        log_steps=5,
        model=Model(drop_rate=0.2, drop_path_rate=0.2),
        data=Data(batch_size=120, image_size=16, shift=1),
        optim=Optim(lr=0.05, agc=0.015),
    )
    return dataclasses.replace(config, **changes)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return run(tiny(), workdir), workdir


def test_a_run_leaves_what_it_promises(whole):
    result, workdir = whole
    assert result.steps == 24
    assert str(result) == f"top1={result.top1:.4f} top5={result.top5:.4f} steps=24 workdir={workdir}"
    assert sorted(p.name for p in workdir.iterdir()) == ["checkpoints", "config.json", "final", "metrics.jsonl"]
    logged = lines(workdir)
    assert [line["step"] for line in logged] == [5, 10, 12, 15, 20, 24, 24]
    assert {"loss", "top1", "grad_norm", "clip_rate", "lr"} < set(logged[0])
    assert logged[-1]["test_top1"] == result.top1
    model = nfjax.load(f"local-dir:{workdir / 'final'}")
    assert (model.num_classes, model.in_chans, model.data_config.mean) == (10, 1, (0.5,))
    assert model.data_config.input_size == (1, 16, 16)


def test_timm_reads_the_final_model(whole):
    from nfjax.parity import oracle

    theirs = oracle.timm().create_model(f"local-dir:{whole[1] / 'final'}", pretrained=True)
    ours = nfjax.state_dict(nfjax.load(f"local-dir:{whole[1] / 'final'}"))
    assert all(tensor.numpy().tobytes() == ours[key].tobytes() for key, tensor in theirs.state_dict().items())
    assert theirs.pretrained_cfg["input_size"] == [1, 16, 16]


def test_a_continued_run_is_the_same_to_the_bit(whole, tmp_path, monkeypatch):
    """Killed after the first checkpoint and started again, with dropout, shuffling and augmentation on."""

    class Killed(Exception):
        pass

    save, seen = Checkpoints.save, []

    def save_then_die(self, state):
        save(self, state)
        seen.append(int(state.step))
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_then_die)
        with pytest.raises(Killed):
            run(tiny(), tmp_path)
    assert seen == [12]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "loss": 0}\n')  # written by the killed run, after its last checkpoint
    again = run(tiny(), tmp_path)
    first, second = (nfjax.state_dict(nfjax.load(f"local-dir:{d / 'final'}")) for d in (whole[1], tmp_path))
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)
    assert lines(tmp_path) == lines(whole[1])
    assert (again.top1, again.top5) == (whole[0].top1, whole[0].top5)


def test_a_finished_run_is_not_trained_again(whole):
    before = lines(whole[1])
    assert run(tiny(), whole[1]) == whole[0]
    assert lines(whole[1])[: len(before) - 1] == before[:-1]


def test_another_config_is_refused(whole):
    with pytest.raises(ValueError, match=r"optim\.lr: 0\.05 there, 0\.5 here"):
        run(tiny(optim=Optim(lr=0.5, agc=0.015)), whole[1])


def test_claim_writes_once(tmp_path):
    claim(tmp_path / "new", {"a": {"b": 1}})
    claim(tmp_path / "new", {"a": {"b": 1}})
    with pytest.raises(ValueError, match=r"a\.b: 1 there, 2 here"):
        claim(tmp_path / "new", {"a": {"b": 2}})


def test_eight_devices_do_what_one_does(tmp_path):
    """The same two steps on a mesh of eight virtual devices, in float64: the same parameters."""
    code = """
import sys, jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import numpy as np
from nfjax.params import split
import nfjax
from train.config import Optim
from train.optim import optimizer, schedule
from train.step import Normalize, batch_sharding, data_mesh, init_state, make_train_step
mesh = data_mesh()
graphdef, params = split(nfjax.load("test_nfnet", None, in_chans=1, num_classes=10, dtype="float64", drop_rate=0.3))
optim = Optim(agc=0.015)
tx = optimizer(optim, schedule(optim, 4, 2))
step = make_train_step(graphdef, tx, Normalize((0.5,), (0.5,)), mesh, seed=0)
state = init_state(params, tx, mesh)
rng = np.random.default_rng(0)
for _ in range(2):
    batch = {"image": rng.integers(0, 256, (16, 16, 16, 1), np.uint8), "label": rng.integers(0, 10, 16)}
    state, metrics = step(state, jax.device_put(batch, batch_sharding(mesh)))
np.savez(sys.argv[2], **state.params, loss=metrics["loss"], devices=jax.device_count())
"""
    results = []
    for devices in ("1", "8"):
        file = tmp_path / f"{devices}.npz"
        subprocess.run([sys.executable, "-c", code, devices, str(file)], check=True, env=os.environ | {"XLA_FLAGS": ""})
        results.append(np.load(file))
    one, eight = results
    assert (one["devices"], eight["devices"]) == (1, 8)
    for key in set(one.files) - {"devices"}:
        scale = np.abs(one[key]).max()
        assert np.abs(one[key] - eight[key]).max() <= 1e-10 * scale, key


def test_batches_depend_on_seed_and_step_alone():
    split = pipeline.digits(8).train
    data = Data(batch_size=64, shift=2)
    whole = pipeline.train_batches(split, data, seed=1, start_step=0)
    batches = [next(whole) for _ in range(30)]  # into the second epoch
    later = pipeline.train_batches(split, data, seed=1, start_step=27)
    for expected in batches[27:]:
        batch = next(later)
        assert all(np.array_equal(batch[key], expected[key]) for key in expected)
    other = next(pipeline.train_batches(split, data, seed=2, start_step=0))
    assert not np.array_equal(other["label"], batches[0]["label"])
    first_epoch = np.concatenate([b["label"] for b in batches])[: len(split)]
    assert np.array_equal(np.bincount(first_epoch), np.bincount(split.labels))  # every image once


def test_digits_are_split_once_and_for_all():
    data = pipeline.digits(8)
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.test.images.dtype == np.uint8
    assert data.test.labels[:8].tolist() == [0, 8, 8, 9, 8, 3, 7, 5]
    images = np.concatenate([data.train.images, data.test.images])
    assert images.shape == (1797, 8, 8, 1)


def test_test_batches_cover_every_image_once():
    split = pipeline.digits(8).test
    batches = list(pipeline.test_batches(split, 100))
    assert [int(b["valid"].sum()) for b in batches] == [100, 100, 100, 60]
    labels = np.concatenate([b["label"][b["valid"]] for b in batches])
    np.testing.assert_array_equal(labels, split.labels)


def command(*arguments, cwd=None):
    return subprocess.run([sys.executable, "-m", "train.main", *arguments], capture_output=True, text=True, cwd=cwd)


def test_misspelt_field():
    result = command("--config=train/configs/digits.py", "--config.optim.lrr=1")
    assert result.returncode
    assert "lrr" in result.stderr


def test_missing_config_file():
    result = command("--config=train/configs/letters.py")
    assert result.returncode
    assert "train/configs/letters.py: there is no such file" in result.stderr + result.stdout


def test_unknown_data_set(tmp_path):
    with pytest.raises(ValueError, match=r"data\.name='letters' is not known; choose one of digits"):
        run(tiny(data=Data(name="letters")), tmp_path)

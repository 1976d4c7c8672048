"""A run from config to final model: interrupted, continued, gone wrong, and what the user is told."""

import contextlib
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import nfjax
from port.stores import readable
from tests.helpers.photos import make_folder
from tests.helpers.shallow import shallow
from train import config as c
from train import data
from train.checkpoints.averages import run_weights
from train.checkpoints.manager import Checkpoints
from train.cli.options import Profile
from train.experiment import build
from train.loop import Stopped, run
from train.machine.mesh import put_batch
from train.report.metrics import Metrics
from train.report.non_finite import NonFiniteError
from train.step import compile_train_step, make_eval_step, make_train_step


def tiny(**changes):
    """Two epochs of what is traced and compiled soonest; whole NFNets are trained by the README's line and its docs."""
    config = c.Config(
        epochs=2,
        model=c.Model("test_vit2", drop_rate=0.2, drop_path_rate=0.2),
        data=c.Data(batch_size=120, image_size=16, shift=1),
        augment=c.Augment(no_aug=True),
        optim=c.Optim(lr=0.05, clip_grad=0.015),
        schedule=c.Schedule("plateau", patience_epochs=0),  # it learns of evaluations
        ema=c.Ema(decay=0.9),
        log=c.Log(every_steps=5),
    )
    return dataclasses.replace(config, **changes)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def weights(workdir):
    return nfjax.state_dict(nfjax.load(f"local-dir:{workdir / 'final'}"))


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """One experiment, compiled once, for all runs of a config here. Runs in other processes: test_kill.py."""
    experiments, steps = {}, {}

    def build_once(config):
        if (key := repr(config)) not in experiments:
            experiments[key] = build(config)
        return experiments[key]

    def compile_once(experiment):
        if (key := repr(experiment.config)) not in steps:  # the loop makes another experiment of the same config
            steps[key] = compile_train_step(experiment)
        return steps[key]

    small = {"test_vit2": {"depth": 1}, "test_nfnet": {"depths": (2,), "channels": (32,)}}
    with pytest.MonkeyPatch.context() as patch, shallow(small):
        patch.setattr("train.loop.build", build_once)
        patch.setattr("train.loop.compile_train_step", compile_once)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return run(tiny(), workdir), workdir


def test_a_run_leaves_what_it_promises(whole):
    result, workdir = whole
    assert result.steps == 24
    assert str(result) == f"top1={result.top1:.4f} top5={result.top5:.4f} steps=24 workdir={workdir}"
    assert {p.name for p in workdir.iterdir() if not p.name.startswith(".")} == {
        "best", "checkpoints", "config.json", "curves.png", "environment.json", "final", "log.txt", "metrics.jsonl",
        "tensorboard",
    }  # fmt: skip
    logged = lines(workdir)
    assert [line["step"] for line in logged] == [5, 10, 12, 15, 20, 24, 24]
    assert {"loss", "top1", "grad_norm", "clip_rate", "lr"} < set(logged[0])
    assert logged[-1]["test_top1"] == result.top1
    model = nfjax.load(f"local-dir:{workdir / 'final'}")
    assert (model.num_classes, model.in_chans, model.data_config.mean) == (10, 1, (0.5,))
    assert model.data_config.input_size == (1, 16, 16)


def test_a_picture_that_cannot_be_written_ends_no_run(whole, tmp_path, monkeypatch):
    def full(workdir):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("train.report.curves.plot", full)
    result = run(tiny(), tmp_path)
    assert (result.top1, result.steps) == (whole[0].top1, 24)
    log = (tmp_path / "log.txt").read_text()
    assert log.count(f"{tmp_path / 'curves.png'} is not written: No space left on device. The run goes on") == 1


def test_the_last_and_the_best_model(whole, tmp_path, monkeypatch):
    """Of a run whose second evaluation is worse; the first is of a checkpoint that is there still."""
    evaluated = iter([0.5, 0.25])
    monkeypatch.setattr(
        "train.loop.make_eval_step",
        lambda experiment: lambda params, batch: {
            "top1": next(evaluated), "top5": 1.0, "loss": 1.0, "count": 1.0,
        },
    )  # fmt: skip
    monkeypatch.setattr(data, "test_batches", lambda test, options, size: iter([{}]))
    run(tiny(), tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert "step 12/24 epoch 1.00 evaluation of the moving average: top1 50.00 %" in log
    assert (
        f"saved {tmp_path / 'final'}, after step 24; {tmp_path / 'best'}, after step 12, the best by test top1" in log
    )
    assert f"curves: {tmp_path / 'curves.png'}" in log
    best = nfjax.state_dict(nfjax.load(tmp_path / "best"))
    there = run_weights(tmp_path, 12)
    assert all(best[key].tobytes() == there[key].tobytes() for key in best)
    assert any(best[key].tobytes() != value.tobytes() for key, value in weights(tmp_path).items())


def scored(monkeypatch, *scores):
    """Evaluations find these, one each; the next one dies."""
    found = iter(scores)

    def score(params, batch):
        if (top1 := next(found, None)) is None:
            raise Killed
        return {"top1": top1, "top5": 1.0, "loss": 1.0, "count": 1.0}

    monkeypatch.setattr("train.loop.make_eval_step", lambda experiment: score)
    monkeypatch.setattr(data, "test_batches", lambda *_: iter([{}]))


def test_a_run_that_ends_early(tmp_path, monkeypatch):
    """Two evaluations without an improvement end it; one that was killed between them ends at the same step."""
    config = tiny(epochs=9, eval_epochs=0.25, early_stop=c.EarlyStop(patience=2, min_delta=0.1))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    scored(monkeypatch, 0.5, 0.59, 0.3)
    assert (run(config, whole).steps, run(config, whole).steps) == (9, 9)  # the second time nothing is left to do
    said = (whole / "log.txt").read_text()
    assert "stops early, after step 9: test top1 has not improved by more than 0.1 in 2 evaluations; the best" in said
    assert f"{whole / 'best'}, after step 6, the best by test top1" in said
    assert f"{whole} is finished at step 9 of 9" in said
    scored(monkeypatch, 0.5, 0.59)
    with pytest.raises(Killed):
        run(config, killed)
    scored(monkeypatch, 0.3)
    assert run(config, killed).steps == 9
    assert (killed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    first, second = weights(whole), weights(killed)
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)


def test_a_run_that_branches(tmp_path):
    """Half a run and a branch from there are the whole run, to the bit; with another schedule it is another one."""
    constant, half, again = c.Schedule("constant"), tmp_path / "half", tmp_path / "again"

    def branch(place, **changes):
        return tiny(model=dataclasses.replace(tiny().model, resume_run=str(place)), schedule=constant, **changes)

    run(tiny(schedule=constant, epochs=1), half)
    run(tiny(schedule=constant), tmp_path / "whole")
    assert run(branch(half / "checkpoints" / "12"), again).steps == 24
    assert json.loads((again / "branched.json").read_text())["step"] == 12
    assert [line["step"] for line in lines(again)] == [12, 15, 20, 24, 24]  # it begins with an evaluation
    first, second = weights(tmp_path / "whole"), weights(again)
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)
    assert f"branches from {half / 'checkpoints' / '12'} after step 12" in (again / "log.txt").read_text()
    assert run(branch(half / "checkpoints" / "12"), again).steps == 24  # its own checkpoints count
    with pytest.raises(ValueError, match=r"has done 12 steps, and epochs=1 are only 12; give more epochs"):
        run(branch(half, epochs=1), tmp_path / "done")
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint of step 7, but of 12"):
        run(branch(half / "checkpoints" / "7"), tmp_path / "none")
    with pytest.raises(ValueError, match=r"is intact, but of another model or optimiser"):
        run(branch(half, ema=c.Ema()), tmp_path / "other")
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoints"):
        run(branch(tmp_path), tmp_path / "nowhere")


def test_timm_reads_the_final_model(whole):
    from nfjax.parity import oracle

    theirs = oracle.timm().create_model(f"local-dir:{whole[1] / 'final'}", pretrained=True, depth=1)
    ours = weights(whole[1])
    assert all(tensor.numpy().tobytes() == ours[key].tobytes() for key, tensor in theirs.state_dict().items())
    assert list(theirs.pretrained_cfg["input_size"]) == [1, 16, 16]


class Killed(Exception):
    pass


@pytest.fixture
def killed_after_save(monkeypatch):
    """Dies right after the first checkpoint, once."""
    save, seen = Checkpoints.save, []

    def save_then_die(self, state, *args):
        save(self, state, *args)
        seen.append(int(state.step))
        if len(seen) == 1:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", save_then_die)
    return seen


def test_a_continued_run_is_the_same_to_the_bit(whole, tmp_path, killed_after_save):
    """With dropout, stochastic depth, shuffling, augmentation and a moving average on."""
    with pytest.raises(Killed):
        run(tiny(), tmp_path)
    assert killed_after_save == [12]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "loss": 0}\n')  # written by the killed run, after its last checkpoint
    again = run(tiny(), tmp_path)
    first, second = weights(whole[1]), weights(tmp_path)
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)
    assert lines(tmp_path) == lines(whole[1])
    assert (again.top1, again.top5) == (whole[0].top1, whole[0].top5)


def test_a_run_in_an_object_store(whole, tmp_path, killed_after_save, capsys):
    address = "memory://bucket/runs/one"
    with pytest.raises(Killed):
        run(tiny(), address)
    again = run(tiny(), address)
    assert (again.top1, again.workdir) == (whole[0].top1, address)
    assert f"continuing {address} at step 12 of 24" in capsys.readouterr().out
    copy = readable(address)
    assert lines(copy) == lines(whole[1])
    for model in ("final", "best"):
        assert (copy / model / "model.safetensors").read_bytes() == (
            whole[1] / model / "model.safetensors"
        ).read_bytes()
    first, second = run_weights(whole[1]), run_weights(copy)
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)


def test_asked_to_stop_in_a_step(whole, tmp_path, monkeypatch):
    """Ctrl-C, or SIGTERM, between two checkpoints: nothing of what was done is done again."""
    log, steps = c.Log(every_steps=5), []

    def interrupt(batches):
        for number, batch in enumerate(batches, start=1):
            steps.append(number)
            if number == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    batches = data.train_batches
    with monkeypatch.context() as patch:
        patch.setattr(data, "train_batches", lambda *args: interrupt(batches(*args)))
        with pytest.raises(Stopped, match="SIGTERM: saved step 7 of 24"):
            run(tiny(log=log), tmp_path)
    assert steps == list(range(1, 8))
    run(tiny(log=log), tmp_path)
    first, second = weights(whole[1]), weights(tmp_path)
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)
    assert lines(tmp_path) == lines(whole[1])


def test_asked_to_stop_where_nothing_can_be_written(tmp_path, monkeypatch):
    """It does not say that it has saved."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("train.checkpoints.manager.seal", full)
    monkeypatch.setattr(Metrics, "write", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(OSError, match=r"the checkpoint of step 7 could not be written .* there is no older one"):
        run(tiny(log=c.Log(every_steps=5)), tmp_path)


def test_a_terminal_that_closes(whole, tmp_path, monkeypatch):
    """The signal is SIGHUP; or there is none, and the next line finds nobody: `nfjax train ... | head`."""
    read, write = os.pipe()
    with contextlib.suppress(BrokenPipeError), os.fdopen(write, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        os.close(read)
        with pytest.raises(Stopped, match="SIGPIPE: saved step 1 of 24") as stopped:
            run(tiny(), tmp_path)
        assert stopped.value.status == 0
        assert "SIGPIPE: saved step 1 of 24" in (tmp_path / "log.txt").read_text()
        monkeypatch.setattr(Metrics, "write", lambda *_: os.kill(os.getpid(), signal.SIGHUP))
        with pytest.raises(Stopped, match="SIGHUP: saved step"):
            run(tiny(), tmp_path)


@pytest.mark.parametrize("last", [False, True])
def test_asked_to_stop_in_an_evaluation(whole, tmp_path, monkeypatch, last):
    """The evaluation is owed: it is made when the run goes on, and its result is that of an uninterrupted run."""
    batches, calls = data.test_batches, []

    def interrupt(*args):
        calls.append(args)
        if len(calls) == 1 + last:
            os.kill(os.getpid(), signal.SIGTERM)
        return batches(*args)

    monkeypatch.setattr(data, "test_batches", interrupt)
    with pytest.raises(Stopped, match=f"saved step {24 if last else 12} of 24"):
        run(tiny(), tmp_path)
    assert run(tiny(), tmp_path).top1 == whole[0].top1
    assert (tmp_path / "best" / "config.json").is_file()
    assert lines(tmp_path) == lines(whole[1])
    first, second = weights(whole[1]), weights(tmp_path)
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)


def test_a_finished_run_is_not_trained_again(whole, capsys):
    before = lines(whole[1])
    assert run(tiny(), whole[1]) == whole[0]
    said, steps = capsys.readouterr().out, whole[0].steps
    assert f"{whole[1]} is finished at step {steps} of {steps}: nothing is left to do." in said
    assert f"another --workdir and --config.model.weights={whole[1]}." in said
    assert "continuing" not in said
    assert lines(whole[1]) == before


def test_a_run_is_prolonged(tmp_path):
    """Where the learning rate knows of no end; then it is the longer run."""
    constant = c.Schedule("constant")
    run(tiny(epochs=1, schedule=constant), tmp_path / "prolonged")
    assert run(tiny(schedule=constant), tmp_path / "prolonged").steps == 24
    run(tiny(schedule=constant), tmp_path / "whole")
    first, second = weights(tmp_path / "prolonged"), weights(tmp_path / "whole")
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)
    with pytest.raises(ValueError, match="has done 24 steps, and epochs=1 are only 12"):
        run(tiny(epochs=1, schedule=constant), tmp_path / "whole")


def test_another_config_is_refused(whole):
    message = r"(?s)optim\.lr: 0\.05 there, 0\.5 here.*another --workdir and.*--config\.model\.weights="
    with pytest.raises(ValueError, match=message):
        run(tiny(optim=c.Optim(lr=0.5, clip_grad=0.015)), whole[1])


def test_other_images_are_refused(whole, monkeypatch):
    images = type(data.for_config(tiny()).train.source)
    monkeypatch.setattr(images, "fingerprint", lambda self: "other")
    with pytest.raises(ValueError, match="'fingerprint': 'other'"):
        run(tiny(), whole[1])


def test_a_loss_that_is_not_finite(tmp_path, monkeypatch, killed_after_save):
    """Named with its step and images; what was good is still there."""
    with pytest.raises(Killed):
        run(tiny(), tmp_path)
    restore = Checkpoints.restore

    def poisoned(self, like, report):
        state, meta = restore(self, like, report)
        return dataclasses.replace(state, params=state.params | {"head/bias": state.params["head/bias"] * np.nan}), meta

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "restore", poisoned)
        with pytest.raises(
            NonFiniteError, match=r"step 13: loss = nan and grad_norm = nan.*good checkpoint is step 12"
        ) as error:
            run(tiny(), tmp_path)
    with np.load(tmp_path / "nonfinite_step_13.process_0.npz") as file:
        batch = dict(file)
    expected = next(data.train_batches(data.for_config(tiny()).train, tiny().data, 0, 12))
    assert all(np.array_equal(batch[key], expected[key]) for key in expected)
    assert f"training images {expected['index'][0]}, " in str(error.value)
    assert sorted(int(folder.name) for folder in (tmp_path / "checkpoints").iterdir()) == [12]


def test_frozen_parameters_and_a_trace(whole, tmp_path):
    config = tiny(epochs=1, optim=c.Optim(lr=0.05, freeze=("patch_embed/.*",)), ema=c.Ema())
    run(config, tmp_path, profile=Profile(3, 5))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    fresh = nfjax.state_dict(build(config).model)
    changed = {name for name, value in weights(tmp_path).items() if value.tobytes() != fresh[name].tobytes()}
    assert changed == {name for name in fresh if not name.startswith("patch_embed.")}


def test_a_trace_beyond_the_end(tmp_path):
    with pytest.raises(ValueError, match="not within those that are left, 1 to 12"):
        run(tiny(epochs=1), tmp_path, profile=Profile(10, 20))


def test_starting_from_another_run(whole):
    config = tiny(model=c.Model("test_vit2", weights=str(whole[1])), ema=c.Ema())
    start, end = nfjax.state_dict(build(config).model), weights(whole[1])
    assert all(start[key].tobytes() == end[key].tobytes() for key in end)


@pytest.mark.parametrize("name", ["test_vit2", "test_nfnet"])
def test_the_first_weights_of_the_classifier(name):
    """As timm's train.py changes them."""
    fresh, changed = (
        nfjax.state_dict(build(tiny(model=c.Model(name, **options))).model)
        for options in ({}, {"head_init_scale": 0.25, "head_init_bias": -2.0})
    )
    differing = {key for key in fresh if fresh[key].tobytes() != changed[key].tobytes()}
    weight, bias = sorted(key for key in fresh if key.startswith("head."))[::-1]
    assert differing == {weight, bias}
    np.testing.assert_array_equal(changed[weight], 0.25 * fresh[weight])
    assert set(changed[bias]) == {-2}


def test_parts_of_a_batch_add_up_to_it(x64, optimised):
    """Without random choices, a step in parts is the step of the whole batch."""
    results = []
    for parts in (1, 3):
        config = tiny(grad_accum_steps=parts, model=c.Model(dtype="float64"), schedule=c.Schedule("constant"))
        experiment = build(config)
        batch = next(data.train_batches(experiment.dataset.train, config.data, 0, 0))
        batch = put_batch(experiment.mesh, {key: batch[key] for key in ("image", "label")})
        state, metrics = make_train_step(experiment)(experiment.init(), batch)
        results.append(jax.device_get((metrics, state.params)))
    (whole, params), (sums, others) = results
    for key, value in whole.items():
        assert float(sums[key]) == pytest.approx(float(value), rel=1e-12), key
    for path, value in params.items():
        np.testing.assert_allclose(others[path], value, rtol=0, atol=1e-12 * np.abs(value).max())


def test_bfloat16_and_recomputation():
    """The computation is rounded, what is kept is not."""
    half = tiny(model=c.Model("test_vit2", dtype="bfloat16", grad_checkpointing=True), schedule=c.Schedule("constant"))
    full = build(tiny(model=c.Model("test_vit2")))
    experiment = build(half)
    batch = next(data.train_batches(full.dataset.train, half.data, 0, 0))
    batch = put_batch(full.mesh, {key: batch[key] for key in ("image", "label")})
    assert "remat" in str(jax.make_jaxpr(make_train_step(experiment))(experiment.state_shapes, batch))
    expected = make_eval_step(full)(full.params, batch | put_batch(full.mesh, {"valid": np.ones(120, bool)}))
    state, metrics = make_train_step(experiment)(experiment.init(), batch)
    loss = float(expected["loss"]) / 120
    assert 0 < abs(float(metrics["loss"]) / loss - 1) < 1e-2
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32", "int32", "uint32"}
    assert np.any(state.params["head/kernel"] != full.params["head/kernel"])


def test_recomputation_saves_memory():
    """Of the compiled step: XLA is free to keep what it was asked to compute twice."""
    with shallow({"test_vit2": {"depth": 4}}):
        configs = [tiny(model=c.Model("test_vit2", grad_checkpointing=again)) for again in (False, True)]
        kept, twice = (compile_train_step(build(config)).memory_analysis() for config in configs)
    assert twice.temp_size_in_bytes < 0.6 * kept.temp_size_in_bytes, (twice, kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": c.Data(name="letters")}, r"data\.name='letters' is not known; expected digits, folder, manifest"),
        ({"data": c.Data(batch_size=121)}, r"data\.batch_size=121 does not divide into 2 devices .* a multiple of 2"),
        ({"data": c.Data(batch_size=120), "grad_accum_steps": 7}, "take a multiple of 14"),
        ({"data": c.Data(batch_size=2000)}, "more than the 1437 training images"),
        ({"model": c.Model(num_classes=9)}, r"model\.num_classes=9 is fewer than the 10 classes"),
        ({"model": c.Model(dtype="float64")}, "JAX_ENABLE_X64=1"),
        ({"mesh": c.Mesh(fsdp=3)}, r"mesh\.fsdp=3 must be the number of devices, 2"),
        ({"optim": c.Optim(freeze=("steem/.*",))}, r"matches no parameter.*patch_embed/"),
        ({"model": c.Model(weights="nowhere.safetensors")}, "nowhere.safetensors"),
        ({"model": c.Model(resume_timm="last.pth.tar", head_init_bias=-2.0)}, r"leave out model\.head_init_scale and"),
        ({"model": c.Model(resume_timm="last.pth.tar", resume_run="runs/a")}, "both a state to begin with"),
        ({"model": c.Model(resume_run="runs/a"), "lora": c.Lora(4)}, r"resume_run continues a .* set lora\.rank=0"),
        ({"early_stop": c.EarlyStop(2, "map")}, r"early_stop\.metric='map' is not measured .* top1, top5, loss"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_computed(tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_class_is_asked_for(tmp_path):
    root = make_folder(tmp_path, train=4, val=2, size=16, classes=1)
    with pytest.raises(ValueError, match=r"folder has one class, '\w+': .* set model\.num_classes=1"):
        build(tiny(data=c.Data(name="folder", root=str(root), batch_size=2)))


def test_a_model_that_does_not_fit_the_images():
    with pytest.raises(ValueError, match="the model has 3 input channels and 4 classes; digits has 1 and 10"):
        build(tiny(), model=nfjax.load("test_nfnet", None, num_classes=4))


def command(*arguments, **kwargs):
    return subprocess.run([sys.executable, "-m", "train.main", *arguments], capture_output=True, text=True, **kwargs)


def test_errors_on_the_command_line(tmp_path):
    result = command("--config=train/configs/digits.py", "--config.data.name=letters", f"--workdir={tmp_path}")
    loading = f"loading test_nfnet (fresh weights) and letters images; the work folder is {tmp_path}\n"
    assert (result.returncode, result.stdout) == (2, loading)
    expected = "digits, folder, manifest, tfds/NAME, hfds/ORG/NAME or wds/PATTERN"
    assert result.stderr == f"error: data.name='letters' is not known; expected {expected}.\n"


def test_sigterm_on_the_command_line(tmp_path):
    """A preempted machine: saved within ten seconds, exit status 0."""
    arguments = ["--config=train/configs/digits.py", f"--workdir={tmp_path}", "--config.log.every_steps=1"]
    process = subprocess.Popen([sys.executable, "-m", "train.main", *arguments], stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None
        time.sleep(0.1)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert time.monotonic() - asked < 10
    last = lines(tmp_path)[-1]["step"]
    assert f"SIGTERM: saved step {last} of 870; the same command continues from there." in output
    assert (tmp_path / "checkpoints" / str(last)).is_dir()


def test_the_card_of_a_run_has_its_config_scores_and_curves(whole):
    result, workdir = whole
    text = (workdir / "final" / "README.md").read_text()
    assert f"| digits | top-1 | {100 * result.top1:.2f} % |" in text
    assert '"weight_decay": ' in text
    assert "](curves.png)" in text
    assert (workdir / "final" / "curves.png").read_bytes() == (workdir / "curves.png").read_bytes()
    assert "base_model" not in text  # it began with fresh weights

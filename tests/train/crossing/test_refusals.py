"""What is no checkpoint of timm's train.py, does not fit the config, or has no counterpart: refused in a sentence."""

import argparse
import contextlib
import copy
import dataclasses
import random
import re
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.helpers.crossing import ROWS, SIZE, SMALL, Ours, batches, random_state
from train.config import Augment, Config, Data, Ema, Group, Model, Optim, Schedule
from train.crossing.moments import _require_optimizer
from train.crossing.table import ROWS as OPTIMISERS
from train.crossing.table import options
from train.to_timm import main
from train.verify.theirs import Theirs

CONFIG = Config(
    epochs=3,
    model=Model("test_vit2"),
    data=Data(image_size=SIZE, batch_size=ROWS),
    optim=Optim("adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7),
    schedule=Schedule("cosine"),
    ema=Ema(0.9),
)


class Case(NamedTuple):
    ours: Ours
    content: dict


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A run of ours that has not begun, and what timm has written after an epoch of it."""
    options, start = SMALL["test_vit2"], random_state("test_vit2")
    theirs = Theirs(CONFIG, start, options, 2)
    theirs.model.float(), theirs.ema.module.float()
    for _ in range(2):
        for parameter in theirs.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        theirs.step()
    path = tmp_path_factory.mktemp("timm") / "last.pth.tar"
    theirs.save(path)
    content = torch.load(path, weights_only=False)
    content["args"] = argparse.Namespace(model="test_vit2.r160_in1k", opt="adamw", model_ema_decay=0.9, epochs=3)
    content["metric"] = np.float64(50.0)
    return Case(Ours(CONFIG, start, options, batches(2)), content)


def resumed(case, path, content, **sections):
    torch.save(content, path)
    changed = {
        name: dataclasses.replace(getattr(CONFIG, name), **fields) if isinstance(fields, dict) else fields
        for name, fields in sections.items()
    }
    return case.ours.resumed(path, **changed)


def test_what_is_said(case, tmp_path):
    path = tmp_path / "last.pth.tar"
    state, said = resumed(case, path, case.content)
    assert said == f"continues {path}: epoch 1, adamw with exp_avg and exp_avg_sq, moving average"
    assert int(state.step) == 2
    older = {**case.content, "version": 1, "epoch": 1}
    state, said = resumed(case, path, older, epochs=9, data={"batch_size": 1})
    assert said == (
        f"continues {path}: epoch 1, adamw with exp_avg and exp_avg_sq, moving average. Its optimiser has done 2 "
        "steps, and 1 epoch of this run is 4, where the schedule goes on. Its train.py had epochs=3 and not 9: the "
        "config's values are what counts from here on"
    )
    assert int(state.step) == 4


def test_an_optimiser_of_two_names():
    group = dict.fromkeys(OPTIMISERS["sgd"].marks)
    _require_optimizer(Optim("sgd"), [group], "nesterov", "f")
    with pytest.raises(ValueError, match="is of momentum, and"):
        _require_optimizer(Optim("sgd"), [group], "momentum", "f")
    slow = Optim("sgd", lookahead=0.5)
    _require_optimizer(slow, [group], "lookahead_nesterov", "f")
    for opt, found in (("sgd", "of sgd"), (None, "none of lookahead_sgd")):
        with pytest.raises(ValueError, match=rf"is {found}, and optim\.name is sgd, with optim\.lookahead=0\.5"):
            _require_optimizer(slow, [group], opt, "f")


def test_numbers_that_are_not_finite_are_told(case, tmp_path):
    content = copy.deepcopy(case.content)
    content["state_dict"]["head.bias"][0] = float("nan")
    content["optimizer"]["state"][3]["exp_avg"][...] = float("inf")
    _, said = resumed(case, tmp_path / "last.pth.tar", content)
    assert re.search(r"\. WARNING: there are numbers that are not finite in params/head/bias, opt_state/\S+$", said)


def group(content, **changes):
    for row in content["optimizer"]["param_groups"]:
        row.update(changes)


def moment(content, **changes):
    content["optimizer"]["state"][3].update(changes)


def without(content, *keys):
    *path, last = keys
    for key in path:
        content = content[key]
    del content[last]


def shuffled(content):
    content["state_dict"] = dict(sorted(content["state_dict"].items()))


def double(content):
    content["state_dict"] = {name: value.double() for name, value in content["state_dict"].items()}


def integral(content):
    content["state_dict"]["head.bias"] = content["state_dict"]["head.bias"].long()


WRONG = {
    "integers": (integral, {}, "params/head/bias is int64; expected floating point"),
    "no epoch": (lambda c: without(c, "epoch"), {}, "it has no epoch"),
    "weights alone": (lambda c: without(c, "optimizer"), {}, "it has no optimizer. To begin a new run"),
    "scaler": (lambda c: c.update(amp_scaler={"scale": 1.0}), {}, "amp_scaler, the GradScaler's of float16 training"),
    "other state": (lambda c: c.update(lr_scheduler={}, task_state={}), {}, "state lr_scheduler, task_state, which"),
    "architecture": (lambda c: setattr(c["args"], "model", "test_vit3"), {}, "is of test_vit3, and the config's model"),
    "classes": (lambda c: without(c, "state_dict", "head.weight"), {}, "1 missing"),
    "order": (shuffled, {}, "not in the order of timm's model, from blocks.0.attn.proj.bias on"),
    "no average": (lambda c: without(c, "state_dict_ema"), {}, "no moving average, and ema.decay is 0.9: set"),
    "average": (lambda c: None, {"ema": {"decay": 0.0}}, "set --config.ema.decay=0.9."),
    "optimiser": (lambda c: None, {"optim": {"name": "nadamw"}}, "state is of adamw, and optim.name is nadamw"),
    "unnamed": (lambda c: without(c, "args"), {"optim": {"name": "nadamw"}}, "none of nadamw"),
    "layer decay": (lambda c: None, {"optim": {"layer_decay": None}}, "made with another optim.layer_decay than None"),
    "another layer decay": (lambda c: None, {"optim": {"layer_decay": 0.8}}, "lr_scale=0.48"),
    "decay": (lambda c: None, {"optim": {"weight_decay": 0.1}}, "weight_decay=0.05 and not 0.1 (optim.weight_decay)"),
    "rate": (lambda c: None, {"optim": {"lr": 0.1}}, "initial_lr=0.001 and not 0.1 (optim.lr)"),
    "betas": (lambda c: None, {"optim": {"betas": (0.9, 0.99)}}, "betas=(0.9, 0.999) and not (0.9, 0.99)"),
    "amsgrad": (lambda c: group(c, amsgrad=True), {}, "amsgrad=True, which adamw here has not"),
    "unknown": (lambda c: group(c, magic=[0] * 99), {}, "magic=[0, 0, "),
    "moment": (lambda c: moment(c, max_exp_avg_sq=torch.ones(1)), {}, "max_exp_avg_sq has no counterpart in adamw"),
    "lost": (lambda c: without(c, "optimizer", "state", 3, "exp_avg"), {}, "has no exp_avg of"),
    "shape": (lambda c: moment(c, exp_avg=torch.ones(3)), {}, "1 wrong shape"),
    "steps": (lambda c: moment(c, step=torch.tensor(9.0)), {}, "has done 2.0, 9.0 steps; expected one number"),
    "uncounted": (lambda c: moment(c, step=None), {}, "no step in 1 of"),
    "fraction": (lambda c: moment(c, step=0.5), {}, "has done 0.5, 2.0 steps"),
    "sizes": (lambda c: group(c, params=[0]), {}, "its optimizer is not the state of one of"),
    "no groups": (lambda c: c["optimizer"].update(param_groups=7), {}, "its optimizer is not the state of one of"),
    "end": (lambda c: c.update(epoch=2), {}, "has done 3 epochs, and the config's are 3 in all"),
    "when": (lambda c: c.update(epoch="one"), {}, "epoch='one', version=2; expected a count"),
    "precision": (double, {}, "is float64, more than float32"),
    "plateau": (lambda c: None, {"schedule": {"name": "plateau"}}, "schedule.name='plateau': timm's train.py has no"),
    "frozen": (lambda c: None, {"optim": {"freeze": ("head/.*",)}}, "optim.freeze: timm's train.py has no counterpart"),
    "milestones": (
        lambda c: None, {"schedule": {"name": "multistep", "milestones": (1.5,)}},
        "schedule.milestones between epochs: timm's train.py has no counterpart",
    ),
    "slow": (lambda c: group(c, lookahead_alpha=0.5), {}, "lookahead_alpha=0.5, which adamw here has not"),
    "groups": (lambda c: None, {"optim": {"groups": (Group(".*"),)}}, "optim.groups: timm's"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_refused(kind, case, tmp_path):
    change, sections, message = WRONG[kind]
    content = copy.deepcopy(case.content)
    change(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        resumed(case, tmp_path / "last.pth.tar", content, **sections)
    if kind not in ("classes", "shape"):  # of which a list tells
        assert "\n" not in str(error.value)


def test_no_file(case, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        case.ours.resumed(tmp_path / "none.pth.tar")


JUNK = (None, -1, 2**70, 1e400, "x", b"x", [], {}, (1, 2), torch.ones(2), torch.tensor(float("nan")), np.float64(3))


MUTATIONS = 40
HARMLESS = {  # what says nothing about the steps to come
    *("arch", "args", "metric", "saver", "best_epoch", "best_metric", "checkpoint_files", "pending"),
    *("lr", "foreach", "fused", "capturable", "differentiable"),
}


def mutated(content, rng):
    """One thing somewhere in it is another; its key."""
    while True:
        keys = list(content) if isinstance(content, dict) else range(len(content))
        key = rng.choice(keys)
        if not isinstance(content[key], dict | list) or not content[key] or rng.random() < 0.2:
            content[key] = rng.choice(JUNK)
            return key
        content = content[key]


def test_mutated_files_are_taken_or_refused(case, tmp_path):
    rng, taken = random.Random(0), set()
    for _ in range(MUTATIONS):
        content = copy.deepcopy(case.content)
        key = mutated(content, rng)
        with contextlib.suppress(ValueError):
            resumed(case, tmp_path / "last.pth.tar", content)
            taken.add(key)
    assert taken <= HARMLESS


def test_options_are_timms():
    """The schedules have the same values as timm's under these options: tests/train/optim/test_schedules.py."""
    linear = Config(schedule=Schedule("linear", cycle_limit=2, cycle_mul=2.0), optim=Optim(clip_grad=1.0))
    found = options(linear)
    assert (found["sched"], found["decay_rate"], found["lr_cycle_mul"]) == ("poly", 1.0, 2.0)
    assert (found["clip_grad"], found["clip_mode"]) == (1.0, "agc")
    assert "model_ema_decay" not in found
    assert "lr_k_decay" not in options(Config(schedule=Schedule("linear", k_decay=2.0)))  # its poly would take it
    poly = options(Config(schedule=Schedule("poly", power=2.0, k_decay=1.5), augment=Augment(train_crop_mode="rkrc")))
    assert (poly["sched"], poly["decay_rate"], poly["lr_k_decay"]) == ("poly", 2.0, 1.5)
    assert poly["train_crop_mode"] == "rkrc"
    multistep = options(Config(schedule=Schedule("multistep", milestones=(2.0, 4.0), decay_rate=0.3)))
    assert (multistep["decay_milestones"], multistep["decay_rate"]) == ((2.0, 4.0), 0.3)
    assert {"decay_epochs", "lr_cycle_mul"} & options(Config(schedule=Schedule("wsd"))).keys() == {"decay_epochs"}


def test_to_timm_refuses(case, tmp_path, capsys):
    ours = case.ours
    state = ours.experiment.init()
    file = ours.to_timm(dataclasses.replace(state, step=state.step + 2), tmp_path / "run")
    assert "after epoch 1 (step 2), adamw, with its moving average" in capsys.readouterr().out
    assert main([str(tmp_path / "none"), str(file)]) == 2
    assert main([str(tmp_path / "run"), str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main([str(tmp_path / "run"), str(file), "--step=3"]) == 2
    assert "no checkpoint of step 3, but of 2" in capsys.readouterr().err
    ours.to_timm(dataclasses.replace(state, step=state.step + 3), tmp_path / "between", status=2)
    assert "step 3 is in the middle of an epoch, of 2 steps" in capsys.readouterr().err

"""A change of framework in mid-run equals timm's run without a break: parameters, optimiser and average, in float64."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
import torch

import port
from tests.helpers.crossing import ROWS, SIZE, SMALL, STEPS, Ours, assert_same_run, batches, case, random_state
from train.config import Config, Data, Model, Optim, Schedule
from train.optim.optimizer import KINDS
from train.verify.theirs import Theirs
from train.verify.training import RECIPES


# What timm's train.py has no counterpart of is refused: test_refusals.py.
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("multilabel", "distill")])
def test_both_ways(name, tmp_path, x64, capsys):
    config, options, start, both = case(name)
    first, second = both[:STEPS], both[STEPS:]
    with jax.default_matmul_precision("highest"):
        whole = Theirs(config, start, options, STEPS)
        whole.train(first)
        whole.save(tmp_path / "half.pth.tar")
        whole.train(second)
        whole.save(tmp_path / "whole.pth.tar")
        expected = torch.load(tmp_path / "whole.pth.tar", weights_only=False)

        ours = Ours(config, start, options, first)
        state, said = ours.resumed(tmp_path / "half.pth.tar")
        assert said.startswith(f"continues {tmp_path / 'half.pth.tar'}: epoch 1, {name} with ")
        assert said.endswith("moving average") == bool(config.ema.decay)
        assert_same_run(ours.to_timm(ours.train(state, second), tmp_path / "one"), expected)

        file = ours.to_timm(ours.train(ours.experiment.init(), first), tmp_path / "two")
        told = capsys.readouterr().out
        assert f"after epoch 1 (step {STEPS}), {name}" in told
        assert f"train.py DATA --resume {file} --model {config.model.name} " in told
        theirs = Theirs(config, start, options, STEPS, resume=file)
        theirs.train(second)
        theirs.save(tmp_path / "back.pth.tar")
        assert_same_run(tmp_path / "back.pth.tar", expected)


@pytest.mark.parametrize("name", [*sorted(KINDS.keys() - RECIPES), "lookahead_lion", "lookahead_adamw"])
def test_other_optimisers(name, tmp_path, x64, monkeypatch):
    """Two steps with given gradients in each framework; with lookahead, whose slow weights are there then, or not."""
    from timm.optim import muon
    from timm.optim.lookahead import Lookahead

    slow, _, optimiser = name.rpartition("_")
    k = 2 if optimiser == "lion" else 3
    monkeypatch.setattr("timm.optim._optim_factory.Lookahead", functools.partial(Lookahead, k=k))
    exact = muon.zeropower_via_newtonschulz  # which takes bfloat16
    monkeypatch.setattr(muon, "zeropower_via_newtonschulz", lambda *a, **k: exact(*a, **k, dtype=torch.float64))
    config = Config(
        epochs=2,
        model=Model("test_vit2", dtype="float64"),
        data=Data(image_size=SIZE, batch_size=ROWS),
        optim=Optim(optimiser, lr=1e-3, weight_decay=0.05, lookahead=0.5 if slow else 0.0, lookahead_steps=k),
        schedule=Schedule("cosine", min_lr=1e-4),
    )
    options, start = SMALL["test_vit2"], random_state("test_vit2")
    rng = np.random.default_rng(0)
    grads = [{key: rng.standard_normal(value.shape) for key, value in start.items()} for _ in range(4)]

    def theirs(run, steps):
        for given in steps:
            for key, parameter in run.model.named_parameters():
                parameter.grad = torch.from_numpy(given[key].copy())
            run.step()
        return run

    ours = Ours(config, start, options, batches(2))

    @jax.jit
    def step(state, given):
        rate = ours.experiment.learning_rate(state.step)
        updates, moments = ours.experiment.tx.update(given, state.opt_state, state.params, learning_rate=rate)
        params = optax.apply_updates(state.params, updates)
        return dataclasses.replace(state, step=state.step + 1, params=params, opt_state=moments)

    def mine(state, steps):
        for given in steps:
            state = step(state, port.to_flax(given))
        return state

    whole = theirs(Theirs(config, start, options, 2), grads[:2])
    whole.save(tmp_path / "half.pth.tar")
    theirs(whole, grads[2:]).save(tmp_path / "whole.pth.tar")
    expected = torch.load(tmp_path / "whole.pth.tar", weights_only=False)

    state, _ = ours.resumed(tmp_path / "half.pth.tar")
    assert_same_run(ours.to_timm(mine(state, grads[2:]), tmp_path / "one"), expected)

    file = ours.to_timm(mine(ours.experiment.init(), grads[:2]), tmp_path / "two")
    theirs(Theirs(config, start, options, 2, resume=file), grads[2:]).save(tmp_path / "back.pth.tar")
    assert_same_run(tmp_path / "back.pth.tar", expected)

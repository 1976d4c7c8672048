"""`nfjax verify-training`: small models of its recipes, and that it would notice."""

import dataclasses

import numpy as np
import pytest

import port
from train.verify import training as verify
from train.verify.__main__ import main
from train.verify.training import RECIPES, TOLERANCE, Comparison, Difference


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_is_timms(recipe, capsys, optimised):
    """Eight steps in four epochs of the schedule."""
    assert main(["--small", "--steps=8", f"--only={recipe}"]) == 0
    printed = capsys.readouterr().out
    assert f"{recipe}: {RECIPES[recipe].small}" in printed
    assert [line.split()[3] for line in printed.splitlines() if "loss of step" in line] == ["1", "6", "8"]
    assert "PASS at 1e-09" in printed
    assert "1 of 1 recipes equal timm." in printed


@pytest.mark.parametrize(("factor", "status", "verdict"), [(1.0, 0, "PASS"), (1 + 1e-6, 1, "FAIL")])
def test_a_millionth_more_decay_is_noticed(factor, status, verdict, monkeypatch, capsys):
    """timm in the place of ours, once as it is and once with a little more weight decay."""

    def almost_timm(config, *rest):
        optim = dataclasses.replace(config.optim, weight_decay=config.optim.weight_decay * factor)
        found = verify._theirs(dataclasses.replace(config, optim=optim), *rest)
        return found | {which: port.to_flax(found[which]) for which in ("params", "ema")}

    monkeypatch.setattr(verify, "_ours", almost_timm)
    assert main(["--small", "--steps=4", "--only=adamw"]) == status
    assert f"{verdict} at 1e-09" in capsys.readouterr().out


SAME = Difference(0.0, 0.0)


@pytest.mark.parametrize(
    ("losses", "params", "ema", "ok"),
    [
        ([(1.0, 1.0)], {"a": SAME}, {"a": SAME}, True),
        ([(1.0, 1.0)], {"a": SAME}, {}, True),
        ([(1.0, 1.0 + 2 * TOLERANCE)], {"a": SAME}, {}, False),
        ([(float("nan"), 1.0)], {"a": SAME}, {}, False),
        ([(1.0, 1.0)], {"a": SAME, "b": Difference(2e-9, 0.0)}, {}, False),
        ([(1.0, 1.0)], {"a": Difference(0.0, 2e-9)}, {}, False),
        ([(1.0, 1.0)], {"a": Difference(float("nan"), 0.0)}, {}, False),
        ([(1.0, 1.0)], {"a": SAME}, {"a": Difference(0.0, float("inf"))}, False),
    ],
)
def test_verdict(losses, params, ema, ok):
    result = Comparison("sgd", "test_nfnet", losses, params, ema, (1.0, 1.0))
    assert result.ok == ok
    assert ("PASS" if ok else "FAIL") in "\n".join(result.lines())


def test_a_parameter_that_never_moved_proves_nothing():
    ones = np.ones(3)
    assert verify._difference(ones, ones, ones).of_way == float("inf")
    assert verify._difference(ones, ones, 0.5 * ones) == SAME


def test_what_cannot_run(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(["--only=rmsprop"])
    assert "invalid choice: 'rmsprop'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--steps=0"])
    monkeypatch.setattr(verify, "compare", lambda *a, **k: (_ for _ in ()).throw(ImportError("timm is not installed")))
    assert main([]) == 2
    assert "error: timm is not installed" in capsys.readouterr().err

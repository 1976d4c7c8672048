"""`python -m benchmarks --what recipes`: what it writes of two steps."""

import json

import numpy as np
import pytest

from benchmarks import recipes
from benchmarks.__main__ import main


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["nfnet_l0", "vit_sbb_finetune"])
def test_two_steps_of_both(name, tmp_path, capsys):
    assert main(["--what", "recipes", "--recipes", name, "--steps", "2", "--seeds", "1", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("recipes-*.json")
    assert path.with_suffix(".png").stat().st_size > 1000
    (row,) = json.loads(path.read_text())["rows"]
    assert {side: np.shape(losses) for side, losses in row["losses"].items()} == {"nfjax": (1, 2), "timm": (1, 2)}
    assert all(
        1.5 < losses[0][0] < 3.0 for losses in row["losses"].values()
    )  # of eight classes, of which nothing is known
    assert row["rates_apart"] < 1e-6
    assert "difference" in capsys.readouterr().out


def test_what_is_reduced(tmp_path):
    """Everything else is the recipe's."""
    from train.configs import vit_sbb_finetune

    whole, found = vit_sbb_finetune.get_config(), recipes.reduced("vit_sbb_finetune", str(tmp_path), 3)
    assert (found.augment, found.mix, found.loss, found.optim, found.ema) == (
        whole.augment, whole.mix, whole.loss, whole.optim, whole.ema,
    )  # fmt: skip
    assert found.model.drop_path_rate == whole.model.drop_path_rate
    assert found.schedule.warmup_epochs / found.epochs == whole.schedule.warmup_epochs / whole.epochs
    assert found.seed == 3


def test_the_summary_of_a_recipe():
    runs = {
        "nfjax": [[(2.0, 0.1), (1.0, 0.2)], [(2.0, 0.1), (1.2, 0.2)]],
        "timm": [[(2.0, 0.1), (1.1, 0.2)], [(2.0, 0.1), (0.9, 0.2)]],
    }
    row = recipes.row("nfnet_l0", runs)
    assert row["ends"]["nfjax"] == pytest.approx([1.5, 1.6])
    assert row["rates_apart"] == 0
    assert "1.500 +- 0.500, 1.600 +- 0.400; timm 1.550 +- 0.450, 1.450 +- 0.550; difference +0.050" in recipes.said(row)

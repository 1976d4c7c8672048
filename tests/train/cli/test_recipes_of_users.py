"""Config files as people write them, and what is said of those that fail."""

import textwrap

import pytest

from train.cli.configs import load_config, workdir
from train.cli.options import UsageError


def recipe(folder, text):
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(text))
    return str(path)


def test_a_module_beside_it_and_classes_of_its_own(tmp_path):
    (tmp_path / "beside_the_recipe.py").write_text("EPOCHS = 7\n")
    (tmp_path / "train.py").write_text("raise SystemExit\n")  # no file of ours
    source = recipe(
        tmp_path,
        """
        from __future__ import annotations
        import dataclasses
        import beside_the_recipe
        from train.config import Config

        @dataclasses.dataclass
        class Mine:
            epochs: int = beside_the_recipe.EPOCHS

        def get_config() -> Config:
            return Config(epochs=Mine().epochs)
        """,
    )
    assert load_config(source).epochs == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys\nsys.exit(3)", r"mine\.py, line 2: SystemExit: 3"),
        ("import nowhere_at_all", r"mine\.py, line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        (
            "from train.config import Config\ndef get_config():\n    c = Config()\n    del c.ema\n    return c",
            r"ema=None: expected a train\.config\.Ema",
        ),
        (
            "from train.config import *\ndef get_config():\n    return Config(optim=Optim(freeze=[0]), seed=2**63)",
            r"(?s)seed=9223372036854775808: expected an integer, at least 0.*optim\.freeze=\[0\]: expected texts",
        ),
    ],
)
def test_one_that_fails(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        load_config(recipe(tmp_path, text))


def test_the_run_that_one_stands_in(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    monkeypatch.chdir(run)
    assert workdir(".") == tmp_path / "runs" / "a-2"
    monkeypatch.chdir(tmp_path)
    assert str(workdir("runs/a")) == "runs/a-2"

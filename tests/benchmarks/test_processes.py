"""`python -m benchmarks --what load` and `compile`: what they write; different functions are not compared."""

import json

import numpy as np
import pytest

from benchmarks import compile, load, peer, process
from benchmarks.__main__ import main


def found(folder):
    (path,) = folder.glob("*.json")
    assert path.with_suffix(".png").stat().st_size > 1000
    return json.loads(path.read_text())["rows"]


@pytest.mark.slow
def test_load(tmp_path, capsys):
    assert main(["--what", "load", "--models", "test_vit2", "--rounds", "1", "--out", str(tmp_path)]) == 0
    first, weights = found(tmp_path)
    assert set(first["seconds"]) == {"ours", load.UNCACHED, load.RIVAL}
    assert set(first["steps"]["ours"]) == {"import", "weights", "compile", "result"}
    assert set(weights["seconds"]) == {*first["seconds"], load.LEAST_NAME}
    assert max(first["differences"].values()) <= 1e-5
    assert all(peak > 0.9 for peaks in weights["peak_of_file"].values() for peak in peaks)  # the file is read
    assert "of it the weights" in capsys.readouterr().out


@pytest.fixture
def different(monkeypatch):
    """Processes that need no time, and of which ours are wrong by 0.1 %."""

    def run(code, arguments, folder, library, **environment):
        return {"seconds": 1.0, "steps": {}, "result": np.ones(3) * (1.001 if library == "jax" else 1.0)}

    monkeypatch.setattr(process, "run", run)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (["load"], "not reported, since outputs differ from timm's by more than 1e-05: ours 1.0e-03, ours, nothing"),
        (["compile", "--of", "inference"], "not reported, since our inference of test_vit2 is 1.0e-03 from timm's"),
        (["compile", "--of", "training"], "not reported, since our training of test_vit2 is 1.0e-03 from timm's"),
    ],
)
def test_refuses_other_outputs(what, said, different, tmp_path, capsys):
    assert main(["--what", *what, "--models", "test_vit2", "--rounds", "1", "--out", str(tmp_path)]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def eager(monkeypatch):
    """torch.compile takes a minute."""
    programs = {what: (ours, theirs.replace("torch.compile", "")) for what, (ours, theirs) in compile.PROGRAMS.items()}
    monkeypatch.setattr(compile, "PROGRAMS", programs)


ARGS = ["--what", "compile", "--models", "test_vit2", "--size", "160", "--batch", "2", "--rounds", "1"]


@pytest.mark.slow
def test_compile(eager, tmp_path, capsys):
    assert main([*ARGS, "--out", str(tmp_path)]) == 0
    for row, tolerance in zip(found(tmp_path), (peer.TOLERANCE, compile.LOSS_TOLERANCE), strict=True):
        assert set(row["seconds"]) == {"ours", compile.RIVAL}
        assert set(row["steps"]["ours"]) == {"trace", "lower", "compile", "processor", "result"}
        assert all(value > 0 for values in row["steps"]["ours"].values() for value in values)
        assert row["differences"]["ours"] <= tolerance
    assert "test_vit2, training at 160x160, batch 2" in capsys.readouterr().out


def test_a_program_that_fails_or_imports_the_rival(tmp_path):
    with pytest.raises(RuntimeError, match="exit status 1"):
        process.run("raise ValueError\n", [], tmp_path, "jax")
    with pytest.raises(RuntimeError, match=r"imported \['jax'\], expected torch alone"):
        process.run("import jax\nimport numpy as np\nresult = []\n", [], tmp_path, "torch")


def test_turns():
    turns = []
    found = process.in_turns({name: lambda name=name: turns.append(name) for name in "ab"}, 2)
    assert turns == ["a", "b", "b", "a"]
    assert found == {"a": [None, None], "b": [None, None]}

"""`python -m benchmarks --what infer`: what it writes, and that it refuses a comparison of different functions."""

import json

import numpy as np
import pytest

from benchmarks import infer, measure, peer
from benchmarks.__main__ import main

ARGS = ["--what", "infer", "--models", "test_vit2", "--batch", "2", "--rounds", "2"]


@pytest.fixture
def quick(monkeypatch):
    """The smallest run; the machine's limit is not what is tested."""
    monkeypatch.setattr(measure, "CEILING_SIZE", 64)


def test_results(quick, tmp_path, capsys):
    assert main([*ARGS, "--no-torch-compile", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("infer-*.json")
    assert path.with_suffix(".png").stat().st_size > 1000
    found = json.loads(path.read_text())
    assert {"machine", "date", "versions", "threads", "ceiling_flops"} <= set(found)
    (row,) = found["rows"]
    assert set(row["seconds"]) == {*infer.OURS, "timm eager"}
    assert all(len(values) == 2 for values in row["seconds"].values())
    assert row["ratios"]["timm eager"] == [1.0, 1.0]
    assert row["no_torch_compile"] == "not asked for"
    assert max(row["differences"].values()) <= 1e-5
    assert "torch.compile is missing" in capsys.readouterr().out


def test_refuses_other_outputs(quick, tmp_path, capsys, monkeypatch):
    calls = infer.our_calls

    def altered(model, images):
        ours = calls(model, images)
        return ours | {"ours folded": lambda: ours["ours folded"]() * 1.0001}

    monkeypatch.setattr(infer, "our_calls", altered)
    assert main([*ARGS, "--no-torch-compile", "--out", str(tmp_path)]) == 1
    assert "outputs differ from timm's by more than 1e-05: ours folded 1.0e-04" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nan_is_a_difference():
    with pytest.raises(peer.OutputsDiffer):
        peer.agree({"nan": lambda: np.array([np.nan])}, np.array([1.0]))


def test_turns():
    turns = []
    times = measure.interleave({name: lambda name=name: turns.append(name) for name in "ab"}, 2, least=0.0)
    assert turns == ["a", "a", "b", "b", "b", "b", "a", "a"]
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    assert measure.spread([1.0, 2.0, 4.0]) == "2.0 [1.0, 4.0]"


def test_help(capsys):
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert "infer" in capsys.readouterr().out

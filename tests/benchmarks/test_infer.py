"""`python -m benchmarks --what infer`: what it writes, and that it refuses a comparison of different functions."""

import json

import numpy as np
import pytest
import torch

from benchmarks import infer, measure, peer
from benchmarks.__main__ import main

ARGS = ["--what", "infer", "--models", "test_vit2", "--size", "32", "--batch", "2", "--rounds", "2"]


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
    assert row["missing"] == {"torch.compile": "not asked for"}
    assert max(row["differences"].values()) <= 1e-5
    assert "torch.compile is missing" in capsys.readouterr().out


@pytest.mark.slow
def test_bfloat16(quick, tmp_path):
    """AMP is what ours is compared with, and a half model too is timed."""
    assert main([*ARGS, "--no-torch-compile", "--dtype", "bfloat16", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("infer-*.json")
    found = json.loads(path.read_text())
    (row,) = found["rows"]
    assert found["dtype"] == "bfloat16"
    assert set(row["seconds"]) == {*infer.OURS, "timm eager", "timm half"}
    assert min(row["differences"].values()) > 1e-4  # nothing was left in float32


@pytest.mark.parametrize(
    ("dtype", "factor", "message"),
    [
        ("float32", 1.0001, "more than 1e-05: ours folded 1.0e-04"),
        pytest.param("bfloat16", 1.03, "ours folded", marks=pytest.mark.slow),
    ],
)
def test_refuses_other_outputs(dtype, factor, message, quick, tmp_path, capsys, monkeypatch):
    class Altered(infer.Task):
        def __init__(self, case):
            super().__init__(case)
            right = self.ours["ours folded"]
            self.ours = {"ours folded": lambda: times(right(), factor)}

    def times(call, factor):
        return lambda: call() * factor

    monkeypatch.setattr(infer, "Task", Altered)
    assert main([*ARGS, "--no-torch-compile", "--dtype", dtype, "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("not reported, since outputs differ from timm's")
    assert message in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_broken_torch_compile_is_missing(quick, tmp_path, capsys, monkeypatch):
    def broken(model):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    assert main([*ARGS, "--out", str(tmp_path)]) == 0
    assert "torch.compile is missing: RuntimeError: no C++ compiler\n" in capsys.readouterr().out


def test_chunks_are_the_batch():
    state, options = peer.weights("test_vit2", 32)
    images = np.random.default_rng(0).standard_normal((3, 32, 32, 3), np.float32)
    whole, parts = (
        peer.to_numpy(infer.timm_call(peer.build("test_vit2", state, options), images, dtype="float32", chunk=chunk)())
        for chunk in (None, 2)
    )
    assert whole.shape == (3, 1000)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_nan_is_a_difference():
    with pytest.raises(peer.OutputsDiffer):
        peer.agree({"nan": lambda: np.array([np.nan])}, np.array([1.0]))


def test_turns():
    turns = []
    calls = {name: lambda name=name: turns.append(name) for name in "ab"}
    times = measure.interleave(calls, 2, least=0.0, after=lambda: turns.append("|"))
    assert "".join(turns) == "aa|bb|bb|aa|"
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    assert measure.spread([1.0, 2.0, 4.0]) == "2.0 [1.0, 4.0]"


def test_help(capsys):
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert "infer" in capsys.readouterr().out

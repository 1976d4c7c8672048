"""`python -m benchmarks --what memory`: one process for each rival, and what it counts."""

import json

import pytest

from benchmarks import memory
from benchmarks.__main__ import main

ARGS = ["--what", "memory", "--of", "train", "--models", "test_vit2", "--size", "32", "--batch", "4", "--rounds", "1"]


@pytest.mark.slow
def test_results(tmp_path, capsys):
    assert main([*ARGS, "--no-torch-compile", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("memory-*.json")
    assert path.with_suffix(".png").stat().st_size > 1000
    (row,) = json.loads(path.read_text())["rows"]
    assert set(row["bytes"]) == {"ours", "timm eager"}
    assert row["ratios"]["timm eager"] == [1.0]
    # The gradients are 1.8 MB; torch has all of them at once, our step updates a parameter when it has its gradient.
    for name, least in {"ours": 0.9e6, "timm eager": 1.8e6}.items():
        assert all(least < found < 300e6 for found in row["bytes"][name]), row["bytes"]
    assert "timm's least: timm eager" in capsys.readouterr().out


def test_peak_is_what_a_call_takes(monkeypatch):
    """32 MiB that are freed again are seen, and not those of the call before."""
    held = []

    def call():
        block = bytearray(2**25)
        held.append(len(block))

    class Task:
        def __init__(self, case):
            self.ours, self.theirs = {"ours": lambda: call}, {}

    monkeypatch.setattr("benchmarks.infer.Task", Task)
    monkeypatch.setattr(memory.peer, "threads", lambda: 1)
    peak, exact = memory.peak("infer", memory.harness.Case("any", None, 1), "ours")
    assert exact
    assert 0.9 < peak / 2**25 < 1.3

"""`port verify` on every kind of network; the whole registry under the `slow` marker."""

import pytest

import nfjax
from nfjax.parity.verify import ODD_SIZE, Row, relative, verify
from port.__main__ import main

# One of each block, stem, attention, activation and padding; sizes that keep the run short.
KINDS = {
    "test_nfnet": None,  # its own size and the odd one
    "eca_nfnet_l0": [ODD_SIZE],
    "dm_nfnet_f0": [ODD_SIZE],
    "nf_regnet_b0": [(64, 96)],
    "nf_seresnet26": [(64, 64), (33, 47)],
}


@pytest.mark.parametrize("name", KINDS)
def test_representative(name):
    check(name, KINDS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", nfjax.list_models())
def test_registry(name):
    check(name, None)


def check(name, sizes):
    rows = list(verify(name, sizes=sizes, x64=True))
    failed = [str(row) for row in rows if not row.ok]
    assert not failed, "\n".join(failed)
    assert {row.dtype for row in rows} == {"bytes", "float32", "float64"}
    assert any(row.stage.startswith("gradients") for row in rows)


def test_a_wrong_model_fails(monkeypatch, capsys):
    """The check can fail: with a different slope in one place, rows fail and the exit code is 1."""
    monkeypatch.setitem(nfjax.nfnet.GAMMA, "silu", nfjax.nfnet.GAMMA["silu"] * (1 + 1e-4))
    assert main(["verify", "test_nfnet", "--size", "64x64"]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_command_passes(capsys):
    assert main(["verify", "test_nfnet", "--size", "64"]) == 0
    out = capsys.readouterr().out
    assert "stages.2" in out
    assert "0 failed" in out


def test_rows_that_must_fail():
    assert not Row("m", "s", "1x1", "float32", float("nan"), 1e-5).ok
    assert relative([0.0], [0.0]) == float("inf")  # an all-zero reference proves nothing
    assert relative([1.0, 2.0], [1.0]) == float("inf")

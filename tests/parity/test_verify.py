"""`port verify` on every kind of network; the whole registry under the `slow` marker."""

import numpy as np
import pytest

import nfjax
from nfjax.parity import oracle
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


def test_random_weights_leave_no_gradient_at_zero():
    """Otherwise a parameter could be compared with nothing."""
    model = oracle.build("test_nfnet", oracle.random_state(oracle.build("test_nfnet")))
    grads = oracle.gradients(model, np.ones((2, 64, 64, 3), np.float32), np.ones((2, 1000), np.float32))
    assert not [name for name, grad in grads.items() if not np.any(grad)]


def test_weights_of_other_sizes(tmp_path, capsys):
    """A fine-tuned file: its classes and input channels are those of both models."""
    nfjax.save(nfjax.load("test_nfnet", weights=None, num_classes=7, in_chans=1), tmp_path)
    assert main(["verify", "test_nfnet", "--size", "64", "--weights", str(tmp_path / "model.safetensors")]) == 0
    assert main(["verify", "nfnet_l0", "--size", "64", "--weights", str(tmp_path / "model.safetensors")]) == 2
    assert "missing" in capsys.readouterr().err


def test_rows_that_must_fail():
    assert not Row("m", "s", "1x1", "float32", float("nan"), 1e-5).ok
    assert relative([1e-30], [0.0]) == float("inf")
    assert relative([float("nan")], [1.0]) != relative([1.0], [1.0])
    assert relative([1.0, 2.0], [1.0]) == float("inf")

"""`port verify` on every kind of network; the whole registry under the `slow` marker."""

import jax
import numpy as np
import pytest

import nfjax
from nfjax import fast
from nfjax.parity import oracle
from nfjax.parity.verify import ODD_SIZE, Row, relative, verify
from port.__main__ import main

# One of each block, stem, attention, activation, padding and pool; sizes and depths that keep the run short:
# test_registry.py compares what follows from the depth for all. test_docs.py runs test_nfnet at its own size.
SHORT = (1, 2, 1, 1)
NARROW = (256, 256, 512, 512)
ODD_MAPS = (33, 47)  # every map but the last has an odd side
KINDS = {
    "test_nfnet": {"sizes": [ODD_SIZE]},
    "eca_nfnet_l0": {"sizes": [ODD_MAPS], "depths": SHORT},
    "dm_nfnet_f0": {"sizes": [ODD_MAPS], "depths": SHORT, "channels": NARROW, "num_features": 512},
    "nf_regnet_b0": {"sizes": [(64, 96)], "depths": SHORT},
    "nf_seresnet26": {"sizes": [ODD_MAPS], "depths": SHORT},
    "test_vit2": {},  # average pool, LayerScale
    "test_vit3": {"sizes": [(64, 96)], "depth": 3},  # attention pool of all tokens
    "test_vit4": {"sizes": [(64, 96)], "depth": 3},  # RMSNorm
    "vit_tiny_patch16_224": {"sizes": [(64, 96)], "depth": 3},  # class token, no LayerScale
    "vit_little_patch16_reg4_gap_256": {"sizes": [(64, 96)], "depth": 3},  # position embedding of patches alone
    "vit_pwee_patch16_reg1_gap_256": {"sizes": [(64, 96)], "depth": 3},
    "vit_dwee_patch16_reg1_gap_256": {"sizes": [(64, 96)], "depth": 3},
    "vit_dpwee_patch16_reg1_gap_256": {"sizes": [(64, 96)], "depth": 3},
    "vit_so150m_patch16_reg4_gap_256": {"sizes": [(32, 48)], "depth": 1},  # norm before the pool
    "vit_so150m_patch16_reg4_map_256": {"sizes": [(32, 48)], "depth": 1},  # attention pool of patches
    "vit_so150m2_patch16_reg1_gap_256": {"sizes": [(32, 48)], "depth": 1},  # no bias of queries, keys, values
    "vit_medium_patch16_rope_reg1_gap_256": {"sizes": [(64, 96)], "depth": 3},
    "vit_mediumd_patch16_rope_reg1_gap_256": {"sizes": [(64, 96)], "depth": 1},  # the same without biases
    "vit_small_patch14_reg4_dinov2": {"sizes": [(42, 70)], "depth": 3},  # class token pooled, no classes
    "vit_tiny_patch16_dinov3_qkvb": {"sizes": [(64, 96)], "depth": 2},  # positions over the image, halves turn
    "vit_small_plus_patch16_dinov3": {"sizes": [(48, 32)], "depth": 1},  # the same with SwiGLU in two layers, no biases
    # Normalised queries and keys, one of them shared; the MLP packed
    "vit_base_patch16_sapiens2": {"sizes": [(32, 48)], "depth": 2, "num_kv_heads": (12, 6)},
    "vit_base_patch16_radio_v3": {"sizes": [(32, 48)], "depth": 1},  # no final norm
    # Images of any size: positions from one table or two, of the grid or of the square around it
    "naflexvit_base_patch16_gap": {"sizes": [(48, 32)], "depth": 1, "embed_dim": 64, "num_heads": 2},
    "naflexvit_base_patch16_parfac_gap": {"sizes": [(48, 32)], "depth": 1, "embed_dim": 64, "num_heads": 2},
    "naflexvit_base_patch16_radio_v3": {"sizes": [(48, 32)], "depth": 1, "embed_dim": 64, "num_heads": 2},
    "vit_giant_patch14_reg4_dinov2": {"sizes": [(28, 42)], "depth": 1},  # SwiGLU
}
# Too large for the memory of a small machine: their depth is cut.
GIANTS = {name for name in nfjax.list_models() if any(part in name for part in ("so400m", "giant", "huge", "5b", "7b"))}


@pytest.mark.parametrize("name", KINDS)
def test_representative(name):
    check(name, **KINDS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", nfjax.list_models())
def test_registry(name):
    check(name, **({"depth": 2} if name in GIANTS else {}))


def check(name, **options):
    rows = list(verify(name, x64=True, **options))
    failed = [str(row) for row in rows if not row.ok]
    assert not failed, "\n".join(failed)
    assert {row.dtype for row in rows} == {"bytes", "float32", "float64"}
    assert any(row.stage.startswith("gradients") for row in rows)


def test_a_wrong_model_fails(monkeypatch, capsys):
    """The check can fail: with jax's default GELU, not the exact one, rows fail and the exit code is 1."""
    monkeypatch.setattr(fast.gelu, "fast", jax.nn.gelu)
    assert main(["verify", "test_vit2", "--size", "64", "--depth", "2"]) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["test_nfnet", "test_vit3", "vit_dwee_patch16_reg1_gap_256"])
def test_random_weights_leave_no_gradient_at_zero(name):
    """Otherwise a parameter could be compared with nothing."""
    options = {} if name == "test_nfnet" else {"img_size": 64, "depth": 2}
    model = oracle.build(name, oracle.random_state(oracle.shapes(name, **options)), **options)
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype("float32")
    grads = oracle.gradients(model, images, np.ones((2, 1000), np.float32))
    assert not [name for name, grad in grads.items() if not np.any(grad)]


def test_depth_cut(capsys):
    assert main(["verify", "test_vit3", "--size", "64x48", "--depth", "2"]) == 0
    out = capsys.readouterr().out
    assert "blocks.1" in out
    assert "0 failed" in out
    assert "blocks.2" not in out
    assert main(["verify", "test_nfnet", "--depth", "2"]) == 2


def test_weights_of_other_sizes(tmp_path, capsys):
    """A fine-tuned file: its classes, input channels and image size are those of both models."""
    nfjax.save(nfjax.load("test_vit2", weights=None, num_classes=7, img_size=64), tmp_path / "vit")
    assert main(["verify", "test_vit2", "--size", "64", "--weights", str(tmp_path / "vit/model.safetensors")]) == 0
    nfjax.save(nfjax.load("test_nfnet", weights=None, num_classes=7, in_chans=1), tmp_path)
    assert main(["verify", "test_nfnet", "--size", "64", "--weights", str(tmp_path / "model.safetensors")]) == 0
    assert "stages.2" in capsys.readouterr().out
    assert main(["verify", "nfnet_l0", "--size", "64", "--weights", str(tmp_path / "model.safetensors")]) == 2
    assert "missing" in capsys.readouterr().err


def test_rows_that_must_fail():
    assert not Row("m", "s", "1x1", "float32", float("nan"), 1e-5).ok
    assert relative([1e-30], [0.0]) == float("inf")
    assert relative([float("nan")], [1.0]) != relative([1.0], [1.0])
    assert relative([1.0, 2.0], [1.0]) == float("inf")

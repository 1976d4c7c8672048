"""ONNX files: what onnxruntime makes of them, what they say of themselves, and what is refused."""

import json

import jax
import numpy as np
import pytest

import nfjax
from nfjax.__main__ import main
from nfjax.onnx import export as module
from nfjax.onnx.reading import load_session
from tests.helpers.shallow import shallow

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIZE = 64
# One of each family, of one block or two.
FAMILIES = {
    "test_vit2": {"depth": 1},
    "nf_regnet_b0": {"depths": (1, 1, 1, 1)},
    "vit_medium_patch16_rope_reg1_gap_256": {"depth": 1, "embed_dim": 64, "num_heads": 2},
    "vit_small_patch14_reg4_dinov2": {"depth": 1, "embed_dim": 64, "num_heads": 2},
    "vit_small_patch16_dinov3": {"depth": 1},
}


def random(count, size=SIZE):
    return np.random.default_rng(count).standard_normal((count, size, size, 3), np.float32)


def relative(found, expected):
    return np.max(np.abs(np.asarray(found) - np.asarray(expected))) / np.max(np.abs(np.asarray(expected)))


@pytest.fixture(scope="module")
def model():
    return nfjax.load("test_nfnet", weights=None, num_classes=10)


def test_any_batch_gives_what_the_model_gives(model, tmp_path):
    found = nfjax.export_onnx(model, tmp_path / "a.onnx", img_size=SIZE)
    assert found.difference <= 1e-5
    assert found.inputs == (("b", SIZE, SIZE, 3), "float32")
    assert found.outputs == {"logits": ("b", 10)}
    session = load_session(found.path)
    for count in (1, 5):
        (logits,) = session.run(None, {"images": random(count)})
        assert relative(logits, jax.jit(model)(random(count))) <= 1e-5
    meta = session.get_modelmeta().custom_metadata_map
    data = model.data_config
    assert (meta["name"], meta["license"], json.loads(meta["input_size"])) == (model.name, data.license, [64, 64, 3])
    assert (tuple(json.loads(meta["mean"])), json.loads(meta["label_names"])) == (data.mean, None)
    assert onnx.load(found.path).opset_import[0].version == found.opset
    assert nfjax.export_onnx(model, tmp_path / "b.onnx", img_size=SIZE).path.read_bytes() == found.path.read_bytes()


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name, tmp_path):
    with shallow({name: FAMILIES[name]}):
        size = None if "nf_" in name else 224
        model = nfjax.load(name, weights=None, num_classes=3, img_size=size)
    assert nfjax.export_onnx(model, tmp_path / "a.onnx", img_size=size or SIZE).difference <= 1e-5


def test_pixels_and_feature_maps(model, tmp_path):
    found = nfjax.export_onnx(model, tmp_path / "a.onnx", img_size=SIZE, uint8=True, batch=2)
    assert found.inputs == ((2, SIZE, SIZE, 3), "uint8")
    assert found.difference <= 1e-5
    maps = nfjax.load("test_nfnet", weights=None, features_only=True, out_indices=[0, 2])
    found = nfjax.export_onnx(maps, tmp_path / "b.onnx", img_size=SIZE)
    assert found.outputs == {"features_0": ("b", 32, 32, 64), "features_1": ("b", 8, 8, 64)}


def test_what_differs_is_not_written(model, tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes(b"before")
    written = module._written
    other = nfjax.load("test_nfnet", weights=None, num_classes=10, seed=1)
    monkeypatch.setattr(module, "_written", lambda model, *rest: written(other, *rest))
    with pytest.raises(
        ValueError, match=r"a.onnx is not written: .* differ from those of test_nfnet\.r160_in1k by \d\.\de"
    ):
        nfjax.export_onnx(model, tmp_path / "a.onnx", img_size=SIZE)
    assert (tmp_path / "a.onnx").read_bytes() == b"before"


def test_mistakes(model, tmp_path):
    half = nfjax.load("test_nfnet", weights=None, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"computes in bfloat16; ONNX files are float32"):
        nfjax.export_onnx(half, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"a\.zip: expected a file name ending in \.onnx"):
        nfjax.export_onnx(model, tmp_path / "a.zip")
    with pytest.raises(ValueError, match=r"expected a file name ending in \.zip; nfjax\.export_onnx writes ONNX"):
        nfjax.export(model, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="batch=0"):
        nfjax.export_onnx(model, tmp_path / "a.onnx", batch=0)


def test_the_command(tmp_path, capsys):
    path = tmp_path / "m.onnx"
    assert main(["export", "test_nfnet", "--weights=none", f"--img-size={SIZE}", "-o", str(path), "--uint8"]) == 0
    out = capsys.readouterr().out
    assert "ONNX opset 21, images (b, 64, 64, 3) uint8, logits (b, 1000)" in out
    assert "in onnxruntime: relative difference to the model" in out
    assert path.is_file()

"""Int8 files: what they hold, which layers stay in float32, and the commands that take them as a model."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax.__main__ import main
from nfjax.onnx import int8 as module
from nfjax.onnx.reading import load_onnx, load_session
from tests.helpers.photos import make_folder
from tests.helpers.shallow import shallow

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIZE, CLASSES = 48, ("brick", "flower")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), train=8, val=2, size=40, classes=CLASSES)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model that tells the photographs apart by more than rounding."""
    with shallow({"test_vit2": {"depth": 1}}):
        model = nfjax.load("test_vit2", weights=None, img_size=SIZE, num_classes=2)
        model.head.kernel.set_value(model.head.kernel.get_value() * 100)
        model.data_config = dataclasses.replace(model.data_config, label_names=CLASSES)
        yield nfjax.save(model, tmp_path_factory.mktemp("saved") / "model")


def test_the_commands(saved, photos, tmp_path, capsys):
    files = {
        "float.onnx": ["--batch-size", "3"],
        "int8.onnx": ["--uint8", "--int8", "--calibrate", str(photos / "train")],
    }
    for name, options in files.items():
        assert main(["export", str(saved), "-o", str(tmp_path / name), *options]) == 0
    told = capsys.readouterr().out
    assert "int8: 0 of 8 images changed their class" in told
    assert "6 of 6 layers in int8, in float32: none" in told

    graph = onnx.load(tmp_path / "int8.onnx").graph
    steps = {t.name: t.dims for t in graph.initializer if t.name.endswith("kernel_scale")}
    kernels = {t.name: t for t in graph.initializer if t.name.endswith("kernel_quantized")}
    assert len(steps) == len(kernels) == 6
    for name, tensor in kernels.items():  # a step for each output
        assert tensor.data_type == onnx.TensorProto.INT8
        assert [*steps[name.replace("_quantized", "_scale")]] == [tensor.dims[-1]]

    models = [str(saved), *(str(tmp_path / name) for name in files)]
    assert main(["evaluate", "--model", *models, "--data", str(photos), "-o", str(tmp_path / "out")]) == 0
    found = [line.split(", ") for line in capsys.readouterr().out.splitlines() if "top-1" in line]
    assert len(found) == 3
    assert found[0][0].partition(": ")[2] == found[1][0].partition(": ")[2] == found[2][0].partition(": ")[2]
    losses = [float(line[1].removeprefix("loss ")) for line in found]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=0.2)

    best = []
    for model in (saved, tmp_path / "int8.onnx"):
        assert main(["classify", str(photos / "val"), "--model", str(model), "--format", "json"]) == 0
        best.append({row["file"]: row["name"] for row in json.loads(capsys.readouterr().out) if row["rank"] == 1})
    assert best[0] == best[1]
    assert set(best[0].values()) <= {*CLASSES}


def test_pixels_are_restored(saved, tmp_path):
    model = nfjax.load(saved)
    nfjax.export_onnx(model, tmp_path / "m.onnx", uint8=True)
    pixels = np.arange(SIZE * SIZE * 3, dtype=np.uint32).astype(np.uint8).reshape(SIZE, SIZE, 3)
    normalised = nfjax.create_transform(model, crop_pct=1)(Image.fromarray(pixels))
    (expected,) = load_session(tmp_path / "m.onnx").run(None, {"images": pixels[None]})
    assert np.array_equal(load_onnx(tmp_path / "m.onnx")(normalised[None]), expected)


@pytest.mark.parametrize(("needed", "kept"), [(0, 0), (1, 1), (5, 5), (7, 7)])
def test_as_few_layers_stay_in_float_as_are_needed(needed, kept, monkeypatch):
    """Of eight layers, of which so many must stay."""
    nodes = [SimpleNamespace(op_type="MatMul", input=["x", f"{i}/kernel"], name="") for i in range(8)]
    names = [SimpleNamespace(name=f"{i}/kernel") for i in range(8)]
    model = SimpleNamespace(graph=SimpleNamespace(node=nodes, initializer=names))
    monkeypatch.setattr(onnx, "load_from_string", lambda content: model)
    monkeypatch.setattr(module, "_by_noise", lambda *args: [str(i) for i in (3, 1, 0, 2, 4, 5, 6, 7)])
    monkeypatch.setattr(module, "_quantised", lambda model, nodes, *rest: bytes(len(nodes)))
    judge = lambda content, images, batch: np.full(len(images), len(content) > 8 - needed)  # noqa: E731
    monkeypatch.setattr(
        module, "_classes", lambda content, *rest: judge(content if content != b"float" else b"", *rest)
    )
    content, found = module.quantise(b"float", np.zeros((20, 1)), None)
    assert (len(content), found.layers, found.changed) == (8 - kept, 8, 0)
    assert found.in_float == tuple(sorted([str(i) for i in (3, 1, 0, 2, 4, 5, 6, 7)][:kept]))


def test_noisy_layers_come_first():
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    even, spiky = rng.uniform(-1, 1, (2, 4, 4)).astype(np.float32)
    spiky[0] = 100
    nodes = [
        helper.make_node("MatMul", ["images", "a"], ["y"], name="a"),
        helper.make_node("MatMul", ["y", "b"], ["z"], name="b"),
    ]
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 4])  # noqa: E731
    kernels = [numpy_helper.from_array(even, "a"), numpy_helper.from_array(spiky, "b")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [value("images")], [value("z")], kernels),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10,
    )  # fmt: skip
    images = rng.uniform(-1, 1, (8, 4)).astype(np.float32)
    assert module._by_noise(model, {"a": ["a"], "b": ["b"]}, images, None) == ["b", "a"]


def test_mistakes(saved, photos, tmp_path, capsys):
    def said(*arguments):
        assert main([*map(str, arguments)]) in (1, 2)
        return capsys.readouterr().err

    path = tmp_path / "m.onnx"
    assert "--int8 and --calibrate IMAGES go together" in said("export", saved, "-o", path, "--int8")
    assert "is for an ONNX file" in said("export", saved, "-o", tmp_path / "m.zip", "--int8", "--calibrate", photos)
    assert "nowhere is no file, folder or pattern" in said(
        "export", saved, "-o", path, "--int8", "--calibrate", "nowhere"
    )
    few = photos / "val" / "brick"
    assert "2 images to calibrate on; expected at least 8" in said(
        "export", saved, "-o", path, "--int8", "--calibrate", few
    )
    with pytest.raises(ValueError, match=r"expected float32 \(images, 48, 48, 3\); uint8 \(9, 48, 48, 3\)"):
        nfjax.export_onnx(nfjax.load(saved), path, calibrate=np.zeros((9, SIZE, SIZE, 3), np.uint8))
    with pytest.raises(ValueError, match="has no classifier, and int8 is judged by classes"):
        nfjax.export_onnx(nfjax.load(saved, num_classes=0), path, calibrate=np.zeros((9, SIZE, SIZE, 3), np.float32))
    assert not path.exists()
    assert "there is no file" in said("classify", photos, "--model", path)
    path.write_bytes(b"no graph")
    assert "is no ONNX file that onnxruntime reads" in said("classify", photos, "--model", path)
    assert "is no ONNX file that onnxruntime reads" in said(
        "evaluate", "--data", photos, "--model", path, "-o", tmp_path / "o"
    )
    assert "take such as a model" in said("embed", photos, "--model", path, "-o", tmp_path / "e.npz")
    assert "leave out --img-size" in said("classify", photos, "--model", path, "--img-size", "64")
    image, out = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in ("images", "logits"))
    node = onnx.helper.make_node("Identity", ["images"], ["logits"])
    foreign = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [image], [out]),
        opset_imports=[onnx.helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.save(foreign, path)
    assert "does not say name, mean" in said("classify", photos, "--model", path)

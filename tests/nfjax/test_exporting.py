"""`nfjax.export` and `nfjax.load_exported`: the file computes what the model computes, anywhere, or says why not."""

import functools
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export as jax_export

import nfjax
from nfjax.__main__ import main
from nfjax.params import fill, merge, named_params, split
from nfjax.serving import ExportedFileError
from port.text import file_size

ROOT = Path(__file__).parent.parent.parent
SIZE = 64
OPTIONS = {"test_nfnet": {}, "test_vit2": {"depth": 2}}


def load(name, **options):
    """A small model in which every parameter is random, also those that are 0 at first."""
    model = nfjax.load(name, weights=None, num_classes=10, img_size=SIZE, **OPTIONS[name], **options)
    rng = np.random.default_rng(0)
    variables = named_params(model)
    shapes = {path: var.get_value().shape for path, var in variables.items()}
    fill(
        variables,
        {
            path: rng.uniform(0.5, 1.0, shape) if len(shape) == 1 else rng.standard_normal(shape) * 0.1
            for path, shape in shapes.items()
        },
        np.float32,
    )
    return model


def images(batch, size=SIZE):
    """The first of five random images."""
    return np.random.default_rng(size).standard_normal((5, size, size, 3), np.float32)[:batch]


@functools.cache
def logits(name, size=SIZE):
    """Of all five: those of a part of them are a part of these. Compiled once for all tests."""
    return np.asarray(jax.jit(nfjax.fold(load(name)))(images(5, size)))


def relative(found, expected):
    found, expected = np.asarray(found, np.float32), np.asarray(expected, np.float32)
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 1e-2
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def nfnet():
    return load("test_nfnet")


@pytest.fixture(scope="module")
def folder(nfnet, tmp_path_factory):
    """The same network with the weights inside and beside."""
    folder = tmp_path_factory.mktemp("exported")
    nfjax.export(nfnet, folder / "inside.zip")
    nfjax.export(nfnet, folder / "beside.zip", weights="beside")
    return folder


# Imports the file alone, as a server would that has a copy of it; then reads the program with jax only.
SERVER = """
import importlib.util, json, sys, zipfile
for package in ("flax", "nfjax", "port", "optax", "huggingface_hub", "flatbuffers"):
    sys.modules[package] = None
import jax, numpy as np
from jax import export
spec = importlib.util.spec_from_file_location("serving", sys.argv[1])
serving = importlib.util.module_from_spec(spec)
spec.loader.exec_module(serving)
try:
    serving.load_exported(sys.argv[3])
except ImportError as error:
    assert "pip install flatbuffers" in str(error), error
else:
    raise AssertionError("read without flatbuffers")
del sys.modules["flatbuffers"]
x = np.load(sys.argv[2])
for number, path in enumerate(sys.argv[3:]):
    np.save(f"{path}.npy", serving.load_exported(path)(x))
with zipfile.ZipFile(sys.argv[3]) as archive:
    program = export.deserialize(bytearray(archive.read("model.stablehlo")))
np.save("plain.npy", jax.jit(program.call)(x))
"""


@pytest.mark.parametrize("name", OPTIONS)
def test_any_batch_gives_what_the_model_gives(name, tmp_path):
    model = load(name)
    exported = nfjax.load_exported(nfjax.export(model, tmp_path / "a.zip"))
    for batch in (1, 2, 5):
        assert relative(exported(images(batch)), logits(name)[:batch]) <= 1e-6
    assert relative(exported(images(5)), jax.jit(model)(images(5))) <= 1e-5
    config = exported.config
    assert config["platforms"] == ["cpu", "cuda", "tpu"]
    assert config["input"] == {
        "shape": ["b", SIZE, SIZE, 3],
        "dtype": "float32",
        "layout": "NHWC",
        "normalised": True,
    }
    assert config["outputs"] == [{"shape": ["b", 10], "dtype": "float32"}]
    assert (config["name"], config["num_classes"], config["versions"]["jax"]) == (model.name, 10, jax.__version__)
    assert (tuple(config["mean"]), tuple(config["std"])) == (model.data_config.mean, model.data_config.std)


def test_without_flax_and_nfjax(folder, tmp_path):
    np.save(tmp_path / "x.npy", images(3))
    files = [str(folder / f"{where}.zip") for where in ("inside", "beside")]
    command = [sys.executable, "-c", SERVER, str(ROOT / "nfjax/serving.py"), str(tmp_path / "x.npy"), *files]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for path in (*(f"{file}.npy" for file in files), tmp_path / "plain.npy"):
        assert relative(np.load(path), logits("test_nfnet")[:3]) <= 1e-6


def test_weights_beside_have_the_paths_of_the_folded_model(nfnet, folder):
    from safetensors.numpy import load_file

    params = split(nfjax.fold(nfnet))[1]
    beside = load_file(folder / "beside.safetensors")
    assert beside.keys() == params.keys()
    assert all(np.array_equal(beside[path], params[path]) for path in params)
    config = nfjax.load_exported(folder / "beside.zip").config
    digest = hashlib.sha256((folder / "beside.safetensors").read_bytes()).hexdigest()
    assert config["sha256"][config["weights"]] == digest
    assert (folder / "beside.zip").stat().st_size < 0.1 * (folder / "inside.zip").stat().st_size
    (folder / "moved.zip").write_bytes((folder / "beside.zip").read_bytes())
    (folder / "beside.safetensors").rename(folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"needs its weights, beside.safetensors, beside it"):
        nfjax.load_exported(folder / "beside.zip")
    (folder / "elsewhere").rename(folder / "beside.safetensors")


def test_uint8_images_are_normalised_in_the_program(tmp_path):
    model = load("test_vit2")
    exported = nfjax.load_exported(nfjax.export(model, tmp_path / "a.zip", uint8=True))
    x = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    data = model.data_config
    normalised = (x / np.float32(255) - np.float32(data.mean)) / np.float32(data.std)
    assert relative(exported(x), jax.jit(nfjax.fold(model))(normalised.astype(np.float32))) <= 1e-6
    with pytest.raises(ValueError, match=r"dtype float32; .* exported for uint8, RGB from 0 to 255"):
        exported(images(2))
    grey = nfjax.load("test_nfnet", weights=None, in_chans=1)
    with pytest.raises(ValueError, match=r"mean and std per channel: found 3, expected 1"):
        nfjax.export(grey, tmp_path / "grey.zip", uint8=True)


def test_any_image_size_of_a_convolutional_model(nfnet, tmp_path):
    exported = nfjax.load_exported(nfjax.export(nfnet, tmp_path / "a.zip", dynamic_size=True))
    for size in (64, 96):
        assert relative(exported(images(5, size)), logits("test_nfnet", size)) <= 1e-6
    with pytest.raises(ValueError, match=r"shape \(2, 65, 65, 3\); .* exported for \(b, 32\*h, 32\*w, 3\)"):
        exported(images(2, 65))
    with pytest.raises(ValueError, match=r"is a transformer"):
        nfjax.export(load("test_vit2"), tmp_path / "b.zip", dynamic_size=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_half_precision(name, tmp_path):
    model = load(name, dtype=jnp.bfloat16)
    exported = nfjax.load_exported(nfjax.export(model, tmp_path / "a.zip", batch=2))
    assert exported.config["compute_dtype"] == "bfloat16"
    assert relative(exported(images(2)), jax.jit(nfjax.fold(model))(images(2))) <= 1e-2
    assert relative(exported(images(2)), logits(name)[:2]) > 1e-4  # if it were float32, it would be 1e-7


def test_a_gpu_at_home_changes_nothing(tmp_path, monkeypatch):
    """On a GPU a half-precision transformer attends with a kernel that other platforms do not have."""
    model = load("test_vit2", dtype=jnp.bfloat16)
    here = nfjax.export(model, tmp_path / "here.zip").read_bytes()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = nfjax.export(model, tmp_path / "there.zip").read_bytes()
    assert there == here


def test_feature_maps(tmp_path):
    model = nfjax.load("test_nfnet", weights=None, features_only=True, out_indices=[0, 2])
    exported = nfjax.load_exported(nfjax.export(model, tmp_path / "a.zip", img_size=SIZE))
    assert [output["shape"] for output in exported.config["outputs"]] == [["b", 32, 32, 64], ["b", 8, 8, 64]]
    for found, expected in zip(exported(images(2)), jax.jit(nfjax.fold(model))(images(2)), strict=True):
        assert relative(found, expected) <= 1e-6


def test_same_model_same_bytes_and_no_names_of_folders(nfnet, tmp_path):
    first, second = (nfjax.export(nfnet, tmp_path / f"{i}.zip").read_bytes() for i in range(2))
    assert first == second
    assert b"nfnet.py" in first
    assert b"nfjax/models/nfnet.py" not in first
    assert str(ROOT).encode() not in first


@pytest.mark.parametrize("name", OPTIONS)
def test_stablehlo_text(name, tmp_path):
    model = load(name)
    text = nfjax.export(model, tmp_path / "a.mlir", format="stablehlo-text", batch=1).read_text()
    assert f"func.func public @main(%arg0: tensor<1x{SIZE}x{SIZE}x3xf32>" in text
    assert "custom_call" not in text  # which another compiler would not know
    path = nfjax.export(model, tmp_path / "b.mlir", format="stablehlo-text", weights="beside", batch=1)
    paths = sorted(split(nfjax.fold(model))[1])
    positions = [path.read_text().index(f"params['{p}']") for p in paths]
    assert positions == sorted(positions)
    assert path.with_suffix(".safetensors").is_file()


def test_precision_is_that_of_the_export(nfnet, tmp_path):
    with jax.default_matmul_precision("highest"):
        path = nfjax.export(nfnet, tmp_path / "a.mlir", format="stablehlo-text", weights="beside", batch=1)
    assert "HIGHEST" in path.read_text()


def damaged(content, where):
    """The file with one byte changed, or cut in half."""
    if where == "cut":
        return content[: len(content) // 2]
    position = {"start": 0, "config": 200, "program": len(content) // 2, "end": len(content) - 10}[where]
    return content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :]


@pytest.mark.parametrize("where", ["start", "config", "program", "end", "cut"])
def test_damage_is_found(where, folder, tmp_path):
    content = (folder / "inside.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(damaged(content, where))
    with pytest.raises(ExportedFileError, match=r"a\.zip is damaged"):
        nfjax.load_exported(tmp_path / "a.zip")


def test_damaged_weights_and_strange_files(folder, tmp_path):
    (tmp_path / "a.zip").write_bytes((folder / "beside.zip").read_bytes())
    weights = (folder / "beside.safetensors").read_bytes()
    (tmp_path / "beside.safetensors").write_bytes(damaged(weights, "program"))
    with pytest.raises(ExportedFileError, match=r"beside.safetensors is damaged or belongs to another export: sha256"):
        nfjax.load_exported(tmp_path / "a.zip")

    with zipfile.ZipFile(folder / "inside.zip") as archive:
        config, program = json.loads(archive.read("config.json")), archive.read("model.stablehlo")

    def rewrite(config, program):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("model.stablehlo", program)
        return tmp_path / "a.zip"

    with pytest.raises(ExportedFileError, match=r"sha256 of model.stablehlo"):  # another program, a valid zip
        nfjax.load_exported(rewrite(config, program[:-1]))
    with pytest.raises(ExportedFileError, match=r"format and version \('nfjax-export', 2\); expected"):
        nfjax.load_exported(rewrite(config | {"version": 2}, program))
    with pytest.raises(ExportedFileError, match=r"format and version \(None, None\)"):
        nfjax.load_exported(rewrite({}, program))
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(ExportedFileError, match=r"not an exported model \(0 bytes\)"):
        nfjax.load_exported(tmp_path / "a.zip")
    with pytest.raises(FileNotFoundError, match=r"no exported model at .*none\.zip"):
        nfjax.load_exported(tmp_path / "none.zip")


def test_what_a_call_refuses(nfnet, folder, tmp_path):
    exported = nfjax.load_exported(folder / "inside.zip")
    with pytest.raises(ValueError, match=r"shape \(2, 3, 64, 64\); .* exported for \(b, 64, 64, 3\)"):
        exported(images(2).transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"shape \(64, 64, 3\)"):
        exported(images(1)[0])
    with pytest.raises(ValueError, match=r"shape \(0, 64, 64, 3\)"):
        exported(images(1)[:0])
    with pytest.raises(ValueError, match=r"dtype uint8; .* exported for float32, normalised"):
        exported(np.zeros((2, SIZE, SIZE, 3), np.uint8))
    elsewhere = nfjax.load_exported(nfjax.export(nfnet, tmp_path / "a.zip", platforms=["cuda", "tpu"], batch=2))
    with pytest.raises(ValueError, match=r"exported for cuda, tpu, and this is cpu: set JAX_PLATFORMS"):
        elsewhere(images(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"platforms": ["gpu"]}, r"platforms gpu; choose from cpu, cuda, tpu, rocm"),
        ({"platforms": []}, r"platforms empty"),
        ({"batch": 0}, r"batch=0; expected at least 1"),
        ({"dynamic_size": True, "img_size": 64}, r"img_size fixes it"),
        ({"format": "stablehlo-text"}, r"expected a file name ending in \.mlir"),
    ],
)
def test_what_export_refuses(nfnet, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        nfjax.export(nfnet, tmp_path / "a.zip", **options)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported(nfnet, tmp_path, monkeypatch, x64):
    with pytest.raises(ValueError, match=r"float64"):
        nfjax.export(nfjax.load("test_nfnet", weights=None, dtype=jnp.float64), tmp_path / "a.zip")
    vit = nfjax.load("vit_tiny_patch16_224", weights=None, img_size=64, depth=1)
    with pytest.raises(ValueError, match=r"loaded for 64x64.*img_size=\(96, 96\)"):
        nfjax.export(vit, tmp_path / "a.zip", img_size=96)
    monkeypatch.setattr(sys.modules["nfjax.exporting"], "MAX_INSIDE", 1000)  # nfjax.export itself is the function
    with pytest.raises(ValueError, match=r"do not fit .* weights='beside'"):
        nfjax.export(nfnet, tmp_path / "a.zip")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'nfjax\[export\]'"):
        nfjax.export(nfnet, tmp_path / "a.zip")


def test_command_line(tmp_path, capsys, monkeypatch):
    nfjax.save(load("test_vit2"), tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "local-dir:saved", "-o", "out/net.zip", "--weights-in", "beside", "--uint8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    digest = hashlib.sha256(Path("out/net.zip").read_bytes()).hexdigest()
    assert lines[0] == f"out/net.zip: {file_size(Path('out/net.zip').stat().st_size)}, sha256 {digest}"
    assert lines[1].startswith("out/net.safetensors: ")
    assert lines[2] == "input (b, 64, 64, 3) uint8, output (b, 10) float32, for cpu, cuda, tpu"
    assert [line.split(":")[0] for line in lines[3:]] == ["batch of 2", "batch of 3"]
    assert all(line.endswith("pass") for line in lines[3:])

    assert main(["export", "local-dir:saved", "--batch", "2", "--platforms", "tpu"]) == 0
    assert "not compared with the model: this machine is cpu." in capsys.readouterr().out
    assert Path(f"{load('test_vit2').name}.zip").is_file()
    assert main(["export", "local-dir:saved", "-o", "net.txt"]) == 2
    assert "error: net.txt: expected a file name ending in .zip" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "examples:" in capsys.readouterr().out


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.0001, 1), (np.nan, 1)])
def test_command_line_finds_another_function(factor, code, tmp_path, capsys, monkeypatch):
    nfjax.save(load("test_vit2"), tmp_path / "saved")
    genuine = nfjax.load_exported

    def altered(path):
        exported = genuine(path)
        call = exported._call
        exported._call = lambda *args: call(*args) * factor
        return exported

    monkeypatch.setattr(nfjax, "load_exported", altered)
    assert main(["export", f"local-dir:{tmp_path / 'saved'}", "-o", str(tmp_path / "a.zip"), "--batch", "1"]) == code
    assert ("FAIL" in capsys.readouterr().out) == bool(code)


@pytest.mark.slow
@pytest.mark.parametrize("name", nfjax.list_models())
def test_every_model_lowers(name):
    """For the three platforms and any batch; shapes suffice, nothing is drawn and nothing compiled."""
    from nfjax.models import registry

    entry = registry.MODELS[name]
    options = {"depth": 2} if hasattr(entry.config, "depth") else {}
    if heads := getattr(entry.config, "num_kv_heads", None):  # one for each block
        options["num_kv_heads"] = heads[:2]
    model = entry.build(**options)
    graphdef, _ = nnx.split(model)
    params = {path: var.get_value() for path, var in named_params(model).items()}
    shape = jax_export.symbolic_shape(f"b, {', '.join(map(str, entry.data[0].input_size[1:]))}, 3")
    step = jax.jit(lambda params, x: merge(graphdef, params)(x))
    program = jax_export.export(step, platforms=("cpu", "cuda", "tpu"))(
        params, jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert str(program.out_avals[0].shape) == f"(b, {model.num_classes or model.head_hidden_size})"

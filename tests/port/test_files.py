"""Weight files: what is read, and what is refused with which words."""

import argparse
import json
import os
import pickle
import sys
from pathlib import Path, PureWindowsPath

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import nfjax
import port
from port import WeightsError, WeightsFileError, read_weights, write_safetensors
from port.__main__ import main


@pytest.fixture(scope="module")
def state():
    rng = np.random.default_rng(0)
    fresh = nfjax.state_dict(nfjax.load("test_nfnet", weights=None))
    return {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in fresh.items()}


@pytest.fixture
def file(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def assert_same(found, expected):
    assert set(found) == set(expected)
    assert all(found[k].tobytes() == expected[k].tobytes() for k in expected)


def test_an_empty_path_is_not_the_working_directory():
    for call in (port.read_weights, lambda path: nfjax.load("test_nfnet", path), lambda path: nfjax.save(None, path)):
        with pytest.raises(ValueError, match="the path is empty"):
            call("")


def test_safetensors_is_mapped(file, state):
    read = read_weights(file)
    assert_same(read, state)
    assert all(not array.flags.writeable and not array.flags.owndata for array in read.values())


def test_the_model_owns_its_weights(file, state):
    """Neither the file nor the caller's arrays are shared: both may change after loading."""
    mapping = {k: v.copy() for k, v in state.items()}
    models = nfjax.load("test_nfnet", weights=file), nfjax.load("test_nfnet", weights=mapping)
    for array in mapping.values():
        array[...] = 0
    with file.open("r+b") as stream:
        stream.seek(-1000, os.SEEK_END)
        stream.write(bytes(1000))
    for model in models:
        assert_same(nfjax.state_dict(model), state)


def test_folder(file, state):
    assert_same(read_weights(file.parent), state)


def test_prefixes_in_safetensors(state, tmp_path):
    save_file({f"module.{k}": v for k, v in state.items()}, tmp_path / "a.safetensors")
    assert_same(read_weights(tmp_path / "a.safetensors"), state)
    save_file({"module.a": np.zeros(1), "a": np.zeros(1)}, tmp_path / "b.safetensors")
    assert set(read_weights(tmp_path / "b.safetensors")) == {"module.a", "a"}  # it is not guessed which is meant


def shard(state, folder):
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for part, keys in parts.items():
        save_file({k: state[k] for k in keys}, folder / part)
    index = {"metadata": {}, "weight_map": {k: part for part, keys in parts.items() for k in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return list(parts)


def test_shards(state, tmp_path):
    parts = shard(state, tmp_path)
    assert_same(read_weights(tmp_path), state)
    assert_same(read_weights(tmp_path / "model.safetensors.index.json"), state)
    save_file({"stranger": np.zeros(1)}, tmp_path / parts[1])
    with pytest.raises(WeightsFileError, match=r"does not hold what .* says.*unexpected \['stranger'\]"):
        read_weights(tmp_path)
    (tmp_path / parts[0]).unlink()
    with pytest.raises(FileNotFoundError, match="names 1 files that are not beside it: model-00001"):
        read_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(WeightsFileError, match="not an index"):
        read_weights(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 200, 20_000, -1])
def test_truncated_safetensors(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(WeightsFileError, match=r"model\.safetensors is not a valid safetensors file \(\d+ bytes\)"):
        nfjax.load("test_nfnet", weights=file)


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html>404</html>" * 50,
        b"\xff" * 5000,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:",
    ],
    ids=["html", "noise", "lfs pointer"],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_files_of_another_kind(content, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsFileError, match=f"model{suffix}"):
        read_weights(path)


def test_corrupt_header(file):
    data = bytearray(file.read_bytes())
    at = data.index(b'"data_offsets":[') + 16
    data[at : at + 1] = b"9"
    file.write_bytes(data)
    with pytest.raises(WeightsFileError, match="not a valid safetensors file"):
        read_weights(file)


def test_unreadable_dtype(tmp_path):
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(WeightsFileError, match=r"dtypes that cannot be read: \{'a': 'F8_E4M3'\}"):
        read_weights(tmp_path / "a.safetensors")


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(zipped, tmp_path):
    import torch

    evidence, path = tmp_path / "evidence", tmp_path / "model.pth"
    content = {"state_dict": {"a": torch.zeros(2)}, "extra": Bomb(evidence)}
    torch.save(content, path) if zipped else path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(WeightsFileError, match="nothing in it was executed"):
        nfjax.load("test_nfnet", weights=path)
    assert not evidence.exists()


def test_what_trainers_keep_beside_the_weights(tmp_path):
    import torch

    beside = {
        "args": argparse.Namespace(lr=0.1, output=Path("runs"), seen=PureWindowsPath("C:/runs")),
        "best": np.float64(0.5),
        "seen": [np.int64(3), np.bool_(True), np.arange(3.0)],
    }
    torch.save({"state_dict": {"module.a": torch.arange(3.0)}, **beside}, tmp_path / "model.pth")
    state = read_weights(tmp_path / "model.pth")
    assert list(state) == ["a"]
    np.testing.assert_array_equal(state["a"], [0, 1, 2])


def test_what_is_refused_is_named(tmp_path):
    import torch

    torch.save({"state_dict": {"a": torch.ones(2)}, "rate": Bomb(tmp_path / "evidence")}, tmp_path / "model.pth")
    with pytest.raises(
        WeightsFileError, match=r"names posix\.system, which runs code .*torch\.save\(model\.state_dict"
    ) as error:
        read_weights(tmp_path / "model.pth")
    assert "\x1b" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mapping_is_read_as_a_file_is(tmp_path):
    """Of torch tensors in bfloat16 that require gradients, wrapped and with a prefix; of jax arrays as well."""
    import torch

    model = nfjax.load("test_nfnet", weights=None, seed=3)
    state = nfjax.state_dict(model)
    tensors = {f"module.{k}": torch.nn.Parameter(torch.tensor(v).to(torch.bfloat16)) for k, v in state.items()}
    rounded = {k: jnp.asarray(v, jnp.bfloat16) for k, v in state.items()}
    for mapping in ({"epoch": 3, "state_dict": tensors}, tensors, rounded):
        found = nfjax.state_dict(nfjax.load("test_nfnet", mapping))
        for name, array in rounded.items():
            np.testing.assert_array_equal(found[name], np.asarray(array, np.float32))
    with pytest.raises(
        WeightsFileError, match=r"the given mapping: entries that are not arrays: a \(str\)\. Expected a state dict"
    ):
        nfjax.load("test_nfnet", {"a": "b"})


def test_truncated_pickle(tmp_path):
    import torch

    path = tmp_path / "model.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(WeightsFileError, match=r"not a readable torch file \(1500 bytes\)"):
        read_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, {"state_dict": 7}], ids=str)
def test_pickles_without_weights(content, tmp_path):
    import torch

    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(WeightsFileError, match=r"model\.pth"):
        read_weights(tmp_path / "model.pth")


def test_torch_is_not_needed(tmp_path, monkeypatch):
    import torch

    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "model.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    np.testing.assert_array_equal(read_weights(tmp_path / "model.pth")["a"], [1, 1])


def test_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_weights(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no weights in .*expected one of model\.safetensors"):
        read_weights(tmp_path)
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(WeightsFileError, match=r"unknown kind of weights file '\.h5'"):
        read_weights(tmp_path / "weights.h5")
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"a": np.zeros(1)}, tmp_path / name)
    with pytest.raises(WeightsFileError, match=r"several weights files \(a\.safetensors, b\.safetensors\)"):
        read_weights(tmp_path)


def test_writing_views_and_replacing(tmp_path):
    """Transposed views are written as they look, and a file is replaced whole."""
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    path = tmp_path / "deep" / "a.safetensors"
    write_safetensors({"a": array}, path)
    write_safetensors({"a": array.T, "scalar": np.float32(3).reshape(())}, path)
    read = read_weights(path)
    np.testing.assert_array_equal(read["a"], array.T)
    assert read["scalar"].shape == ()
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_one_error_names_everything(state):
    wrong = dict(state)
    del wrong["stem.conv2.bias"], wrong["head.fc.bias"]
    wrong["extra.weight"], wrong["more"] = np.zeros((2, 2)), np.zeros(3)
    wrong["stages.0.0.conv1.gain"] = np.zeros((5, 1, 1, 1))
    wrong["final_conv.weight"] = wrong["final_conv.weight"].T
    with pytest.raises(WeightsError) as caught:
        nfjax.load("test_nfnet", weights=wrong)
    message = str(caught.value)
    for part in (
        "2 missing", "stem.conv2.bias (32,)", "head.fc.bias (1000,)", "2 unexpected", "extra.weight (2, 2)",
        "more (3,)", "2 wrong shape", "stages.0.0.conv1.gain: found (5, 1, 1, 1), expected (8, 1, 1, 1)",
        "final_conv.weight: found (1, 1, 128, 192), expected (192, 128, 1, 1)",
    ):  # fmt: skip
        assert part in message
    assert isinstance(caught.value, ValueError)


def test_public_names():
    assert set(port.__all__) <= set(dir(port))


@pytest.mark.parametrize("command", ["convert", "export", "verify"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"python -m port {command} " in capsys.readouterr().out.split("example")[-1]

"""What is taken of a checkpoint: the key, the prefix, what is said of it, what is refused; of files and in memory."""

import logging
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import nfjax
from port import WeightsError, WeightsFileError, read_weights
from port.__main__ import main
from port.unwrap import common_prefix, state_in, take

RAW, MEAN = {"a.w": torch.zeros(2), "b": torch.zeros(1)}, {"a.w": torch.ones(2), "b": torch.ones(1)}
HEAD = {"dino_head.w": torch.ones(1)}


def named(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


# What a checkpoint holds; `weights_key`; what is said; whether the averaged weights are taken.
TAKEN = [
    (RAW, None, "", False),
    ({"state_dict": RAW, "epoch": 3}, None, "taken from 'state_dict'", False),
    ({"state_dict": RAW, "best_score": torch.ones(())}, None, "taken from 'state_dict'", False),
    ({"model_state_dict": RAW, "model": "resnet"}, None, "taken from 'model_state_dict'", False),
    ({"net": RAW}, None, "taken from 'net'", False),
    ({"module": RAW}, None, "taken from 'module'", False),
    ({"state_dict": RAW, "state_dict_ema": MEAN}, None, "taken from 'state_dict_ema' (also there: 'state_dict')", True),
    ({"state_dict": RAW, "state_dict_ema": MEAN}, "state_dict",
     "taken from 'state_dict' (also there: 'state_dict_ema')", False),
    ({"model": RAW, "model_ema": {"module": MEAN}}, None, "taken from 'model_ema.module' (also there: 'model')", True),
    ({"student": RAW, "teacher": MEAN}, None, "taken from 'teacher' (also there: 'student')", True),
    ({"student": RAW, "teacher": MEAN}, "student", "taken from 'student' (also there: 'teacher')", False),
    ({"model": {"ema": {"state_dict": MEAN}}}, None, "taken from 'model.ema.state_dict'", True),
    (named("module.", RAW), None, "without the prefix 'module.' of all names", False),
    (named("_orig_mod.module.", RAW), None, "without the prefix '_orig_mod.module.' of all names", False),
    ({"state_dict": named("model.backbone.", RAW)}, None,
     "taken from 'state_dict' without the prefix 'model.backbone.' of all names", False),
    (named("net.encoder.module._orig_mod.", RAW), None,
     "without the prefix 'net.encoder.module._orig_mod.' of all names", False),
    ({"teacher": named("backbone.", MEAN) | HEAD}, "teacher.backbone",
     "taken from 'teacher.backbone' (1 array left out: dino_head.w)", True),
    ({"teacher": named("backbone.", MEAN) | HEAD}, "backbone",
     "taken from 'teacher.backbone' (1 array left out: dino_head.w)", True),
    ({"state_dict": named("model.module.", RAW) | {"loss.weight": torch.ones(3)}}, "state_dict.model",
     "taken from 'state_dict.model' without the prefix 'module.' of all names (1 array left out: loss.weight)", False),
    ({"generator": RAW}, "generator", "taken from 'generator'", False),
    ({"a.b": {"c": RAW}, "a": {"x": 1}}, "a.b.c", "taken from 'a.b.c'", False),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["mapping", "file", "older file"])
@pytest.mark.parametrize(("content", "key", "said", "averaged"), TAKEN)
def test_what_is_taken_is_said(content, key, said, averaged, kind, tmp_path, caplog):
    if kind == "mapping":
        source, found = "the given mapping", state_in(content, "the given mapping", key)
    else:
        source = tmp_path / "last.ckpt"
        torch.save(content, source, _use_new_zipfile_serialization=kind == "file")
        found = read_weights(source, weights_key=key)
    assert {name: array.tolist() for name, array in found.items()} == {
        name: value.tolist() for name, value in (MEAN if averaged else RAW).items()
    }
    assert [record.getMessage() for record in caplog.records] == ([f"{source}: {said}."] if said else [])


# What is refused, with which words.
REFUSED = [
    ({}, None, "an empty dict"),
    ({"epoch": 3}, None, r"entries that are not arrays: epoch \(int\)\. Expected a state dict"),
    ({"generator": RAW, "epoch": 3}, None, r"Arrays are under 'generator': weights_key='generator'\."),
    ({"state_dict": {**RAW, "n": 3}}, None, r"entries that are not arrays: n \(int\)"),
    ({"state_dict": RAW, "epoch": 3}, "ema", r"has nothing under weights_key='ema'; there are 'state_dict', 'a'\."),
    ({"state_dict": RAW}, "state_dict.c", "nothing under weights_key='state_dict.c'"),
    ({"optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}}, "optimizer", "entries that are not arrays"),
]


@pytest.mark.parametrize("kind", ["mapping", "file"])
@pytest.mark.parametrize(("content", "key", "message"), REFUSED)
def test_what_is_refused(content, key, message, kind, tmp_path):
    torch.save(content, tmp_path / "last.ckpt")
    read = {
        "mapping": lambda: state_in(content, "the given mapping", key),
        "file": lambda: read_weights(tmp_path / "last.ckpt", weights_key=key),
    }
    with pytest.raises(WeightsFileError, match=message) as error:
        read[kind]()
    assert "\n" not in str(error.value)


def test_prefixes_are_never_guessed_piecewise():
    assert common_prefix(["module.a", "module.model.b"]) == "module."
    assert common_prefix(["module.a", "model.b"]) == ""
    assert common_prefix(["encoder.layer.0", "embeddings.w"]) == ""
    assert common_prefix(["modules.a"]) == common_prefix([]) == ""
    state = nfjax.state_dict(nfjax.load("test_nfnet", None))
    lightning = named("model.", state) | {"criterion.weight": np.ones(5, np.float32)}
    with pytest.raises(WeightsError, match=r"some names begin with 'model\.' \(\d+: .*others do not \(1: criterion"):
        nfjax.load("test_nfnet", {"state_dict": lightning})
    for key in ("model", "state_dict.model"):
        assert nfjax.load("test_nfnet", {"state_dict": lightning}, weights_key=key).num_classes == 1000
    half = {name if i % 2 else f"module.{name}": array for i, (name, array) in enumerate(state.items())}
    with pytest.raises(WeightsError, match=r"some names begin with 'module\.'.* and others do not"):
        nfjax.load("test_nfnet", half)


def test_nothing_is_read_to_decide():
    """Of arrays only names, shapes and dtypes are looked at."""

    class Unreadable:
        shape, dtype = (3,), np.dtype("float32")

        def __array__(self, dtype=None, copy=None):
            raise AssertionError

    assert list(take({"state_dict": {"module.a": Unreadable()}}, "x").arrays) == ["a"]


def test_weights_key_of_other_files(tmp_path, caplog):
    save_file({"model.a": np.ones(1), "b": np.ones(1)}, tmp_path / "a.safetensors")
    assert list(read_weights(tmp_path / "a.safetensors", weights_key="model")) == ["a"]
    assert "(1 array left out: b)" in caplog.text
    with pytest.raises(ValueError, match=r"weights_key='a' chooses among the weights of a file, and there is none"):
        nfjax.load("test_nfnet", None, weights_key="a")
    with pytest.raises(ValueError, match="weights_key=3"):
        nfjax.load("test_nfnet", None, weights_key=3)


def test_in_a_command_it_is_spelt_as_an_option(tmp_path, capsys, caplog):
    torch.save({"generator": RAW}, tmp_path / "a.pth")
    arguments = ["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors"), "--to", "timm"]
    assert main(arguments) == 2
    assert "--weights-key 'generator'." in capsys.readouterr().err
    with caplog.at_level(logging.WARNING):
        assert main([*arguments, "--weights-key", "generator"]) == 2  # there is no rule for it
    assert "taken from 'generator'." in caplog.text


def test_kinds_of_arrays():
    arrays = {"a": np.ones(1), "b": jnp.ones(1), "c": torch.ones(1, requires_grad=True), "d": np.float32(1)}
    found = {name: array.tolist() for name, array in state_in(arrays, "x").items()}
    assert found == {"a": [1], "b": [1], "c": [1], "d": 1}


@pytest.mark.parametrize("name", ["last", "model.v2", "weights.safetensors.bak", "epoch=3-step=9.ckpt"])
def test_files_of_other_names(name, tmp_path):
    torch.save(RAW, tmp_path / name)
    assert list(read_weights(tmp_path / name)) == list(RAW)
    torch.save(RAW, tmp_path / name, _use_new_zipfile_serialization=False)
    assert list(read_weights(tmp_path / name)) == list(RAW)
    if not name.endswith("ckpt"):
        save_file({"a": np.ones(1)}, tmp_path / name)
        assert list(read_weights(tmp_path / name)) == ["a"]


# Damage.


def rewritten(path, change):
    """An archive whose members are given to `change`, a dict of bytes by name."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (change(members) or members).items():
            archive.writestr(name, content)


DAMAGE = [
    (lambda m: {n: c for n, c in m.items() if not n.endswith("data/0")}, r"a \(without its numbers\)"),
    (lambda m: m | {"a/data/0": m["a/data/0"][:7]}, r"a \(of shape \(2,\), expanded from 7 bytes\)"),
    (lambda m: m | {"a/byteorder": b"big"}, "big-endian"),
    (lambda m: m | {"a/constants.pkl": b""}, "is a TorchScript program"),
    (lambda m: {n: c for n, c in m.items() if not n.endswith(".pkl")}, r"archive of zip without data\.pkl"),
    (lambda m: m | {"b/data.pkl": m["a/data.pkl"]}, r"archive of zip without data\.pkl"),
    (lambda m: m | {"b/version": b"3"}, "members in several folders"),
    (lambda m: m | {"a/data.pkl": m["a/data.pkl"].replace(b"FloatStorage", b"OtherStorage")}, "a class that is none"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGE)
def test_damaged_archives(change, message, tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.arange(2.0)}, path)
    rewritten(path, change)
    with pytest.raises(WeightsFileError, match=message):
        read_weights(path)


def test_changed_numbers(tmp_path):
    """torch itself does not look at the checksums of an archive, and would load other numbers than were saved."""
    path = tmp_path / "a.pth"
    torch.save({"a": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(700).tobytes() + np.float32(701).tobytes())] ^= 1
    path.write_bytes(content)
    assert torch.load(path)["a"][700] != 700
    with pytest.raises(WeightsFileError, match=r"is damaged: a/data/0 does not have its CRC-32"):
        read_weights(path)


def test_a_tensor_beyond_its_storage(tmp_path):
    import io
    import pickletools

    path = tmp_path / "a.pth"
    torch.save({"a": torch.arange(8.0)[4:6]}, path)

    def change(members):
        pickled = members["a/data.pkl"]
        (at,) = [at for op, arg, at in pickletools.genops(io.BytesIO(pickled)) if op.name == "BININT1" and arg == 4]
        return members | {"a/data.pkl": pickled[: at + 1] + b"\x07" + pickled[at + 2 :]}

    rewritten(path, change)
    with pytest.raises(WeightsFileError, match=r"a \(of shape \(2,\), beyond its 32 bytes\)"):
        read_weights(path)


def test_a_whole_module(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(WeightsFileError, match=r"holds a torch\.nn\.modules\.linear\.Linear; .*model\.state_dict"):
        read_weights(tmp_path / "a.pth")

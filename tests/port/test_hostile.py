"""Weight files of strangers: read as they were when they were opened, or refused by name, soon, in little memory."""

import argparse
import json
import os
import stat
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import nfjax
import port
from port import WeightsFileError, read_weights
from port.paths import open_regular
from port.unwrap import state_in
from tests.port.test_files import shard

INDEX = "model.safetensors.index.json"
STATE = {"a": np.arange(3, dtype=np.float32), "b": np.ones((2, 2), np.float32)}


def write_raw(path, header, data=b""):
    """A safetensors file of any header."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def spec(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


# Files.


def test_a_file_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    """The other one has a longer header: read by the first one's, its numbers are noise."""
    path, other = tmp_path / "model.safetensors", tmp_path / "other.safetensors"
    save_file(STATE, path)
    save_file(STATE, other, metadata={"note": "x" * 99})
    memmap = np.memmap

    def replaced(*args, **options):
        if other.exists():
            other.replace(path)
        return memmap(*args, **options)

    monkeypatch.setattr(np, "memmap", replaced)
    read = read_weights(path)
    assert not other.exists()
    for name, array in STATE.items():
        np.testing.assert_array_equal(read[name], array)


def test_a_file_that_is_written_to_while_it_is_read(tmp_path, monkeypatch):
    path, memmap = tmp_path / "model.safetensors", np.memmap
    save_file(STATE, path)

    def grown(*args, **options):
        save_file(STATE | {"c": np.ones(5)}, tmp_path / "other")
        path.write_bytes((tmp_path / "other").read_bytes())
        return memmap(*args, **options)

    monkeypatch.setattr(np, "memmap", grown)
    with pytest.raises(WeightsFileError, match="was written to while it was read"):
        read_weights(path)


@pytest.mark.parametrize("name", ["a.safetensors", INDEX, "a.pth", "a.bin"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_pipes_and_devices(name, kind, tmp_path):
    path = tmp_path / name
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(kind)
    with pytest.raises(WeightsFileError, match=f"{name}: it is no regular file"):
        read_weights(path)
    with pytest.raises(OSError, match="is no regular file"):  # had it become one only now
        open_regular(path)


def test_a_shard_that_is_a_pipe(tmp_path):
    lost, _ = shard(STATE, tmp_path)
    (tmp_path / lost).unlink()
    os.mkfifo(tmp_path / lost)
    with pytest.raises(FileNotFoundError, match="names 1 files that are not beside it"):
        read_weights(tmp_path)


def test_what_is_half_written_is_no_model(tmp_path):
    save_file(STATE, tmp_path / ".partial-0123-model.safetensors")
    with pytest.raises(FileNotFoundError, match="no weights in"):
        read_weights(tmp_path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_weights_have_the_permissions_of_other_files(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        port.write_safetensors(STATE, tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == mode


# safetensors.


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": spec([1] * 70, 0, 4)}, b"1234", "no array has the shape of a: maximum supported dimension"),
        ({"a": spec([2**63, 0], 0, 0)}, b"", "no array has the shape of a"),
        ({"a": spec([2**62, 0], 0, 0)}, b"", "no array has the shape of a"),
        ({f"f{i}": spec([2], 2 * i, 2 * i + 2, "F8_E5M2") for i in range(20)}, bytes(40),
         r"dtypes that cannot be read: \{'f0': 'F8_E5M2', .* and 12 more\}\."),
        ({"a": spec([4], 0, 2, "F4")}, b"12", r"cannot be read: \{'a': 'F4'\}"),
        (b'{"a":' + b"[" * 100_000, b"", "not a valid safetensors file"),
        (b'{"a":%b,"a":%b}' % ((json.dumps(spec([1], 0, 4)).encode(),) * 2), b"12345678", "not a valid safetensors"),
        (b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(100_001)) + b"}",
         b"", "100001 arrays, more than 100000"),
        ((2**40).to_bytes(8, "little"), b"", "not a valid safetensors file"),
    ],
    ids=["axes", "length", "size", "float8", "float4", "nested", "twice", "many", "no header"],
)  # fmt: skip
def test_headers(header, data, message, tmp_path):
    write_raw(tmp_path / "a.safetensors", header, data)
    with pytest.raises(WeightsFileError, match=message) as error:
        read_weights(tmp_path / "a.safetensors")
    assert len(str(error.value)) < 1000


def test_empty_arrays(tmp_path):
    write_raw(
        tmp_path / "a.safetensors", {"a": spec([0, 2**40], 0, 0), "b": spec([1], 0, 4), "c": spec([0], 4, 4)}, b"1234"
    )
    read = read_weights(tmp_path / "a.safetensors")
    assert {name: array.shape for name, array in read.items()} == {"a": (0, 2**40), "b": (1,), "c": (0,)}
    assert read["b"].tobytes() == b"1234"


def test_an_error_of_bearable_length():
    """However many names a file has, and however long they are."""
    found = {f"{i}" + "x" * 10: (1,) for i in range(10_000)}
    with pytest.raises(port.WeightsError, match=r"10000 unexpected:\n(.*\n){2000} *and 8000 more\n"):
        port.check_strict(found, {}, what="a", source="b")


NAME = "a\nfake: all is well\x1b[2J"


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_raw(path, {NAME: spec([1], 4, 8)}, b"12345678"),
        lambda path: write_raw(path, {"a": spec([1], 0, 4, NAME)}, b"1234"),
        lambda path: save_file({NAME: np.ones(1)}, path, metadata={"format": "nfjax"}),
    ],
    ids=["offset", "dtype", "flax"],
)
def test_names_stay_in_their_line(write, tmp_path):
    """Or whoever wrote the file writes lines of the message, too."""
    write(tmp_path / "a.safetensors")
    with pytest.raises(port.WeightsError, match=r"a\\nfake: all is well\\x1b\[2J") as caught:
        read_weights(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_names_stay_in_their_line_elsewhere(tmp_path):
    torch.save({NAME: "text"}, tmp_path / "a.pth")
    with pytest.raises(port.WeightsError, match=r"not arrays: a\\nfake: all is well\\x1b\[2J \(str\)\."):
        read_weights(tmp_path / "a.pth")
    with pytest.raises(port.WeightsError, match=r"a\\nfake: all is well\\x1b\[2J \(1,\)\n"):
        port.check_strict({NAME: (1,)}, {"b": (2,)}, what="a model", source="a file")


# Shards.


NO_INDEX = [
    "5", "null", '"a"', "[]", "{}", "[" * 100_000, "\xff", '{"weight_map": 5}', '{"weight_map": null}',
    '{"weight_map": {}}',
    '{"weight_map": {"a": 5}}', '{"weight_map": {"a": ["b"]}}',
]  # fmt: skip
NO_SHARDS = [
    "../outside/b.safetensors", "/etc/b.safetensors", "sub/b.safetensors", "./b.safetensors", "..", ".", "",
    "b", "b.json",
    "..\\b.safetensors", "C:b.safetensors", "b\0.safetensors", "b\n.safetensors", INDEX,
]  # fmt: skip


@pytest.mark.parametrize("index", [*NO_INDEX, *({"a": name} for name in NO_SHARDS)])
def test_an_index_names_files_beside_it(index, tmp_path):
    for folder in (tmp_path / "outside", tmp_path / "model" / "sub", tmp_path / "model"):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"a": np.ones(1)}, folder / "b.safetensors")
    text = index if isinstance(index, str) else json.dumps({"weight_map": index})
    (tmp_path / "model" / INDEX).write_text(text, encoding="latin-1")
    message = "is not an index of shards" if isinstance(index, str) else "names .* plain names of files beside it"
    with pytest.raises(WeightsFileError, match=message):
        read_weights(tmp_path / "model" / INDEX)


# Pickles.


class Call:
    """In a pickle: what a function returns for some arguments."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: {0: torch.ones(2)}, "names that are not text, but int"),
        (lambda: {("a", 1): torch.ones(2), "b": torch.ones(2)}, "names that are not text, but tuple"),
        (lambda: {"w": torch.eye(3).to_sparse()}, r"w \(of layout torch.sparse_coo\)"),
        (lambda: {"w": torch.eye(3).to_sparse_csr()}, r"w \(of layout torch.sparse_csr\)"),
        (lambda: {"w": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, r"w \(nested\)"),
        (lambda: {"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, r"w \(of torch.qint8\)"),
        (lambda: {"w": torch.ones(3).to(torch.float8_e4m3fn)}, r"w \(of torch.float8_e4m3fn\)"),
        (lambda: {"w": torch.ones(3, dtype=torch.complex32)}, r"w \(of torch.complex32\)"),
        (lambda: {"w": torch.ones(3, device="meta")}, r"w \(on the meta device"),
        (lambda: {"w": torch.ones(3, dtype=torch.complex64).conj()}, r"w \(a view of conjugate"),
        (lambda: {"w": torch.ones(3, dtype=torch.complex64).conj().imag}, r"w \(a view of conjugate or negated"),
        (lambda: {"w": torch.ones(1).expand(2**33)}, r"w \(of shape \(8589934592,\), expanded from 4 bytes\)"),
        (lambda: {"w": torch.ones(1, dtype=torch.bfloat16).expand(2**34)}, "expanded from 2 bytes"),
        (lambda: {"w": torch.ones(9).as_strided((5, 5), (1, 1))}, "expanded from 36 bytes"),
        (lambda: {"w": Call(torch.FloatTensor, (2**20,))}, r"not arrays: w \(torch.FloatTensor\)"),
        (lambda: {"w": Call(bytearray, (2**40,))}, r"not arrays: w \(builtins.bytearray\)"),
        (lambda: {"w": argparse.Namespace(detach=1, dtype=2, __array__=3)}, r"not arrays: w \(argparse.Namespace\)"),
        (lambda: {"w": Call(torch.Size, ("a",))}, r"not arrays: w \(torch.Size\)"),
    ],
)
def test_pickled_tensors_that_are_none(make, message, tmp_path):
    torch.save(make(), tmp_path / "model.pth")
    with pytest.raises(WeightsFileError, match=message) as error:
        read_weights(tmp_path / "model.pth")
    assert str(tmp_path / "model.pth") in str(error.value)


def test_expanded_tensors_in_memory():
    """They are their owner's affair."""
    mapping = {"a": torch.ones(1).expand(4)}
    np.testing.assert_array_equal(state_in(mapping, "a mapping")["a"], [1, 1, 1, 1])


def test_the_older_format(tmp_path):
    calls = {"expanded from 4": torch.ones(1).expand(2**33), "builtins.bytearray": Call(bytearray, (2**40,))}
    for message, value in calls.items():
        torch.save({"w": value}, tmp_path / "model.pth", _use_new_zipfile_serialization=False)
        with pytest.raises(WeightsFileError, match=message):
            read_weights(tmp_path / "model.pth")


def test_compressed_pickle(tmp_path):
    torch.save({"a": torch.zeros(2**20)}, tmp_path / "stored.pth")
    with zipfile.ZipFile(tmp_path / "stored.pth") as stored, zipfile.ZipFile(tmp_path / "model.pth", "w") as packed:
        for name in stored.namelist():
            how = zipfile.ZIP_DEFLATED if name.endswith("data/0") else zipfile.ZIP_STORED
            packed.writestr(name, stored.read(name), how)
    with pytest.raises(WeightsFileError, match=r"is compressed, which torch never does: stored/data/0\."):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["test_vit2", "naflexvit_base_patch16_gap"])
def test_a_position_embedding_of_several_images(name):
    """Found by tests/fuzz: it was resampled before its shape was looked at."""
    kernel, entries = np.zeros((64, 3, 16, 16), np.float32), np.zeros((2, 16, 64), np.float32)
    with pytest.raises(port.WeightsError, match=r"pos_embed.*\(2, 16, 64\)|missing"):
        nfjax.load(name, {"pos_embed": entries, "patch_embed.proj.weight": kernel}, img_size=32, depth=1)

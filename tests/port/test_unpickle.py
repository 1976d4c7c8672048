"""Pickles as data: nothing in one is imported or called, whatever it says; it takes neither long nor much memory."""

import argparse
import collections
import contextlib
import enum
import fractions
import functools
import io
import pathlib
import pickle
import pickletools
import sys

import numpy as np
import pytest
import torch

from port.pickled import KNOWN
from port.unpickle import _CONSTANTS, Global, RefusedError, StandIn, _Machine, unpickle


def read(pickled, known=KNOWN):
    return unpickle(io.BytesIO(pickled), known, lambda what: what)


class Colour(enum.Enum):
    RED = 1


class Attributes(dict):
    """A mapping of a class of its own, as of Lightning."""


def test_every_instruction_is_known():
    assert all(op.name in _CONSTANTS or hasattr(_Machine, op.name) for op in pickletools.opcodes)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values(protocol):
    shared = [1]
    value = {
        "a": [1, -1, 2**70, 0.5, None, True, False, "text", "\u00e9"],
        "b": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "c": {"d": {}},
        "e": [shared, shared],
    }
    found = read(pickle.dumps(value, protocol))
    assert found == value
    assert found["e"][0] is found["e"][1]


@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_stand_ins(protocol):
    value = {
        "args": argparse.Namespace(lr=0.1),
        "partial": functools.partial(sorted, reverse=True),
        "fraction": fractions.Fraction(1, 2),
        "colour": Colour.RED,
        "path": pathlib.PurePosixPath("a/b"),
        "attributes": Attributes(lr=0.1),
        "class": Attributes,
        "default": collections.defaultdict(list, a=[1]),
        "ordered": collections.OrderedDict(a=1),
        "deque": collections.deque([1, 2], 3),
        "set": {1},
        "number": np.float64(0.5),
        "integer": np.int32(-3),
        "array": np.arange(3),
    }
    found = read(pickle.dumps(value, protocol))
    assert found["default"] == {"a": [1]}
    assert found["ordered"] == {"a": 1}
    assert (found["number"], found["integer"]) == (0.5, -3)
    if protocol >= 2:
        assert found["args"].name == "argparse.Namespace"
        assert found["args"].state == {"lr": 0.1}
        assert dict(found["attributes"]) == {"lr": 0.1}
    assert found["class"] == Global(f"{__name__}.Attributes")
    for name in ("partial", "fraction", "colour", "path", "deque", "array", "args", "attributes"):
        assert isinstance(found[name], StandIn), name


REFUSED = ["posix.system", "os.path.join", "subprocess.Popen", "builtins.eval", "builtins.exec", "builtins.__import__",
           "builtins.open", "importlib.import_module", "runpy.run_path", "pickle.loads", "ctypes.CDLL"]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_runs_code_is_refused_by_name(name):
    module, function = name.rsplit(".", 1) if name != "os.path.join" else ("os.path", "join")
    text = [b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, function)]
    for pickled in (
        b"c%s\n%s\n." % (module.encode(), function.encode()),
        b"(i%s\n%s\n." % (module.encode(), function.encode()),
        b"\x80\x04" + b"".join(text) + b"\x93.",
    ):
        with pytest.raises(RefusedError, match=name):
            read(pickled)
    with pytest.raises(RefusedError, match=r"builtins\.eval"):
        read(b"c__builtin__\neval\n.")


def test_nothing_is_imported(tmp_path, monkeypatch):
    (tmp_path / "module_of_a_stranger.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    made = read(b"cmodule_of_a_stranger\nRun\n(S'now'\ntR.")
    assert (made.name, made.args) == ("module_of_a_stranger.Run", ("now",))
    assert "module_of_a_stranger" not in sys.modules


def test_what_is_known_cannot_be_changed():
    """A pickle may set attributes of what it got; functions and classes are only names here."""

    def state():
        functions = {name: f for name, f in KNOWN.items() if hasattr(f, "__defaults__")}
        return {name: (dict(vars(f)), f.__defaults__, f.__kwdefaults__) for name, f in functions.items()}

    before = state()
    for name in KNOWN:
        named = "c{}\n{}\n".format(*name.rsplit(".", 1)).encode()
        for attribute in (b"__defaults__", b"shape", b"dtype"):
            read(named + b"}S'%s'\n(I1\nI2\ntsb." % attribute)
            with contextlib.suppress(TypeError):  # it lacks arguments
                read(named + b")R}S'%s'\nI1\nsb." % attribute)
    assert before == state()


PRIME = 2**61 - 1  # Python's numbers have the same hash as their remainders of it


@pytest.mark.parametrize(
    "pickled",
    [
        b"}" + b"K\x01" + b"2\x86" * 200 + b"K\x02s.",  # a key whose hash would take 2**200 steps
        b"})" + b"\x85" * 100_000 + b"K\x02s.",  # a key whose hash would need C's stack a hundred thousand times
        b"(" + b"".join(b"\x8a\x0a" + (n * PRIME).to_bytes(10, "little") + b"N" for n in range(1, 20_000)) + b"d.",
        b"]r\xff\xff\xff\xff.",  # a place in memory that a list would have to be as long as
        b"]q\x00h\x00a.",  # a list that holds itself
        b"(" * 100_000 + b"l" * 100_000 + b".",
    ],
    ids=["shared", "deep", "colliding", "memory", "itself", "lists"],
)  # fmt: skip
def test_small_pickles_that_would_take_long(pickled):
    read(b"\x80\x02" + pickled)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x8e" + (2**60).to_bytes(8, "little") + b".",
        b"\x96" + (2**40).to_bytes(8, "little") + b".",
        b"B\xff\xff\xff\x7f.",
        b"I" + b"9" * 5000 + b"\n.",
        b"\x82\x01.", b"\x97.", b"P1\n.", b"a.", b"s.", b"R.", b"t.", b"h\x07.", b".", b"", b"\xff", b"]",
    ],
)  # fmt: skip
def test_pickles_that_are_wrong(pickled):
    with pytest.raises(Exception, match=r".*") as error:
        read(pickled)
    assert not isinstance(error.value, MemoryError | RecursionError)


def test_endless_pickles(monkeypatch):
    monkeypatch.setattr("port.unpickle.MOST", 100)
    with pytest.raises(ValueError, match="more than 100 instructions"):
        read(b"]" * 200 + b".")


def test_tensors_are_read_as_torch_reads_them(tmp_path):
    """Of every dtype, layout in memory and class; shared and empty ones; of both formats and all protocols."""
    base = torch.arange(24.0)
    attribute = torch.ones(2)
    attribute.note = "kept"
    tensors = {
        "view": base[3:15].reshape(3, 4).t(),
        "step": base[::5],
        "expanded": torch.ones(2, 1),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3.0),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "attribute": attribute,
        "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
    }
    kinds = (
        "bool",
        "bfloat16",
        "float16",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "complex64",
        "uint16",
    )
    tensors |= {kind: torch.tensor([0, 1, 1]).to(getattr(torch, kind)) for kind in kinds}
    from port import read_weights

    for protocol in (2, 3, 4, 5):
        for zipped in (True, False):
            path = tmp_path / f"{protocol}{zipped}.pth"
            torch.save(tensors, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
            found = read_weights(path)
            assert list(found) == list(tensors)
            for name, tensor in tensors.items():
                whole = tensor.detach()
                as_bytes = whole.contiguous().reshape(-1).view(torch.uint8) if whole.numel() else whole
                assert found[name].shape == tuple(whole.shape)
                assert str(found[name].dtype) == str(whole.dtype).removeprefix("torch.")
                assert found[name].tobytes() == as_bytes.numpy().tobytes()

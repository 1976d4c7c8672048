"""Files of weights: safetensors, an index of shards, torch's pickles, and a model's folder, which is loaded whole."""

import collections
import copy
import fractions
import functools
import io
import json
import logging
import math
import os
import re
import tempfile
import warnings
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import torch

import nfjax
import port
from nfjax.weights.loading import logger
from tests.fuzz.values import TEXTS, mutate_bytes, mutate_tree, to_json, value
from tests.port.test_hostile import Call

INDEX = "model.safetensors.index.json"
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
STRANGE = {"F8_E4M3": 1, "U64": 8, "C64": 8, "F4": 1}
NAMES = [
    "a.weight",
    "a.bias",
    "b",
    "module.b",
    "_orig_mod.c",
    "a/b/kernel",
    "__metadata__x",
    "blocks.0.attn.qkv.weight",
]


def some_state(rng):
    """Arrays of every dtype, shape and name: `{name: (dtype, shape, bytes)}`; now and then one that numpy has not."""
    state = {}
    for name in rng.sample(NAMES + rng.sample(TEXTS, rng.choice([0, 0, 5])), rng.randrange(1, 6)):
        kinds = SIZES | (STRANGE if rng.random() < 0.03 else {})
        kind = rng.choice(sorted(kinds))
        shape = [rng.choice([0, 1, 2, 3, 5]) for _ in range(rng.randrange(5))]
        count = math.prod(shape) * kinds[kind]
        state[name] = kind, shape, rng.randbytes(count) if rng.random() < 0.5 else b"\0" * count
    return state


def header_of(state, metadata=None):
    header, at = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, (kind, shape, content) in state.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(content)]}
        at += len(content)
    return header


def pack(header, content):
    written = to_json(header)
    return len(written).to_bytes(8, "little") + written + content


def packed(rng, state):
    metadata = rng.choice([None, {"format": "pt"}, {"format": "pt"}, {"format": "nfjax"}])
    return header_of(state, metadata), b"".join(content for _, _, content in state.values())


@functools.cache
def saved():
    """The files of two small models of the same architecture."""
    folders = []
    for seed in (0, 1):
        with tempfile.TemporaryDirectory() as folder:
            nfjax.save(nfjax.load("test_vit2", None, depth=1, img_size=32, num_classes=3, seed=seed), folder)
            folders.append({name: Path(folder, name).read_bytes() for name in ("config.json", "model.safetensors")})
    return folders


def of_folder(rng):
    """A model's folder: numbers that are not finite, a damaged header, files of two models."""
    files = dict(saved()[0])
    how = rng.choice(["numbers", "numbers", "header", "bytes", "others", "nothing"])
    whole = files["model.safetensors"]
    start = 8 + int.from_bytes(whole[:8], "little")
    if how == "numbers":
        for _ in range(rng.choice([1, 3])):
            at = start + 4 * rng.randrange((len(whole) - start) // 4)
            odd = np.float32(rng.choice([np.nan, np.inf, -np.inf, 1e30])).tobytes()
            whole = whole[:at] + odd + whole[at + 4 :]
        files["model.safetensors"] = whole
    elif how == "header":
        header = json.loads(whole[8:start])
        mutate_tree(rng, header)
        files["model.safetensors"] = pack(header, whole[start:])
    elif how == "bytes":
        files["model.safetensors"] = mutate_bytes(rng, whole)
    elif how == "others":
        files["config.json"] = saved()[1]["config.json"]
    return files


TENSORS = [
    lambda: torch.arange(6.0).reshape(2, 3),
    lambda: torch.arange(6).reshape(3, 2).t(),
    lambda: torch.ones(3, dtype=torch.bfloat16),
    lambda: torch.zeros(()),
    lambda: torch.nn.Parameter(torch.ones(2)),
    lambda: torch.eye(3).to_sparse(),
    lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    lambda: torch.ones(3).to(torch.float8_e4m3fn),
    lambda: torch.ones(3, device="meta"),
    lambda: torch.ones(3, dtype=torch.complex64).conj(),
    lambda: torch.ones(1).expand(2**33),
    lambda: torch.ones(9).as_strided((5, 5), (1, 1)),
    lambda: Call(torch.FloatTensor, (2**20,)),
    lambda: Call(bytearray, (2**40,)),
    lambda: Call(fractions.Fraction, ("1/2",)),
    lambda: collections.defaultdict(list, a=[1]),
    lambda: Call(os.system, ("touch /tmp/nfjax-fuzz",)),
    lambda: Call(open, ("/tmp/nfjax-fuzz", "w")),
    lambda: np.ones(3),
    lambda: {"a": torch.ones(1)},
    lambda: [torch.ones(1)],
]


def of_pickle(rng):
    """A pickle of torch, whose entries are tensors as a rule."""
    state = {}
    for _ in range(rng.choice([0, 1, 1, 3])):
        name = rng.choice([*NAMES, *NAMES, *TEXTS, 0, ("a", 1), None])
        state[name] = rng.choice(TENSORS[:5] if rng.random() < 0.6 else TENSORS)()
    wrapper = rng.choice(["state_dict", "model_ema", "model", None, None])
    content = state if wrapper is None else {wrapper: state, "epoch": 3, "args": value(rng)}
    content = value(rng) if rng.random() < 0.05 else content
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, file, _use_new_zipfile_serialization=rng.random() < 0.6)
    written = file.getvalue()
    if written.startswith(b"PK") and rng.random() < 0.1:
        written = deflated(written)
    return mutate_bytes(rng, written) if rng.random() < 0.5 else written


def deflated(content):
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as stored, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in stored.namelist():
            archive.writestr(name, stored.read(name))
    return file.getvalue()


def of_shards(rng):
    """Two shards and their index, in which something is wrong as a rule."""
    state = some_state(rng)
    files = {name: rng.choice(["one.safetensors", "two.safetensors"]) for name in state}
    shards = {f: {n: a for n, a in state.items() if files[n] == f} for f in ("one.safetensors", "two.safetensors")}
    contents = {file: pack(*packed(rng, own)) for file, own in shards.items()}
    index = {"metadata": {"total_size": 62}, "weight_map": files}
    if rng.random() < 0.8:
        mutate_tree(rng, index)
    if rng.random() < 0.3 and files and isinstance(index.get("weight_map"), dict):
        names = ["../outside.safetensors", "/etc/hostname", INDEX, "", "one.safetensors/", "./one.safetensors", "\0"]
        index["weight_map"][rng.choice(sorted(files))] = rng.choice(names)
    index = value(rng) if rng.random() < 0.05 else index
    written = to_json(index)
    return {INDEX: mutate_bytes(rng, written) if rng.random() < 0.2 else written, **contents}


def mutants(rng):
    """The contents of files by name; the first is read."""
    kind = rng.choice(["header", "safetensors", "index", "pickle", "folder"])
    if kind == "folder" and rng.random() < 0.7:  # it takes much longer than the others
        kind = "header"
    if kind == "folder":
        return of_folder(rng)
    if kind == "pickle":
        return {"model.pth": of_pickle(rng)}
    if kind == "index":
        return of_shards(rng)
    header, content = packed(rng, some_state(rng))
    if kind == "safetensors":
        whole = pack(header, content)
        return {"model.safetensors": whole if rng.random() < 0.2 else mutate_bytes(rng, whole)}
    header = copy.deepcopy(header)
    mutate_tree(rng, header)
    return {"model.safetensors": pack(header, content)}


def put(mutant, folder):
    for name, content in mutant.items():
        (folder / name).write_bytes(content)
    (folder.parent / "outside.safetensors").write_bytes(pack(header_of({"b": ("F32", [1], b"1234")}), b"1234"))


def try_(mutant, folder):
    """What is read is what the formats' own readers give: names, dtypes, shapes and bytes."""
    path = folder / next(iter(mutant))
    if path.name == "config.json":
        load(folder)
        return
    read = port.read_weights(path)
    found = {name: (str(array.dtype), array.shape, np.asarray(array).tobytes()) for name, array in read.items()}
    if path.suffix == ".pth":
        assert found == (of_torch(path) or found)
        return
    named = [] if path.suffix == ".safetensors" else json.loads(path.read_bytes())["weight_map"].values()
    files = [folder / name for name in sorted(set(named))] or [path]
    expected = {}
    for file in files:
        expected |= of_safetensors(file)
    if path.suffix != ".safetensors":
        asked = json.loads(path.read_bytes())["weight_map"]
        expected = {name: array for name, array in expected.items() if name in asked}
    assert found == plain(expected)


def plain(state):
    """Without what torch's wrappers put before all names."""
    chains = [re.match(r"(?:(?:module|_orig_mod|model|backbone|encoder|net)\.)*", name)[0] for name in state]
    shared = [len(set(parts)) == 1 for parts in zip(*(chain.split(".")[:-1] for chain in chains), strict=False)]
    common = [*shared, False].index(False)
    return {name.split(".", common)[-1]: array for name, array in state.items()}


def of_safetensors(path):
    """What the library reads, without our reader: `{name: (dtype, shape, bytes)}`."""
    names = {"F": "float", "I": "int", "U": "uint"}
    found = {}
    with safetensors.safe_open(path, framework="np") as file:
        flax = (file.metadata() or {}).get("format") == "nfjax"
    for name, entry in safetensors.deserialize(path.read_bytes()):
        kind = entry["dtype"]
        dtype = {"BF16": "bfloat16", "BOOL": "bool"}.get(kind) or f"{names[kind[0]]}{kind[1:]}"
        found[name] = dtype, tuple(entry["shape"]), bytes(entry["data"])
    if flax:  # these are named and laid out anew, which other tests look at
        arrays = port.to_timm({name: np.frombuffer(b, jnp.dtype(d)).reshape(s) for name, (d, s, b) in found.items()})
        found = {name: (str(array.dtype), array.shape, np.asarray(array).tobytes()) for name, array in arrays.items()}
    return found


def of_torch(path):
    """What torch itself reads of a state dict, or of the checkpoint around it; None where it refuses the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # objects beside the weights, or damage beside the numbers, which have checksums
            return None
    wrappers = ("state_dict_ema", "model_ema", "state_dict", "model")
    key = next((key for key in wrappers if isinstance(content.get(key), dict)), None)
    content = content if key is None else content[key]
    found = {}
    for name, tensor in content.items():
        flat = tensor.detach().contiguous().reshape(-1)
        content = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        found[name] = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), content
    return plain(found)


def load(folder):
    """A model of a folder: its numbers are the file's, and those that are not finite are told, or refused."""
    told = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logger.addHandler(handler)
    logger.propagate, before = False, logger.propagate
    try:
        model = nfjax.load(f"local-dir:{folder}")
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
    expected = of_safetensors(folder / "model.safetensors")
    found = nfjax.state_dict(model)
    assert {name: (array.shape, array.tobytes()) for name, array in found.items()} == {
        name: (shape, content) for name, (_, shape, content) in expected.items()
    }
    odd = sum(int((~np.isfinite(array)).sum()) for array in found.values())
    assert any(f": {odd} numbers in" in text for text in told) == bool(odd), told
    if odd:
        with pytest.raises(ValueError, match="not finite"):
            nfjax.load(f"local-dir:{folder}", strict_finite=True)

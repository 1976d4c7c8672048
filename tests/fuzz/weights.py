"""Files of weights: safetensors, an index of shards beside one, and torch's pickles."""

import copy
import functools
import io
import json
import warnings

import numpy as np
import safetensors.numpy
import torch

import port
from tests.fuzz.values import mutate_bytes, mutate_tree, to_json

STATE = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "a.bias": np.ones(3, np.float16), "b": np.zeros(())}
INDEX = {"metadata": {"total_size": 62}, "weight_map": dict.fromkeys(STATE, "model.safetensors")}


@functools.cache
def pickled(zipped):
    content, file = {"state_dict": {name: torch.tensor(array) for name, array in STATE.items()}}, io.BytesIO()
    torch.save(content | {"epoch": 3}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def mutants(rng):
    """The contents of files by name; the first is read."""
    whole = safetensors.numpy.save(STATE, metadata={"format": "pt"})
    kind = rng.choice(["header", "safetensors", "index", "pickle"])
    if kind == "pickle":
        return {"model.pth": mutate_bytes(rng, pickled(rng.random() < 0.5))}
    if kind == "index":
        index = copy.deepcopy(INDEX)
        mutate_tree(rng, index)
        content = to_json(index)
        content = mutate_bytes(rng, content) if rng.random() < 0.2 else content
        return {"model.safetensors.index.json": content, "model.safetensors": whole}
    if kind == "safetensors":
        return {"model.safetensors": mutate_bytes(rng, whole)}
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    mutate_tree(rng, header)
    changed = to_json(header)
    return {"model.safetensors": len(changed).to_bytes(8, "little") + changed + whole[8 + length :]}


def try_(mutant, folder):
    """What is read from safetensors is what their own reader gives."""
    for name, content in mutant.items():
        (folder / name).write_bytes(content)
    path = folder / next(iter(mutant))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of what it refuses
        read = port.read_weights(path)
    for array in read.values():
        np.asarray(array).tobytes()
    if path.suffix == ".safetensors":
        expected = safetensors.numpy.load_file(path)
        assert sorted(a.tobytes() for a in read.values()) == sorted(a.tobytes() for a in expected.values())

"""Files of `nfjax.export`, and weights beside them. Programs are read, and only those that are whole are called.

A program that was changed together with its checksum can end the process: nfjax says that it must be trusted.
"""

import copy
import functools
import hashlib
import io
import json
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import nfjax
from tests.fuzz.values import mutate_bytes, mutate_tree, to_json, value

CONFIG, PROGRAM, WEIGHTS = "config.json", "model.stablehlo", "beside.safetensors"


@functools.cache
def valid(where):
    """Config, program and weights of a small transformer."""
    with tempfile.TemporaryDirectory() as folder:
        model = nfjax.load("test_vit2", weights=None, depth=1, img_size=32, num_classes=3)
        path = nfjax.export(model, Path(folder, f"{where}.zip"), weights=where)
        with zipfile.ZipFile(path) as archive:
            config, program = json.loads(archive.read(CONFIG)), archive.read(PROGRAM)
        weights = path.with_suffix(".safetensors")
        return config, program, weights.read_bytes() if weights.is_file() else b""


def mutants(rng):
    """The bytes of the zip file and of the weights, and whether its program may be run."""
    config, program, weights = copy.deepcopy(valid(rng.choice(["inside", "beside"])))
    whole = program
    how = rng.choice(["config", "config", "weights", "name", "program", "zip", "members", "bytes", "text"])
    if how == "config":
        mutate_tree(rng, config)
    elif how == "weights" and weights:
        weights = mutate_header(rng, weights) if rng.random() < 0.7 else mutate_bytes(rng, weights)
    elif how == "name":
        names = ["../beside.safetensors", "/etc/hostname", "", ".", "..", "a\\b.safetensors", "\0", "config.json"]
        config["weights"] = rng.choice([*names, value(rng)])
    elif how == "program":
        program = mutate_bytes(rng, program)
    if how != "bytes" and rng.random() < 0.9 and isinstance(config.get("sha256"), dict):  # by who knows what they do
        config["sha256"][PROGRAM] = hashlib.sha256(program).hexdigest()
        if isinstance(config.get("weights"), str):
            config["sha256"][config["weights"]] = hashlib.sha256(weights).hexdigest()
    written = to_json(config)
    if how == "text":
        written = rng.choice([b"", b"null", b"[]", b"[" * 100_000, mutate_bytes(rng, written)])
    content = zipped(rng, {CONFIG: written, PROGRAM: program}, how == "members")
    if how in ("zip", "bytes"):
        content = mutate_zip(rng, content) if how == "zip" else mutate_bytes(rng, content)
    return content, weights, program == whole


def zipped(rng, members, strange):
    """An archive of the members, stored; or with others, with names used twice, or compressed."""
    file = io.BytesIO()
    kinds = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    names = ["../evil", "/etc/x", "a/b", "x" * 60000, CONFIG + " ", CONFIG.upper()]
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            if not (strange and rng.random() < 0.2):
                kind = rng.choice(kinds) if strange else zipfile.ZIP_STORED
                renamed = rng.choice(names) if strange and rng.random() < 0.2 else name
                archive.writestr(zipfile.ZipInfo(renamed), content, kind)
        if strange and rng.random() < 0.5:
            archive.writestr(zipfile.ZipInfo(rng.choice(names)), bytes(rng.choice([0, 10**7])), rng.choice(kinds))
    return file.getvalue()


def mutate_zip(rng, content):
    """A number of the directory at the end replaced: sizes, offsets, flags, counts."""
    start = content.rindex(b"PK\1\2", 0, content.rindex(b"PK\1\2"))
    at = rng.randrange(start, len(content) - 4)
    number = rng.choice([0, 1, 8, 0xFFFF, 2**31 - 1, 2**32 - 1, rng.randrange(2**32)])
    return content[:at] + struct.pack("<I", number) + content[at + 4 :]


def mutate_header(rng, content):
    """A safetensors file with another header, whose length is right as a rule."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    mutate_tree(rng, header)
    if rng.random() < 0.3:
        kinds = ["F64", "F16", "BF16", "I8", "F8_E4M3", "F8_E8M0", "F4", "BOOL", "C64", "X"]
        name = rng.choice(sorted(header)) if header else "x"
        header[name] = {"dtype": rng.choice(kinds), "shape": [len(data)], "data_offsets": [0, len(data)]}
    written = to_json(header)
    return struct.pack("<Q", rng.choice([len(written)] * 8 + [0, 2**40, 2**64 - 1])) + written + data


def put(mutant, folder):
    content, weights, _ = mutant
    (folder / "a.zip").write_bytes(content)
    for place in (folder, folder.parent):
        (place / WEIGHTS).write_bytes(weights)


def try_(mutant, folder):
    path, whole = folder / "a.zip", mutant[2]
    with pytest.raises(ValueError, match="has the sha256"):  # whatever it holds, it is not what was expected
        nfjax.load_exported(path, expected_sha256="0" * 64)
    exported = nfjax.load_exported(path)
    assert exported.config["weights"] in (None, WEIGHTS)
    if whole:
        assert np.shape(exported(np.zeros((1, 32, 32, 3), np.float32))) == (1, 3)

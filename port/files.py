"""Reading and writing weight files, as `{timm name: numpy array}`: which file is read, and by whom.

safetensors files are `port.mapped`'s, those of torch.save (.bin, .pth, .pt, .tar, .ckpt) `port.pickled`'s, .npz
`port.npz`'s, indices `port.shards`'s; what is taken of a checkpoint, `port.unwrap` decides, and whose names are in it,
`port.layouts`.
"""

import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from port.atomic import replacing
from port.errors import WeightsFileError, listed
from port.layouts import configs, read_as
from port.mapped import read_mapped
from port.npz import ENDING as NPZ
from port.npz import read_npz
from port.paths import no_weights, open_regular, require_path
from port.pickled import OLDER, PICKLED, ZIP, read_pickled
from port.rules import to_timm
from port.shards import read_index
from port.unwrap import State, kind_of, state_in

INDEX = ".index.json"
# In a folder, the first of these that exists is read; afterwards the only file of a known kind.
PREFERRED = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "pytorch_model.pth", "model.pth",
)  # fmt: skip
# Metadata of files that hold Flax paths and layouts, as `port convert` writes them.
FLAX_METADATA = {"format": "nfjax"}
MAX_HEADER = 100_000_000  # bytes, of safetensors
MAX_CONFIG = 16 << 20  # bytes; a hundred thousand classes with their names take five
# In the metadata of a folder's weights and in its config.json: both were saved together where it is the same.
CHECKSUM = "weights_crc32"


def read_weights(path: str | os.PathLike[str], *, weights_key: str | None = None, layout: str | None = None) -> State:
    """The state dict in a file or folder: `{timm name: array}`, also where the names in the file are other ones.

    Dtypes are the file's own, bfloat16 as `ml_dtypes.bfloat16`. Arrays are read-only views of the mapped file: as long
    as they are used it must not be written to, and where it was cut short the operating system ends a process that
    reads what is gone (SIGBUS). Replacing it by renaming is safe, and so is `np.array(a)`, which owns its numbers; a
    model of `nfjax.load` owns all of them.

    Args:
        path: a .safetensors file, a sharded one's index (.safetensors.index.json), a .bin, .pth, .pt, .tar or .ckpt
            file of torch.save, a .npz file, a file that `port convert` wrote, or a folder holding one of these. A file
            of another ending is read if its first bytes say what it is.
        weights_key: of a checkpoint: what is taken; see `port.unwrap.take`, and docs/weights.md.
        layout: whose names and layouts the file has, one of `port.layouts.NAMES`; None for what it is recognised as.

    Raises:
        FileNotFoundError: no such file, no weights in the folder, or a missing shard.
        WeightsFileError: the file is truncated, corrupt, of another kind, or names what runs code.
        WeightsError: naming every array that the layout has no place for.
        ValueError: there is no such layout.
    """
    return dict(read_as(read_with_metadata(path, weights_key)[0], layout, str(path))[0])


def read_with_metadata(path: str | os.PathLike[str], weights_key: str | None = None) -> tuple[State, dict[str, str]]:
    """The arrays by the names that they have, and what a single safetensors file says of itself; of others nothing."""
    path = weights_file(path)
    content, metadata = read_content(path)
    return state_in(content, str(path), weights_key), metadata


def read_content(path: Path) -> tuple[Any, dict[str, str]]:
    """All that a file of weights holds, of which no number is read yet, and what it says of itself."""
    return (_read_shards(path), {}) if path.name.endswith(INDEX) else _read_file(path)


def _read_file(path: Path) -> tuple[Any, dict[str, str]]:
    kind = path.suffix if path.suffix in (".safetensors", *PICKLED, NPZ) else _kind(path)
    if kind == ".safetensors":
        state, metadata = read_mapped(path)
        return (to_timm(state) if metadata.get("format") == FLAX_METADATA["format"] else state), metadata
    if kind in PICKLED:
        return read_pickled(path), {}
    if kind == NPZ:
        return read_npz(path), {}
    raise WeightsFileError(
        f"{path}: unknown kind of weights file {path.suffix!r}; expected .safetensors, "
        f".safetensors{INDEX}, {', '.join(PICKLED)}, {NPZ}, or a folder with one of these."
    )


def _kind(path: Path) -> str:
    """The ending that a file of another one should have, by its first bytes."""
    with open_regular(path) as file:
        first = file.read(16)
    if first.startswith((ZIP, OLDER)):
        return ".pth"
    return ".safetensors" if first[8:9] == b"{" and int.from_bytes(first[:8], "little") < MAX_HEADER else ""


def weights_file(path: str | os.PathLike[str]) -> Path:
    """The file that is read for a path: itself, or the one in a folder that `PREFERRED` says.

    Raises:
        FileNotFoundError: there is none.
        WeightsFileError: the folder has several, or it is a pipe or a device.
    """
    path = require_path(path)
    if path.is_dir():
        path = _weights_in(path)
    if not path.is_file():
        if path.exists():
            raise WeightsFileError(f"no weights at {path}: it is no regular file.")
        raise no_weights(path)
    return path


def write_safetensors(state: Mapping[str, np.ndarray], path: str | os.PathLike[str], **metadata: str) -> None:
    """Write `{name: array}` as one safetensors file, which is there whole or not at all."""
    # safetensors writes the memory behind an array: a view in another layout would be written wrong.
    arrays = {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in state.items()}
    with replacing(path) as partial:
        try:
            save_file(arrays, partial, metadata=metadata)
        except SafetensorError as error:  # of the system's errors, too
            raise OSError(f"{path} cannot be written: {error}.") from error
        _sort_metadata(partial, metadata)


def _sort_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Give metadata, which the library writes in any order, one order: equal weights shall be equal files."""
    entries = json.dumps(metadata, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
    start = 8 + len(b'{"__metadata__":')
    with path.open("r+b") as file:
        file.seek(start)
        if sorted(file.read(len(entries))) == sorted(entries):
            file.seek(start)
            file.write(entries)


def checksum(state: Mapping[str, np.ndarray]) -> str:
    """The CRC-32 of arrays, with their names, dtypes and shapes, in their order."""

    def of(item: tuple[str, np.ndarray]) -> int:
        name, array = item
        start = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode())
        return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, start)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        crcs = list(pool.map(of, state.items()))
    return f"{zlib.crc32(repr(crcs).encode()):08x}"


def _weights_in(folder: Path) -> Path:
    for name in PREFERRED:
        if (folder / name).is_file():
            return folder / name
    for suffix in (".safetensors", *PICKLED, NPZ):
        files = [file for file in sorted(folder.glob(f"*{suffix}")) if not file.name.startswith(".")]
        if len(files) > 1:
            raise WeightsFileError(
                f"{folder} holds several weights files ({', '.join(f.name for f in files)}); name one of them."
            )
        if files:
            return files[0]
    inner = next((name for name in ("final", "best") if (folder / name / PREFERRED[0]).is_file()), None)
    hint = f" It looks like a run: its model is {folder / inner}." if inner else ""
    raise FileNotFoundError(f"no weights in {folder}; expected one of {', '.join(PREFERRED)}.{hint}")


def _read_shards(index: Path) -> dict[str, Any]:
    weight_map = read_index(index)
    shards = sorted(set(weight_map.values()))
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise FileNotFoundError(f"{index} names {len(absent)} files that are not beside it: {listed(absent)}.")
    state: dict[str, Any] = {}
    for shard in shards:
        content, _ = _read_file(index.parent / shard)
        if not isinstance(content, Mapping):
            raise WeightsFileError(f"{index.parent / shard} holds a {kind_of(content)}; expected arrays by name.")
        promised = {name for name, file in weight_map.items() if file == shard}
        if set(content) != promised:
            missing, unexpected = sorted(promised - set(content)), sorted(map(str, set(content) - promised))
            raise WeightsFileError(
                f"{index.parent / shard} does not hold what {index.name} says: missing "
                f"[{listed(map(repr, missing))}], unexpected [{listed(map(repr, unexpected))}]."
            )
        state |= content
    return state


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def read_config(path: Path) -> dict[str, Any]:
    """A config.json in timm's layout, checked for the one entry that nothing works without; transformers' become that.

    Raises:
        WeightsFileError: it is not JSON, has NaN, is nested too deeply or is too long; or it names no architecture, or
            one of transformers that timm does not have.
    """
    with open_regular(path) as file:
        content = file.read(MAX_CONFIG + 1)
    if len(content) > MAX_CONFIG:
        raise WeightsFileError(f"{path} has more than {MAX_CONFIG >> 20} MiB: it is not a timm model's config.json.")
    try:
        config = json.loads(content.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise WeightsFileError(f"{path} is not JSON ({error}): remove it and fetch or export it again.") from error
    if isinstance(config, dict) and configs.is_transformers(config):
        try:
            config = {**configs.to_timm(config), **{key: config[key] for key in (CHECKSUM,) if key in config}}
        except ValueError as error:
            raise WeightsFileError(f"{path} {error}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise WeightsFileError(f"{path} names no architecture: it is not a timm model's config.json.")
    return config

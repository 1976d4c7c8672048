"""Reading and writing weight files, as `{timm name: numpy array}`.

safetensors files are memory-mapped: an array is a read-only view of the file until it is copied. Pickled files
(.bin, .pth, .pt, .tar) are `port.pickled`'s.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from port.atomic import replacing
from port.errors import WeightsFileError
from port.paths import user_path
from port.pickled import State, plain_names, read_pickled
from port.rules import to_timm

PICKLED = (".bin", ".pth", ".pt", ".tar")
INDEX = ".index.json"
# In a folder, the first of these that exists is read; afterwards the only file of a known kind.
PREFERRED = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "pytorch_model.pth", "model.pth",
)  # fmt: skip
# Metadata of files that hold Flax paths and layouts, as `port convert` writes them.
FLAX_METADATA = {"format": "nfjax"}
MAX_CONFIG = 16 << 20  # bytes; a hundred thousand classes with their names take five


_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def read_weights(path: str | os.PathLike[str]) -> State:
    """The state dict in a file or folder: `{timm name: array}`.

    Dtypes are the file's own, bfloat16 as `ml_dtypes.bfloat16`. Arrays of safetensors files are read-only views of
    the mapped file.

    Args:
        path: a .safetensors file, a sharded one's index (.safetensors.index.json), a pickled .bin, .pth, .pt or .tar
            file, a file that `port convert` wrote, or a folder holding one of these.

    Raises:
        FileNotFoundError: no such file, no weights in the folder, or a missing shard.
        WeightsFileError: the file is truncated, corrupt, of another kind, or holds code.
    """
    path = weights_file(path)
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return plain_names(_read_safetensors(path), str(path))
    if path.suffix in PICKLED:
        return read_pickled(path)
    raise WeightsFileError(
        f"{path}: unknown kind of weights file {path.suffix!r}; expected .safetensors, "
        f".safetensors{INDEX}, {', '.join(PICKLED)}, or a folder with one of these."
    )


def weights_file(path: str | os.PathLike[str]) -> Path:
    """The file that is read for a path: itself, or the one in a folder that `PREFERRED` says.

    Raises:
        FileNotFoundError: there is none.
        WeightsFileError: the folder has several.
    """
    path = user_path(path)
    if path.is_dir():
        path = _weights_in(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: there is no such file.")
    return path


def write_safetensors(state: Mapping[str, np.ndarray], path: str | os.PathLike[str], **metadata: str) -> None:
    """Write `{name: array}` as one safetensors file, which is there whole or not at all."""
    # safetensors writes the memory behind an array: a view in another layout would be written wrong.
    arrays = {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in state.items()}
    with replacing(path) as partial:
        save_file(arrays, partial, metadata=metadata)


def _weights_in(folder: Path) -> Path:
    for name in PREFERRED:
        if (folder / name).is_file():
            return folder / name
    for suffix in (".safetensors", *PICKLED):
        files = sorted(folder.glob(f"*{suffix}"))
        if len(files) > 1:
            raise WeightsFileError(
                f"{folder} holds several weights files ({', '.join(f.name for f in files)}); name one of them."
            )
        if files:
            return files[0]
    inner = next((name for name in ("final", "best") if (folder / name / PREFERRED[0]).is_file()), None)
    hint = f" It looks like a run: its model is {folder / inner}." if inner else ""
    raise FileNotFoundError(f"no weights in {folder}; expected one of {', '.join(PREFERRED)}.{hint}")


def _read_safetensors(path: Path) -> State:
    try:
        # The library checks the header: sizes, offsets without gaps or overlaps, the length of the file.
        with safe_open(path, framework="np") as checked:
            metadata = checked.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsFileError(
            f"{path} is not a valid safetensors file ({path.stat().st_size} bytes): {error}. It may be truncated, "
            f"damaged, or not safetensors at all: download or export it again."
        ) from error
    with path.open("rb") as file:
        header_length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(header_length))
    header.pop("__metadata__", None)
    unknown = {name: spec["dtype"] for name, spec in header.items() if spec["dtype"] not in _DTYPES}
    if unknown:
        raise WeightsFileError(f"{path}: dtypes that cannot be read: {unknown}.")
    data = np.asarray(np.memmap(path, mode="r"))[8 + header_length :]
    state = {}
    for name, spec in header.items():
        start, end = spec["data_offsets"]
        state[name] = data[start:end].view(_DTYPES[spec["dtype"]]).reshape(spec["shape"])
    return to_timm(state) if metadata.get("format") == FLAX_METADATA["format"] else state


def _read_shards(index: Path) -> State:
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsFileError(f"{index} is not an index of shards: {error!r}.") from error
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise FileNotFoundError(f"{index} names {len(absent)} files that are not beside it: {', '.join(absent)}.")
    state: State = {}
    for shard in shards:
        content = read_weights(index.parent / shard)
        promised = {name for name, file in weight_map.items() if file == shard}
        if set(content) != promised:
            raise WeightsFileError(
                f"{index.parent / shard} does not hold what {index.name} says: missing "
                f"{sorted(promised - set(content))}, unexpected {sorted(set(content) - promised)}."
            )
        state |= content
    return state


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def read_config(path: Path) -> dict[str, Any]:
    """A config.json in timm's layout, checked for the one entry that nothing works without.

    Raises:
        WeightsFileError: it is not JSON, has NaN, is nested too deeply or is too long; or it names no architecture.
    """
    with path.open("rb") as file:
        content = file.read(MAX_CONFIG + 1)
    if len(content) > MAX_CONFIG:
        raise WeightsFileError(f"{path} has more than {MAX_CONFIG >> 20} MiB: it is not a timm model's config.json.")
    try:
        config = json.loads(content.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise WeightsFileError(f"{path} is not JSON ({error}): remove it and fetch or export it again.") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise WeightsFileError(f"{path} names no architecture: it is not a timm model's config.json.")
    return config

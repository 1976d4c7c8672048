"""Pickled files of torch, and the state dict that is inside of what they hold; no code in them runs.

torch reads them with `weights_only=True`: tensors and plain containers. What trainers keep beside the weights, numpy's
numbers and arrays, paths and a Namespace of options, comes as inert stand-ins, so that it is no obstacle.
"""

import argparse
import math
import os
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from port.errors import WeightsFileError, listed
from port.paths import open_regular

State = dict[str, np.ndarray]

PICKLED = (".bin", ".pth", ".pt", ".tar")

# A training checkpoint wraps the weights; the averaged ones come first, as in timm's load_state_dict.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
# Prefixes that DistributedDataParallel and torch.compile put before names, in either order.
PREFIXES = ("_orig_mod.", "module.", "_orig_mod.")
# Of tensors that become arrays: numpy's, and bfloat16.
_DTYPES = {f"torch.{name}" for name in ("bool", "bfloat16", "complex64", "complex128", "float16", "float32", "float64")}
_DTYPES |= {f"torch.{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
WAY_OUT = "Where it was written: torch.save(model.state_dict(), FILE), or safetensors."


class _DType:
    """numpy.dtype in a pickle: its letters, such as "f8"."""

    def __init__(self, text: str, *_: Any):
        self.text = text

    def __setstate__(self, state: Any) -> None:
        """Byte order and flags, which nothing here needs."""


class _Array:
    """A numpy array in a pickle: its shape and type, without values."""

    def __init__(self, *_: Any):
        self.shape: Any = None

    def __setstate__(self, state: Any) -> None:
        self.shape = state[1]


def _scalar(dtype: _DType, *_: Any) -> str:
    return f"a numpy number ({dtype.text})"


def _array(*_: Any) -> _Array:
    return _Array()


def _stand_ins() -> list[Any]:
    """What torch may make of the names in a pickle, beside what it knows itself."""
    pairs: list[Any] = [argparse.Namespace, (_DType, "numpy.dtype"), (_Array, "numpy.ndarray")]
    for core in ("numpy.core", "numpy._core"):  # before and since numpy 2
        pairs += [(_scalar, f"{core}.multiarray.scalar"), (_array, f"{core}.multiarray._reconstruct")]
    for module in ("pathlib", "pathlib._local"):  # before and since Python 3.13
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
            pairs.append((pathlib.PurePath, f"{module}.{name}"))
    return pairs


def read_pickled(path: Path) -> State:
    """The state dict of a .bin, .pth, .pt or .tar file.

    Raises:
        ImportError: torch is not installed.
        WeightsFileError: it is damaged, holds code, or no state dict.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs torch, because it is a pickle: pip install torch, or convert it to "
            f"safetensors once on a machine that has it (nfjax convert {path} FILE.safetensors --to timm)."
        ) from error
    with open_regular(path) as file:
        _require_plain(file, path)
        size = os.fstat(file.fileno()).st_size
        try:
            with torch.serialization.safe_globals(_stand_ins()), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tensors that are refused below
                content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            culprit = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
            what = (
                f"a {culprit[1]}, which is more than tensors" if culprit else "more than tensors, or is no torch file"
            )
            raise WeightsFileError(f"{path} holds {what}; nothing in it was executed. {WAY_OUT}") from error
        except Exception as error:  # whatever torch makes of a damaged file
            why = " ".join(str(error).split())[:300] or repr(error)
            raise WeightsFileError(
                f"{path} is not a readable torch file ({size} bytes): {why}. It may be truncated or "
                f"of another kind: download or export it again."
            ) from error
    return state_in(content, str(path), size)


def _require_plain(file: BinaryIO, path: Path) -> None:
    """Refuse what takes more memory than the file has bytes, before torch reads it."""
    pickled = file.read(2**24)  # of the older format, which begins with its pickles
    if pickled.startswith(b"PK\3\4"):
        try:
            archive = zipfile.ZipFile(file)
            packed = [m.filename for m in archive.infolist() if m.compress_type or m.file_size != m.compress_size]
            pickles = [] if packed else [m for m in archive.infolist() if m.filename.endswith("data.pkl")]
            pickled = b"".join(map(archive.read, pickles))
        except Exception:  # whatever zipfile makes of a damaged file: torch, which reads it next, says what it is
            packed = []
        if packed:
            raise WeightsFileError(f"{path} is compressed, which torch never does: {listed(packed)}. {WAY_OUT}")
    if b"\nbytearray\n" in pickled:  # torch makes one of any length
        raise WeightsFileError(f"{path} holds a bytearray, which is more than tensors. {WAY_OUT}")
    file.seek(0)


def state_in(content: Any, source: str, size: float = math.inf) -> State:
    """The state dict in a checkpoint, or in any mapping: without wrappers and prefixes, as numpy arrays.

    Args:
        content: a mapping from names to arrays, of numpy, jax or torch (of any dtype, with or without gradients), or a
            checkpoint that has one under "state_dict_ema", "model_ema", "state_dict" or "model".
        source: where it came from, for messages.
        size: of the file in bytes, which no tensor in it may exceed, nor its own storage; infinite in memory.

    Raises:
        WeightsFileError: it holds something else, or a name twice.
    """
    if isinstance(content, Mapping):
        key = next((k for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        content = content if key is None else content[key]
    if not isinstance(content, Mapping) or not content:
        found = f"an empty {type(content).__name__}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise WeightsFileError(f"{source} holds {found}; expected a state dict of arrays. {WAY_OUT}")
    # They are not shown: a tuple of tuples that hold each other many times is short in a file, and endless as text.
    unnamed = [type(name).__name__ for name in content if not isinstance(name, str)]
    if unnamed:
        raise WeightsFileError(f"{source}: names that are not text, but {listed(unnamed)}. {WAY_OUT}")
    strangers = [name for name, value in content.items() if not _is_array(value)]
    if strangers:
        raise WeightsFileError(
            f"{source}: entries that are not arrays: {listed(strangers)}. Expected a state dict, or a checkpoint with "
            f"one under {', '.join(WRAPPERS)}. {WAY_OUT}"
        )
    refused = [f"{name} ({why})" for name, value in content.items() if (why := _refusal(value, size))]
    if refused:
        raise WeightsFileError(
            f"{source}: tensors that cannot be read: {listed(refused)}. Store plain ones, in float32 or bfloat16."
        )
    return plain_names({name: _to_numpy(array) for name, array in content.items()}, source)


def plain_names(state: State, source: str) -> State:
    """The names without the prefixes of torch's wrappers."""
    plain: State = {}
    for name, array in state.items():
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        if name in plain:
            raise WeightsFileError(f"{source}: {listed([name])} is there twice, with and without a wrapper's prefix.")
        plain[name] = array
    return plain


def _is_array(value: Any) -> bool:
    kind = type(value)  # an object out of a pickle may have any attributes
    return hasattr(kind, "dtype") and hasattr(kind, "__array__")


def _refusal(array: Any, size: float) -> str:
    """What a torch tensor is that no array can be made of, or only one that is larger than what there is of it."""
    if not hasattr(array, "detach"):
        return ""
    import torch

    if array.is_meta:
        return "on the meta device, without numbers"
    if array.is_nested or array.layout != torch.strided:
        return "nested" if array.is_nested else f"of layout {array.layout}"
    if array.is_conj() or array.is_neg():
        return "a view of conjugate or negated numbers"
    if str(array.dtype) not in _DTYPES:
        return f"of {array.dtype}"
    there = size if math.isinf(size) else min(array.untyped_storage().nbytes(), size)
    if array.numel() * array.element_size() > there:
        return f"of shape {tuple(array.shape)}, expanded from {there} bytes"
    return ""


def _to_numpy(array: Any) -> np.ndarray:
    if not hasattr(array, "detach"):
        return np.asarray(array)
    import torch

    tensor = array.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # numpy itself has no such dtype
        return tensor.contiguous().view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()

"""Pickled files of torch, and the state dict that is inside of what they hold; no code in them runs.

torch reads them with `weights_only=True`: tensors and plain containers. What trainers keep beside the weights, numpy's
numbers and arrays, paths and a Namespace of options, comes as inert stand-ins, so that it is no obstacle.
"""

import argparse
import pathlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from port.errors import WeightsFileError

State = dict[str, np.ndarray]

# A training checkpoint wraps the weights; the averaged ones come first, as in timm's load_state_dict.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
# Prefixes that DistributedDataParallel and torch.compile put before names, in either order.
PREFIXES = ("_orig_mod.", "module.", "_orig_mod.")
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
    try:
        with torch.serialization.safe_globals(_stand_ins()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
        what = f"a {culprit[1]}, which is more than tensors" if culprit else "more than tensors, or is no torch file"
        raise WeightsFileError(f"{path} holds {what}; nothing in it was executed. {WAY_OUT}") from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise WeightsFileError(
            f"{path} is not a readable torch file ({path.stat().st_size} bytes): {error}. It may be truncated or "
            f"of another kind: download or export it again."
        ) from error
    return state_in(content, str(path))


def state_in(content: Any, source: str) -> State:
    """The state dict in a checkpoint, or in any mapping: without wrappers and prefixes, as numpy arrays.

    Args:
        content: a mapping from names to arrays, of numpy, jax or torch (of any dtype, with or without gradients), or a
            checkpoint that has one under "state_dict_ema", "model_ema", "state_dict" or "model".
        source: where it came from, for messages.

    Raises:
        WeightsFileError: it holds something else, or a name twice.
    """
    if isinstance(content, Mapping):
        key = next((k for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        content = content if key is None else content[key]
    if not isinstance(content, Mapping) or not content:
        found = f"an empty {type(content).__name__}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise WeightsFileError(f"{source} holds {found}; expected a state dict of arrays. {WAY_OUT}")
    strangers = [str(name) for name, value in content.items() if not _is_array(value) or not isinstance(name, str)]
    if strangers:
        shown = ", ".join(strangers[:8]) + (f" and {len(strangers) - 8} more" if len(strangers) > 8 else "")
        raise WeightsFileError(
            f"{source}: entries that are not arrays: {shown}. Expected a state dict, or a checkpoint with one under "
            f"{', '.join(WRAPPERS)}. {WAY_OUT}"
        )
    return plain_names({name: _to_numpy(array) for name, array in content.items()}, source)


def plain_names(state: State, source: str) -> State:
    """The names without the prefixes of torch's wrappers."""
    plain: State = {}
    for name, array in state.items():
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        if name in plain:
            raise WeightsFileError(f"{source}: {name} is there twice, with and without a wrapper's prefix.")
        plain[name] = array
    return plain


def _is_array(value: Any) -> bool:
    return hasattr(value, "detach") or (hasattr(value, "dtype") and hasattr(value, "__array__"))


def _to_numpy(array: Any) -> np.ndarray:
    if not hasattr(array, "detach"):
        return np.asarray(array)
    import torch

    tensor = array.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # numpy itself has no such dtype
        return tensor.contiguous().view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()

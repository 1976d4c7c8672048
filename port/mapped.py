"""safetensors files, memory-mapped."""

import math
import mmap
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from port.errors import WeightsFileError, listed
from port.paths import open_regular
from port.text import one_line

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
SMALL = 1 << 16  # bytes of an array that are not worth the call that gives them back
MOST = 100_000  # arrays, of which a large model has some thousands: more of them, all empty, take minutes


def read_mapped(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file, read-only views of it, and its metadata.

    The file is opened once: one that replaces it meanwhile is not seen.

    Raises:
        WeightsFileError: it is no safetensors file, or holds what numpy has no array for.
    """
    with open_regular(path) as file:
        # The library wants a path. This one is the open file itself; where there is none such, on Windows, a file that
        # is open cannot be replaced.
        again = f"/dev/fd/{file.fileno()}"
        try:
            # The library checks the header: sizes, offsets without gaps or overlaps, the length of the file.
            with safe_open(again if os.path.exists(again) else path, framework="np") as checked:
                metadata = checked.metadata() or {}
                names = checked.offset_keys()
                if len(names) > MOST:
                    raise ValueError(f"{len(names)} arrays, more than {MOST}")
                parts = [(name, checked.get_slice(name)) for name in names]
                described = [(name, part.get_dtype(), tuple(part.get_shape())) for name, part in parts]
            data = np.asarray(np.memmap(file, mode="r"))
        except (SafetensorError, OSError, ValueError) as error:
            size = os.fstat(file.fileno()).st_size
            raise WeightsFileError(
                f"{path} is not a valid safetensors file ({size} bytes): {one_line(error)}. It may be truncated, "
                f"damaged, or not safetensors at all: download or export it again."
            ) from error
    unknown = [f"{name!r}: {dtype!r}" for name, dtype, _ in described if dtype not in _DTYPES]
    if unknown:
        raise WeightsFileError(f"{path}: dtypes that cannot be read: {{{listed(unknown)}}}. Store them as F32 or BF16.")
    sizes = [math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize for _, dtype, shape in described]
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    if start + sum(sizes) != data.size:
        raise WeightsFileError(f"{path} was written to while it was read; read it again.")
    state = {}
    for (name, dtype, shape), size in zip(described, sizes, strict=True):
        try:
            state[name] = data[start : start + size].view(_DTYPES[dtype]).reshape(shape)
        except (ValueError, OverflowError) as error:  # too many axes, or too long ones of an empty array
            raise WeightsFileError(f"{path}: no array has the shape of {listed([name])}: {error}.") from error
        start += size
    return state, metadata


def release(array: np.ndarray) -> None:
    """Give back the memory that a view of a mapped file takes; the file is read anew where it is used again.

    What is no such view is left alone.
    """
    if array.nbytes < SMALL or not hasattr(mmap, "MADV_DONTNEED"):  # Windows has none
        return
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    if not isinstance(base, mmap.mmap):
        return
    begin = np.frombuffer(base, np.uint8).__array_interface__["data"][0]
    low, high = (address - begin for address in np.lib.array_utils.byte_bounds(array))
    low -= low % mmap.PAGESIZE  # pages that a neighbour shares, too: nothing is lost
    base.madvise(mmap.MADV_DONTNEED, low, high - low)

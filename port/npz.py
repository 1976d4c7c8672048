"""numpy's .npz files, of any library: zip archives of arrays. What would need unpickling is refused."""

import mmap
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

from port.errors import WeightsFileError, listed
from port.haiku import KINDS, Wrong, in_shape, read_parameters
from port.mapped import MOST
from port.paths import open_regular
from port.text import one_line
from port.unpickle import RefusedError

ENDING = ".npz"
# Weights compress to nine tenths; what gets this many times as large, and larger than this many bytes, is no weights.
RATIO, LARGE = 64, 64 << 20
_KEPT = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, by name; two bytes without a type, as jax saves bfloat16, are bfloat16.

    DeepMind gave pickles of haiku's parameters this ending; their numbers are read too (`port.haiku`).

    Raises:
        WeightsFileError: it is damaged, holds objects, or would take much more memory than it has bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            start = file.read(2)
            file.seek(0)
            if start[:1] == b"\x80":
                return read_parameters(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            if start != b"PK":
                raise Wrong("it is no zip archive")
            return _read_archive(file, size)
        except RefusedError as error:
            raise WeightsFileError(
                f"{path} names {listed([str(error)])}, which runs code and is no part of weights; nothing in it was "
                f"executed. Do not trust it."
            ) from error
        except Exception as error:  # whatever zipfile and numpy make of a damaged file
            why = one_line(str(error))[:300] or type(error).__name__
            raise WeightsFileError(
                f"{path} is not a readable .npz file ({size} bytes): {why}. It may be truncated or of another kind: "
                "download or export it again."
            ) from error


def _read_archive(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MOST:
            raise Wrong(f"{len(members)} arrays, more than {MOST}")
        strange = [m.filename for m in members if m.compress_type not in _KEPT or m.flag_bits & 1]
        if strange:
            raise Wrong(f"{strange[0]} is packed as numpy does not")
        packed, unpacked = (sum(getattr(m, of) for m in members) for of in ("compress_size", "file_size"))
        if packed > size or unpacked > max(RATIO * size, LARGE):
            raise Wrong(f"its arrays would take {unpacked} bytes")
        state: dict[str, np.ndarray] = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in state:
                raise Wrong(f"{member.filename} is " + ("there twice" if name in state else "no .npy"))
            with archive.open(member) as content:
                state[name] = _read_array(content, member)
    return state


def _read_array(content: IO[bytes], member: zipfile.ZipInfo) -> np.ndarray:
    version = np.lib.format.read_magic(content)
    if version not in ((1, 0), (2, 0)):
        raise Wrong(f"{member.filename} is of version {version}")
    of_version: Any = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    shape, by_columns, dtype = of_version[version[0]](content)
    if dtype.str == "|V2":
        dtype = np.dtype(jnp.bfloat16)
    elif dtype.kind not in KINDS or dtype.names:
        raise Wrong(f"{member.filename} holds {dtype!s:.80}, which is no number")
    numbers = content.read()  # no more than the archive says, which was checked
    return in_shape(numbers, dtype, shape, by_columns)

"""Files of torch.save, read without torch: the pickle in them by `port.unpickle`, numbers as views of the mapped file.

Both of torch's formats are read: an archive of zip, since 1.6, and the older one, pickles with the numbers behind them.
"""

import io
import mmap
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from port.errors import WAY_OUT, WeightsFileError, listed
from port.paths import open_regular
from port.tensors import DTYPES, REBUILT, STORAGES, Storage
from port.text import one_line
from port.unpickle import Global, RefusedError, StandIn, unpickle

PICKLED = (".bin", ".pth", ".pt", ".tar", ".ckpt")
MAGIC = 0x1950A86A20F9469CFC6C  # of the older format
ZIP, OLDER = b"PK\3\4", b"\x80\x02\x8a\n" + MAGIC.to_bytes(10, "little")  # first bytes of the two formats


def read_pickled(path: Path) -> Any:
    """What a file of torch.save holds: containers, numbers and text as they are, tensors as `port.tensors.Tensor`.

    Of everything else there is a `port.unpickle.StandIn`. No code in the file runs, and no numbers of tensors are read
    yet. Arrays made of them are views of the mapped file.

    Raises:
        WeightsFileError: it is damaged, of another kind, or names what runs code.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return _zipped(zipfile.ZipFile(file), mapped, path) if mapped[:4] == ZIP else _older(mapped, path)
        except WeightsFileError:
            raise
        except RefusedError as error:
            raise WeightsFileError(
                f"{path} names {listed([str(error)])}, which runs code and is no part of weights; nothing in it was "
                f"executed. Do not trust it. {WAY_OUT}"
            ) from error
        except Exception as error:  # whatever becomes of a damaged file
            why = " ".join(str(error).split())[:300] if " " in str(error) else repr(error)[:300]
            raise WeightsFileError(
                f"{path} is not a readable torch file ({size} bytes): {one_line(why)}. It may be truncated or of "
                "another kind: download or export it again."
            ) from error


def _zipped(archive: zipfile.ZipFile, mapped: mmap.mmap, path: Path) -> Any:
    """An archive: `NAME/data.pkl`, and the bytes of each storage in `NAME/data/KEY`."""
    if any(name.endswith("/constants.pkl") for name in archive.namelist()):
        raise WeightsFileError(f"{path} is a TorchScript program, which is not run. {WAY_OUT}")
    members = {member.filename: member for member in archive.infolist()}
    packed = [m.filename for m in members.values() if m.compress_type or m.file_size != m.compress_size]
    if packed:
        raise WeightsFileError(f"{path} is compressed, which torch never does: {listed(packed)}. {WAY_OUT}")
    if len(members) != len(archive.infolist()):
        raise ValueError("it has two members of one name")
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("it is an archive of zip without data.pkl")
    top = pickles[0].removesuffix("data.pkl")
    if not all(name.startswith(top) for name in members):
        raise ValueError("it has members in several folders")
    if f"{top}byteorder" in members and archive.read(f"{top}byteorder") != b"little":
        raise WeightsFileError(f"{path} was written on a big-endian machine. {WAY_OUT}")
    storages: dict[str, Storage] = {}

    def storage(what: Any) -> Storage:
        dtype, key = _described(what)
        if key not in storages:
            storages[key] = Storage(dtype, f"{top}data/{key}", str(path))
            if (member := members.get(f"{top}data/{key}")) is not None:
                start = member.header_offset
                name, extra = (int.from_bytes(mapped[start + at : start + at + 2], "little") for at in (26, 28))
                start += 30 + name + extra
                if mapped[member.header_offset : member.header_offset + 4] != ZIP:
                    raise ValueError(f"the archive's directory is wrong about {key}")
                storages[key].data = _bytes(mapped, start, member.file_size)
                storages[key].crc32 = member.CRC
        return storages[key]

    return unpickle(io.BytesIO(archive.read(f"{top}data.pkl")), KNOWN, storage)


def _older(mapped: mmap.mmap, path: Path) -> Any:
    """Pickles of a magic number, a version, the machine, the content and the keys of storages, whose bytes follow."""
    if unpickle(mapped, KNOWN, _described) != MAGIC:
        raise ValueError("it is a pickle, but not of torch.save")
    storages: dict[str, Storage] = {}

    def storage(what: Any) -> Any:
        if isinstance(what, tuple) and len(what) == 4 and what[0] == "module":
            return what[1]  # a class, with its source
        if not isinstance(what, tuple) or len(what) != 6 or what[5] is not None:
            raise ValueError("a storage of it is a part of another one, as torch wrote them before 0.4")
        dtype, key = _described(what)
        return storages.setdefault(key, Storage(dtype, key, str(path)))

    _, machine, content, keys = (unpickle(mapped, KNOWN, storage) for _ in range(4))
    if not machine["little_endian"]:
        raise WeightsFileError(f"{path} was written on a big-endian machine. {WAY_OUT}")
    for key in keys:
        count = int.from_bytes(mapped.read(8), "little")
        item = DTYPES[storages[key].dtype].itemsize if storages[key].dtype in DTYPES else 1  # the latter are refused
        storages[key].data = _bytes(mapped, mapped.tell(), count * item)
        mapped.seek(count * item, os.SEEK_CUR)
    return content


def _bytes(mapped: mmap.mmap, start: int, count: int) -> np.ndarray:
    if start + count > len(mapped):
        raise ValueError("it ends before its numbers do")
    return np.frombuffer(mapped, np.uint8, count, start) if count else np.zeros(0, np.uint8)


def _described(what: Any) -> tuple[str, str]:
    """The dtype and the key of a storage, of its persistent id: ("storage", class, key, device, count, ...)."""
    if not isinstance(what, tuple) or len(what) < 5 or what[0] != "storage":
        raise ValueError("a persistent id of it is no storage")
    _, kind, key, *_ = what
    if not isinstance(key, str) or len(key) > 100:
        raise ValueError("a storage of it has no key")
    if not isinstance(kind, Global) or kind.name not in STORAGES:
        raise ValueError("a storage of it has a class that is none")
    return STORAGES[kind.name], key


# None of these takes more time or memory than what it is given once: a pickle may give the same thing a million times.


def _mapping(*args: Any) -> Any:
    """An OrderedDict, a defaultdict, or a Counter of another mapping."""
    return args[-1] if args and isinstance(args[-1], dict) else {}


def _few_bytes(text: Any = "", encoding: Any = "") -> Any:
    """Bytes, which pickles of torch hold as text in Latin-1: those of a number."""
    plain = isinstance(text, str) and len(text) <= 16 and encoding == "latin1"
    return text.encode("latin1") if plain else StandIn("bytes")


def _number(dtype: Any = None, data: Any = b"") -> Any:
    """A number of numpy's as Python's."""
    letters = dtype.args[0] if isinstance(dtype, StandIn) and dtype.name == "numpy.dtype" and dtype.args else ""
    size = _NUMBERS.get(letters) if isinstance(letters, str) else None
    if isinstance(data, bytes) and len(data) == size:
        return np.frombuffer(data, letters)[0].item()
    return StandIn("a number of numpy", (dtype, data))


_NUMBERS = {f"{kind}{size}": size for kind in "iu" for size in (1, 2, 4, 8)} | {"f2": 2, "f4": 4, "f8": 8, "b1": 1}
KNOWN = {
    **REBUILT,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "collections.Counter": _mapping,
    "_codecs.encode": _few_bytes,
    "numpy.core.multiarray.scalar": _number,  # before and since numpy 2
    "numpy._core.multiarray.scalar": _number,
}

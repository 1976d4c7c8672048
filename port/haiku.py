"""haiku's parameters in a pickle, as DeepMind published its NFNets: mappings of mappings of numpy arrays.

`port.unpickle` reads the pickle as data; here the arrays are made of what it says of them.
"""

from typing import Any

import numpy as np

from port.errors import listed
from port.unpickle import Global, StandIn, unpickle

KINDS = "biuf"
MOST = 1_000_000  # entries: a network has some thousand arrays
DEPTH = 8  # of mappings in mappings
# What makes an array, whatever module of numpy it is in; the second is dill's, the third of protocol 5.
_MADE = ("multiarray._reconstruct", "dill._dill._create_array", "numeric._frombuffer", "multiarray.scalar")


class Wrong(ValueError):
    """What is wrong with a file of arrays, in a few words."""


def in_shape(numbers: bytes, dtype: Any, shape: Any, by_columns: bool) -> np.ndarray:
    """The array of these bytes, read-only, in the byte order of this machine."""
    array = np.frombuffer(numbers, dtype)
    array = array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def read_parameters(file: Any) -> dict[str, np.ndarray]:
    """The arrays in a pickle of mappings, by their keys with slashes between.

    Args:
        file: `mmap.mmap` or `io.BytesIO`.

    Raises:
        Exception: it is damaged, or holds something else; a ValueError that says what, if that is known.
    """
    found: dict[str, np.ndarray] = {}
    rows: list[tuple[str, Any, int]] = [("", unpickle(file, {}, _no_id), 0)]
    seen = 0
    while rows:
        prefix, value, depth = rows.pop()
        if (seen := seen + 1) > MOST:
            raise Wrong(f"more than {MOST} entries")
        inner = _mapping(value)
        if inner is not None and depth < DEPTH:
            for key, entry in inner.items():
                if not isinstance(key, str):
                    raise Wrong(f"a key that is a {type(key).__name__}")
                rows.append((f"{prefix}/{key}" if prefix else key, entry, depth + 1))
        elif prefix not in found:
            found[prefix] = _array(value, prefix)
    return dict(reversed(found.items()))


def _no_id(_: Any) -> Any:
    raise Wrong("a persistent id, which haiku's parameters do not need")


def _mapping(value: Any) -> dict[Any, Any] | None:
    """What a mapping holds: a dict, haiku's own, or an OrderedDict; None for something else."""
    if not isinstance(value, StandIn):
        return value if isinstance(value, dict) else None
    if value:
        return value
    inner = value.args[0] if isinstance(value.args, tuple) and len(value.args) == 1 else None
    own = value.name.startswith("haiku._src.data_structures.") and isinstance(inner, dict)
    return inner if own else None


def _array(value: Any, name: str) -> np.ndarray:
    kind = value.name if isinstance(value, StandIn) else type(value).__name__
    if not isinstance(value, StandIn) or not kind.endswith(_MADE):
        raise Wrong(f"{listed([name])} is a {listed([kind])}, which is more than arrays; it was not called")
    state, args = value.state, value.args
    if kind.endswith(_MADE[1]):
        state = args[2]
    if kind.endswith(_MADE[2]):
        numbers, dtype, shape, order = args
        by_columns = order == "F"
    elif kind.endswith(_MADE[3]):
        (dtype, numbers), shape, by_columns = args, (), False
    else:
        _, shape, dtype, by_columns, numbers = state
    return in_shape(_bytes(numbers), _dtype(dtype), shape, by_columns is True)


def _bytes(value: Any) -> bytes:
    """Bytes, which protocols before the third have as text in Latin-1."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, StandIn) and value.name == "_codecs.encode" and isinstance(value.args[0], str):
        return value.args[0].encode("latin1")
    if isinstance(value, StandIn) and value.args == () and value.name.endswith(("bytes", "._load_type")):  # none
        return b""
    raise Wrong("an array without numbers")


def _dtype(value: Any) -> Any:
    letters = value.args[0] if isinstance(value, StandIn) and value.name == "numpy.dtype" else None
    if not isinstance(letters, str) or len(letters) > 8:
        raise Wrong(f"numbers of type {value.name if isinstance(value, StandIn | Global) else 'unknown'}")
    dtype = np.dtype(letters)
    if dtype.kind not in KINDS or dtype.names:
        raise Wrong(f"numbers of type {letters}")
    order: Any = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "="
    return dtype.newbyteorder(order) if order in ("<", ">") else dtype

"""Parameters in a pickle, read out of its opcodes: nothing is unpickled, and no name in it is looked up.

haiku's parameters are mappings of numpy arrays. What `dill.dump` and `pickle.dump` write for those are some thirty
opcodes and the few calls below, for which this has its own values. Everything else is refused.
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np

NUMPY = tuple(f"numpy.{core}" for core in ("core", "_core"))  # before and since numpy 2
MOST = 1_000_000  # opcodes: a network of two thousand arrays has eighty thousand
KINDS = "biuf"


class Wrong(ValueError):
    """What is wrong with a file of arrays, in a few words."""


def in_shape(numbers: bytes, dtype: Any, shape: Any, by_columns: bool) -> np.ndarray:
    """The array of these bytes, read-only, in the byte order of this machine."""
    array = np.frombuffer(numbers, dtype)
    array = array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


class _Name(NamedTuple):
    """A global of some module."""

    text: str


class _DType:
    """numpy.dtype, while it is made."""

    def __init__(self, text: Any):
        self.value = np.dtype(_text(text)[:8])
        if self.value.kind not in KINDS or self.value.itemsize > 16:
            raise Wrong(f"numbers of type {text!r:.40}")


class _Array:
    """A numpy array, while it is made."""

    value: Any = None


_MARK = object()


def _text(value: Any) -> str:
    """Text that is; of other things not even the `repr` is safe, which tuples in tuples make endless."""
    if not isinstance(value, str):
        raise Wrong(f"a {type(value).__name__} where text is expected")
    return value


class _Bounded:
    """The file, of which is never read more than there is."""

    def __init__(self, file: IO[bytes], size: int):
        self.file, self.size = file, size

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.size))

    def readline(self) -> bytes:
        return self.file.readline(10_000)

    def tell(self) -> int:
        return self.file.tell()


def read_opcodes(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
    """The arrays in a pickle of mappings, by their keys with slashes between.

    Raises:
        ValueError: saying in a few words what is wrong with it.
    """
    found: dict[str, np.ndarray] = {}
    seen = 0
    rows: list[tuple[str, Any, int]] = [("", _evaluated(file, size), 0)]
    while rows:
        prefix, value, depth = rows.pop()
        if (seen := seen + 1) > MOST:
            raise Wrong(f"more than {MOST} entries")
        if isinstance(value, dict) and depth < 8:
            rows += [(f"{prefix}/{key}" if prefix else str(key), inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, _Array) and isinstance(value.value, np.ndarray) and prefix not in found:
            found[prefix] = value.value
        else:
            raise Wrong(f"{prefix[:80] or 'the whole'} is a {type(value).__name__.strip('_').lower()}")
    return dict(reversed(found.items()))


def _evaluated(file: IO[bytes], size: int) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    bounded: Any = _Bounded(file, size)
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(bounded)):
        if count > MOST:
            raise Wrong(f"more than {MOST} opcodes")
        name = opcode.name
        if name in _PLAIN:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "STOP":
            return stack.pop()
        elif name in _CHANGES:
            _CHANGES[name](stack, argument)
        elif name not in ("PROTO", "FRAME"):
            raise Wrong(f"the opcode {name}, which mappings of arrays do not need")
    raise Wrong("it ends too early")


def _above_mark(stack: list[Any]) -> list[Any]:
    at = len(stack) - 1 - stack[::-1].index(_MARK)
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _tuple(length: int | None) -> Callable[[list[Any], Any], None]:
    def make(stack: list[Any], _: Any) -> None:
        if length is None:
            items = _above_mark(stack)
        else:
            items = stack[-length:]
            del stack[-length:]
        stack.append(tuple(items))

    return make


def _set(items: list[Any], target: Any) -> None:
    if not isinstance(target, dict):
        raise Wrong("something is put into what is no mapping")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str):
            raise Wrong(f"a key that is a {type(key).__name__}")
        target[key] = value


def _setitem(stack: list[Any], _: Any) -> None:
    value, key = stack.pop(), stack.pop()
    _set([key, value], stack[-1])


def _setitems(stack: list[Any], _: Any) -> None:
    items = _above_mark(stack)
    _set(items, stack[-1])


def _global(stack: list[Any], argument: str) -> None:
    stack.append(_Name(argument.replace(" ", ".")))


def _stack_global(stack: list[Any], _: Any) -> None:
    name, module = stack.pop(), stack.pop()
    stack.append(_Name(f"{_text(module)}.{_text(name)}"))


def _reduce(stack: list[Any], _: Any) -> None:
    arguments, function = stack.pop(), stack.pop()
    stack.append(_called(function, arguments))


def _build(stack: list[Any], _: Any) -> None:
    state = stack.pop()
    _restore(stack[-1], state)


def _called(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise Wrong("a call of what is no name")
    known = _mapping if function.text.startswith("haiku._src.data_structures.") else _CALLS.get(function.text)
    if known is None:
        raise Wrong(f"{function.text[:80]}, which is more than arrays; it was not called")
    return known(*arguments)


def _restore(made: Any, state: Any) -> None:
    """What numpy's own `__setstate__` does."""
    if isinstance(made, _DType):
        made.value = made.value.newbyteorder(state[1] if state[1] in ("<", ">") else "=")
    elif isinstance(made, _Array):
        _, shape, dtype, by_columns, numbers = state
        _fill(made, numbers, dtype, shape, by_columns)
    else:
        raise Wrong("a state for what is no array")


def _fill(made: _Array, numbers: Any, dtype: Any, shape: Any, by_columns: Any) -> _Array:
    if not isinstance(numbers, bytes | bytearray) or not isinstance(dtype, _DType):
        raise Wrong("an array without numbers")
    made.value = in_shape(bytes(numbers), dtype.value, shape, by_columns is True)
    return made


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes, as protocols before the third have them."""
    if _text(encoding) != "latin1":
        raise Wrong(f"bytes in {encoding[:40]}")
    return _text(text).encode("latin1")


def _scalar(dtype: _DType, numbers: bytes) -> _Array:
    return _fill(_Array(), numbers, dtype, (), False)


def _created(make: Any, arguments: Any, state: Any, attributes: Any = None) -> Any:
    """dill's `_create_array`: a call, and the state of what it makes."""
    made = _called(make, arguments)
    _restore(made, state)
    return made


def _from_buffer(numbers: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _fill(_Array(), numbers, dtype, shape, order == "F")


def _mapping(*content: Any) -> Any:
    if not content:
        return {}
    (inner,) = content
    if not isinstance(inner, dict):
        raise Wrong("a mapping that is made of something else")
    return inner


_CALLS: dict[str, Callable[..., Any]] = {
    **{f"{core}.multiarray._reconstruct": lambda *_: _Array() for core in NUMPY},
    **{f"{core}.multiarray.scalar": _scalar for core in NUMPY},
    **{f"{core}.numeric._frombuffer": _from_buffer for core in NUMPY},
    "numpy.dtype": lambda text, *_: _DType(text),
    "_codecs.encode": _encoded,
    **{f"{module}bytes": lambda: b"" for module in ("", "__builtin__.", "builtins.")},  # of protocol 2, empty ones
    "dill._dill._create_array": _created,
    "dill._dill._load_type": lambda text: _Name(_text(text).replace("OrderedDict", "collections.OrderedDict")),
    "collections.OrderedDict": _mapping,
}
_PLAIN = {
    *("BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "MARK": lambda: _MARK,
    "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_CHANGES: dict[str, Callable[[list[Any], Any], None]] = {
    "TUPLE": _tuple(None), "TUPLE1": _tuple(1), "TUPLE2": _tuple(2), "TUPLE3": _tuple(3), "SETITEM": _setitem,
    "SETITEMS": _setitems, "GLOBAL": _global, "STACK_GLOBAL": _stack_global, "REDUCE": _reduce, "BUILD": _build,
}  # fmt: skip

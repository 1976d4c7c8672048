"""Pickles read as data: nothing that a pickle names is imported, and nothing that it asks for is called.

A pickle is a program for a small machine with a stack and a memory. This is that machine with its hands tied: numbers,
text and containers are made as the program says; a class or a function is only its name, and what would be an object
of it is a `StandIn`, which notes what it was to be made from. Only functions of the caller's own are called, by name.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MOST = 5_000_000  # instructions, 12 seconds: a checkpoint of a large model has some hundred thousand
# Whoever names these wanted something run. It would not be run here, but such a file deserves no trust.
MODULES = frozenset(
    ("os", "posix", "nt", "sys", "subprocess", "shutil", "pty", "socket", "importlib", "runpy", "ctypes", "marshal",
     "pickle", "_pickle", "webbrowser")
)  # fmt: skip
BUILTINS = frozenset(
    ("__import__", "breakpoint", "compile", "delattr", "eval", "exec", "execfile", "exit", "input", "open", "quit",
     "setattr")
)  # fmt: skip


class RefusedError(ValueError):
    """A pickle that names what runs code. Its text is that name."""


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function, `module.name`."""

    name: str


class StandIn(dict[Any, Any]):
    """What would be an object of a class that is not run: its class's name, and all that the pickle says of it.

    Entries, if it was to be a mapping, are its own; `args` and `state` are what the class would have got.
    """

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: Any = (), state: Any = None):
        super().__init__()
        self.name, self.args, self.state = name, args, state

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__  # type: ignore[assignment]


def unpickle(file: Any, known: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any]) -> Any:
    """The value of the pickle that begins where `file` stands, which is then behind it.

    Args:
        file: `io.BytesIO` or `mmap.mmap`: their reads take no more memory than they have bytes.
        known: what is called for a name, with the pickle's arguments.
        persistent: what is called for a persistent id, which is how torch names the numbers of a tensor.

    Raises:
        RefusedError: it names what runs code.
        Exception: it is damaged, or no pickle; any kind.
    """
    machine = _Machine(known, persistent)
    for count, (op, arg, _) in enumerate(pickletools.genops(file)):
        if count > MOST:
            raise ValueError(f"its pickle has more than {MOST:,} instructions")
        if op.name in _CONSTANTS:
            machine.stack.append(arg)
        else:
            getattr(machine, op.name)(arg)
    return machine.stack.pop()


_CONSTANTS = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
     "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE",
     "BINUNICODE", "BINUNICODE8")
)  # fmt: skip


def as_key(value: Any) -> Any:
    """What stands for a value as a key of a dict: itself if it is text or a small number.

    Hashing others may take forever, or all of C's stack: tuples that hold each other, numbers chosen to collide.
    """
    if isinstance(value, int) and abs(value) < 2**60:
        return value
    if value is None or isinstance(value, str | bytes | float | StandIn | Global):
        return value
    return StandIn(type(value).__name__)


class _Machine:
    """The stack, the memory, and a method for each instruction; `_` is an argument that it has no use for."""

    def __init__(self, known: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any]):
        self.known, self.persistent = known, persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memory: dict[int, Any] = {}

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _named(self, module: str, name: str) -> Global:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        if module.partition(".")[0] in MODULES or (module == "builtins" and name in BUILTINS):
            raise RefusedError(f"{module}.{name}")
        return Global(f"{module}.{name}")

    def _made(self, what: Any, args: Any) -> Any:
        name = what.name if isinstance(what, Global | StandIn) else type(what).__name__
        if isinstance(what, Global) and name in self.known and isinstance(args, tuple):
            return self.known[name](*args)
        return StandIn(name, args)

    def _nothing(self, _: Any) -> None: ...

    PROTO = FRAME = STOP = _nothing

    def NONE(self, _: Any) -> None:
        self.stack.append(None)

    def NEWTRUE(self, _: Any) -> None:
        self.stack.append(True)

    def NEWFALSE(self, _: Any) -> None:
        self.stack.append(False)

    # Containers. A set is a list here: nothing is hashed.

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    EMPTY_LIST = EMPTY_SET = _empty_list

    def EMPTY_DICT(self, _: Any) -> None:
        self.stack.append({})

    def EMPTY_TUPLE(self, _: Any) -> None:
        self.stack.append(())

    def _list(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append(items)

    LIST = FROZENSET = _list

    def TUPLE(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append(tuple(items))

    def _last(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def TUPLE1(self, _: Any) -> None:
        self._last(1)

    def TUPLE2(self, _: Any) -> None:
        self._last(2)

    def TUPLE3(self, _: Any) -> None:
        self._last(3)

    def DICT(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._set(items)

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(zip(map(as_key, items[::2]), items[1::2], strict=True))

    def SETITEM(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def SETITEMS(self, _: Any) -> None:
        self._set(self._since_mark())

    def _add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)

    def APPEND(self, _: Any) -> None:
        item = self.stack.pop()
        self._add([item])

    def _appends(self, _: Any) -> None:
        self._add(self._since_mark())

    APPENDS = ADDITEMS = _appends

    # The stack and the memory.

    def MARK(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def POP(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def POP_MARK(self, _: Any) -> None:
        self._since_mark()

    def DUP(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _get(self, arg: Any) -> None:
        self.stack.append(self.memory[int(arg)])

    GET = BINGET = LONG_BINGET = _get

    def _put(self, arg: Any) -> None:
        self.memory[int(arg)] = self.stack[-1]

    PUT = BINPUT = LONG_BINPUT = _put

    def MEMOIZE(self, _: Any) -> None:
        self.memory[len(self.memory)] = self.stack[-1]

    # What would import and call.

    def GLOBAL(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self.stack.append(self._named(module, name))

    def STACK_GLOBAL(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name of it is no text")
        self.stack.append(self._named(module, name))

    def _call(self, _: Any) -> None:
        args, what = self.stack.pop(), self.stack.pop()
        self.stack.append(self._made(what, args))

    REDUCE = NEWOBJ = _call

    def NEWOBJ_EX(self, _: Any) -> None:
        named, args, what = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(StandIn(what.name, (args, named)) if isinstance(what, Global) else StandIn("object"))

    def INST(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        args = tuple(self._since_mark())
        self.stack.append(self._made(self._named(module, name), args))

    def OBJ(self, _: Any) -> None:
        what, *args = self._since_mark()
        self.stack.append(self._made(what, tuple(args)))

    def BUILD(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].state = state

    def BINPERSID(self, _: Any) -> None:
        self.stack.append(self.persistent(self.stack.pop()))

    def _unknown(self, _: Any) -> None:
        raise ValueError("its pickle has an instruction that torch never writes")

    PERSID = EXT1 = EXT2 = EXT4 = NEXT_BUFFER = READONLY_BUFFER = _unknown

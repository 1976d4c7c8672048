"""The fields of a config by their dotted paths: types, documentation, and values from text.

`train.config` is the only source: types come from its annotations, documentation from its docstrings.
"""

import ast
import dataclasses
import difflib
import inspect
import math
import re
import types
import typing
from typing import Any

from train.config import Config

_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_NAMES = {int: "an integer", float: "a finite number", bool: "true or false", str: "text"}


@dataclasses.dataclass(frozen=True)
class Field:
    """A field that is not a section.

    Attributes:
        path: e.g. "optim.lr".
        kind: its annotation.
        value: in the config that it was taken from.
        doc: its documentation, on one line.
    """

    path: str
    kind: Any
    value: Any
    doc: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that the documentation quotes, where it quotes the value of the default `Config` too."""
        quoted = tuple(re.findall(r'"(\w+)"', self.doc))
        return quoted if _default(self.path) in quoted else ()

    @property
    def expected(self) -> str:
        """What to give it, in words."""
        return "one of " + ", ".join(self.choices) if self.choices else _expected(self.kind)

    @property
    def type_name(self) -> str:
        """Its type, in short: "float", "str or none", "float,float or none", "str,..."."""
        return _type_name(self.kind)

    def parse(self, text: str) -> Any:
        """The value that is written `text` on the command line.

        Raises:
            ValueError: if it has another type, or is none of the choices.
        """
        value = _parse(text, self.kind)
        if not self.accepts(value):
            raise ValueError(f"{text!r} is not {self.expected}")
        return value

    def accepts(self, value: Any) -> bool:
        """Is it of the field's type, and one of its choices?"""
        return _fits(value, self.kind) and (not self.choices or value in self.choices)


def fields(config: Any = None, prefix: str = "") -> dict[str, Field]:
    """All fields of a config by path, in the order of the source; sections are walked through, not listed."""
    config = Config() if config is None else config
    hints, docs = typing.get_type_hints(type(config)), attribute_docs(type(config))
    found: dict[str, Field] = {}
    for field in dataclasses.fields(config):
        path, value = f"{prefix}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            found |= fields(value, f"{path}.") if isinstance(value, hints[field.name]) else {}
        else:
            found[path] = Field(path, hints[field.name], value, docs.get(field.name, ""))
    return found


def sections() -> dict[str, type]:
    """The dataclass of each section, by name."""
    return {name: kind for name, kind in typing.get_type_hints(Config).items() if hasattr(kind, "__dataclass_fields__")}


def attribute_docs(kind: type) -> dict[str, str]:
    """The entries of the "Attributes:" part of a docstring, each on one line."""
    _, _, part = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", part, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def nearest(path: str) -> list[str]:
    """Fields that may have been meant by `path`: the same name in another section first, then similar paths."""
    paths = list(fields())
    name = path.rpartition(".")[2]
    same = [p for p in paths if p.rpartition(".")[2] == name]
    return list(dict.fromkeys(same + difflib.get_close_matches(path, paths, n=3, cutoff=0.75)))[:4]


def check_types(config: Config) -> None:
    """Refuse values of another type than their field's, and names that are none of a field's choices.

    Raises:
        ValueError: naming each such field.
    """
    wrong = [
        f"  {name}={getattr(config, name)!r}: expected a train.config.{kind.__name__}"
        for name, kind in sections().items()
        if not isinstance(getattr(config, name), kind)
    ]
    for field in fields(config).values():
        if not field.accepts(field.value):
            wrong.append(f"  {field.path}={field.value!r}: expected {field.expected}")
    if wrong:
        raise ValueError("values that do not fit their fields:\n" + "\n".join(wrong))


def _default(path: str) -> Any:
    value: Any = Config()
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _optional(kind: Any) -> Any:
    """T of `T | None`, else None."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        inner = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        if len(inner) == 1:
            return inner[0]
    return None


def _items(kind: Any, count: int) -> tuple[Any, ...] | None:
    """The types of `count` elements of a tuple type; None if it has another number of them."""
    args = typing.get_args(kind)
    if args[-1] is Ellipsis:
        return (args[0],) * count
    return args if len(args) == count else None


def _parse(text: str, kind: Any) -> Any:
    inner = _optional(kind)
    if inner is not None:
        return None if text.lower() == "none" else _parse(text, inner)
    if kind is bool:
        if text.lower() not in _BOOLS:
            raise ValueError(f"{text!r} is neither true nor false")
        return _BOOLS[text.lower()]
    if kind in (int, float, str):
        return kind(text)
    items = _split(text)
    kinds = _items(kind, len(items))
    if kinds is None:
        raise ValueError(f"{text!r} has {len(items)} values")
    return tuple(_parse(item, k) for item, k in zip(items, kinds, strict=True))


def _split(text: str) -> list[str]:
    """The elements of a Python tuple or list, else the texts between commas."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if isinstance(value, tuple | list):
        return [str(item) for item in value]
    return [item.strip() for item in text.split(",")] if text else []


def settable(kind: Any) -> bool:
    """Can the command line give a value of this type? A tuple of tables, for one, belongs in the config file."""
    inner = _optional(kind)
    if inner is not None:
        return settable(inner)
    if typing.get_origin(kind) is tuple:
        return all(item in _NAMES for item in typing.get_args(kind) if item is not Ellipsis)
    return kind in _NAMES


def _fits(value: Any, kind: Any) -> bool:
    inner = _optional(kind)
    if inner is not None:
        return value is None or _fits(value, inner)
    if typing.get_origin(kind) is tuple:
        kinds = _items(kind, len(value)) if isinstance(value, tuple) else None
        return kinds is not None and all(map(_fits, value, kinds))
    if kind in (int, float):
        numbers = (int, float) if kind is float else int
        return isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


def _expected(kind: Any) -> str:
    inner = _optional(kind)
    if inner is not None:
        return f"{_expected(inner)}, or none"
    if typing.get_origin(kind) is tuple:
        args = typing.get_args(kind)
        if args[-1] is Ellipsis:
            return f"{_plural(args[0])} with commas between, or a Python tuple"
        return f"{len(args)} {_plural(args[0])} with commas between"
    return _NAMES.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _plural(kind: Any) -> str:
    return {int: "integers", float: "numbers", str: "texts", bool: "of true or false"}.get(kind, f"{kind.__name__}s")


def _type_name(kind: Any) -> str:
    inner = _optional(kind)
    if inner is not None:
        return f"{_type_name(inner)} or none"
    if typing.get_origin(kind) is tuple:
        return ",".join("..." if arg is Ellipsis else _type_name(arg) for arg in typing.get_args(kind))
    return str(kind.__name__)

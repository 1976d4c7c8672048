"""The fields of a config by dotted path: types and documentation as `train.config` has them, and values from text."""

import ast
import dataclasses
import math
import types
import typing
from typing import Annotated, Any, Literal

from docstring_parser import parse

from port.ranges import Range
from train.config import Config

_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_ONE = {int: "an integer", float: "a finite number", bool: "true or false", str: "text"}
_MANY = {int: "integers", float: "numbers", bool: "of true or false", str: "texts"}


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a config or of a section: a value, or a section itself."""

    path: str  # e.g. "optim.lr"
    value: Any  # in the config that it was taken from
    doc: str  # its documentation, on one line
    item: type  # of its value, or of the elements of a tuple
    choices: tuple[Any, ...]  # all that a value or an element can be; empty if they are many
    range: Range | None  # of the numbers
    length: int | None  # elements of a tuple; None for any number of them, 1 if it is no tuple
    optional: bool  # can it be None?

    @classmethod
    def of(cls, path: str, kind: Any, value: Any, doc: str) -> "Field":
        """The field of an annotation: `T`, `tuple[T, T]`, `tuple[T, ...]`, each also `| None`."""
        kind, bounds = _bare(kind)
        args = typing.get_args(kind)
        length: int | None = 1
        if optional := types.NoneType in args:
            (kind,) = set(args) - {types.NoneType}
        if typing.get_origin(kind) is tuple:
            args = typing.get_args(kind)
            length = None if Ellipsis in args else len(args)
            (kind,) = set(args) - {Ellipsis}
        kind, inner = _bare(kind)
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        return cls(path, value, doc, type(choices[0]) if choices else kind, choices, inner or bounds, length, optional)

    @property
    def settable(self) -> bool:
        """Can the command line give a value? A tuple of tables, for one, belongs in the config file."""
        return self.item in _ONE

    @property
    def is_section(self) -> bool:
        return dataclasses.is_dataclass(self.item) and self.length == 1 and not self.optional

    @property
    def words(self) -> tuple[str, ...]:
        """Its choices as they are written, true and false among them."""
        return ("true", "false") if self.item is bool else tuple(map(str, self.choices))

    @property
    def type_name(self) -> str:
        """Its type, in short: "float", "str or none", "float,float or none", "str,...", "ce|bce"."""
        name = "|".join(map(str, self.choices)) or self.item.__name__
        return ",".join([name] * self.length if self.length else [name, "..."]) + " or none" * self.optional

    @property
    def expected(self) -> str:
        """What to give it, in words."""
        if self.choices:
            words = "one of " + ", ".join(map(str, self.choices))
        elif self.length == 1:
            words = _ONE.get(self.item, f"a train.config.{self.item.__name__}")
        else:
            count = f"{self.length} " if self.length else ""
            words = f"{count}{_MANY.get(self.item, f'train.config.{self.item.__name__}')} with commas between"
        if self.range:
            words += f", {self.range}" if self.length == 1 else f", each {self.range}"
        return words + ", or a Python tuple" * (self.length is None) + ", or none" * self.optional

    def parse(self, text: str) -> Any:
        """The value that is written `text` on the command line; a ValueError if it is not what is expected."""
        if self.optional and text.lower() == "none":
            return None
        value = self._read(text) if self.length == 1 else tuple(map(self._read, _split(text)))
        if value is None or not self.accepts(value):
            raise ValueError(f"{text!r} is not {self.expected}")
        return value

    def accepts(self, value: Any) -> bool:
        """Is it of the field's type, one of its choices, within its range?"""
        if value is None or self.length == 1:
            return self.optional if value is None else self._fits(value)
        return isinstance(value, tuple) and self.length in (None, len(value)) and all(map(self._fits, value))

    def _read(self, text: str) -> Any:
        if self.item is bool:
            return _BOOLS.get(text.lower())
        return {str(choice): choice for choice in self.choices}.get(text) if self.choices else self.item(text)

    def _fits(self, value: Any) -> bool:
        if self.item in (int, float):  # True is an int for Python, and 3 no float
            numbers = int if self.item is int else (int, float)
            right = isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
            return right and (self.range is None or value in self.range) and value in (self.choices or (value,))
        return isinstance(value, self.item) and value in (self.choices or (value,))


def fields(config: Any = None, prefix: str = "") -> dict[str, Field]:
    """All fields of a config by path, in the order of the source; sections are walked through, not listed."""
    found: dict[str, Field] = {}
    for field in members(Config() if config is None else config, prefix):
        found |= fields(field.value, f"{field.path}.") if field.is_section else {field.path: field}
    return found


def members(config: Any, prefix: str) -> list[Field]:
    """The fields of a config or of a section, sections among them."""
    docs = attribute_docs(type(config))
    hints = typing.get_type_hints(type(config), include_extras=True).items()
    return [Field.of(prefix + name, kind, getattr(config, name, None), docs.get(name, "")) for name, kind in hints]


def attribute_docs(kind: type) -> dict[str, str]:
    """The entries of the "Attributes:" part of a docstring, each on one line."""
    return {entry.arg_name: " ".join((entry.description or "").split()) for entry in parse(kind.__doc__ or "").params}


def _bare(kind: Any) -> tuple[Any, Range | None]:
    """An annotation without its notes, and the range among them."""
    kind, *notes = typing.get_args(kind) if typing.get_origin(kind) is Annotated else (kind,)
    return kind, next((note for note in notes if isinstance(note, Range)), None)


def _split(text: str) -> list[str]:
    """The elements of a Python tuple or list, else the texts between commas."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):  # the last: {{}}
        value = None
    if isinstance(value, tuple | list):
        return [str(item) for item in value]
    return [item.strip() for item in text.split(",")] if text else []

"""Types and ranges of options, checked where they are given: what was found, and what is expected, in one sentence."""

import reprlib
import sys
import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np

from port.ranges import Choice

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 2


def check_types(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Refuse values that are not of the types and in the ranges that their annotations say.

    Raises:
        ValueError: naming all of them.
    """
    if told := mistakes(values, kinds):
        raise ValueError(f"{'; '.join(told.values())}.")


def mistakes(values: Mapping[str, Any], kinds: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A sentence for each value that is not what its annotation says; those of no simple type are let through."""
    told = {}
    for option, value in values.items():
        kind = kinds.get(option, Any)
        if not _fits(value, kind):
            unknown = " is not known" if isinstance(value, str) and _chosen(kind) else ""
            told[option] = f"{prefix}{option}={shown(value)}{unknown}; expected {_words(kind)}"
    return told


def shown(value: Any) -> str:
    """The beginning of a value's `repr`, however long or deep it is."""
    return _SHORT.repr(value)


def plain_numbers(value: Any) -> Any:
    """numpy's numbers as Python's, in tuples, lists and mappings too."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return type(value)(map(plain_numbers, value))
    return {name: plain_numbers(one) for name, one in value.items()} if isinstance(value, Mapping) else value


def _fits(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(value, args[0]) and all(value in note for note in args[1:])
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in args)
    if origin is Literal:
        return value in args
    if origin in (tuple, Sequence):
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        several = origin is Sequence or args[-1] is Ellipsis
        return (several or len(value) == len(args)) and all(_fits(item, args[0]) for item in value)
    if kind in (int, float):  # True is an int for Python
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return number and (kind is int or abs(value) <= sys.float_info.max)
    return isinstance(value, kind) if kind in (bool, str, type(None)) else True


def _chosen(kind: Any) -> bool:
    return isinstance(kind, Choice) or any(map(_chosen, get_args(kind)))


def _words(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return ", ".join([_words(args[0]), *map(str, args[1:])])
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, args))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (tuple, Sequence):
        several = origin is Sequence or args[-1] is Ellipsis
        return f"{'several' if several else len(args)} of them, each {_words(args[0])}"
    return _WORDS.get(kind, str(kind))

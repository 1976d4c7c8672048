"""Types of options, checked where they are given: what was found, and what is expected, in one sentence."""

import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}


def check_types(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Refuse a value that is not of the type that its annotation says; those of no simple type are let through.

    Raises:
        ValueError: for the first one.
    """
    for option, value in values.items():
        kind = kinds.get(option, Any)
        if not _fits(value, kind):
            raise ValueError(f"{option}={value!r:.80}; expected {_words(kind)}.")


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
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in args)
    if origin is Literal:
        return value in args
    if origin in (tuple, Sequence):
        return (
            isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(item, args[0]) for item in value)
        )
    if kind in (int, float):  # True is an int for Python
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is bool:
        return isinstance(value, bool)
    return isinstance(value, kind) if kind in (str, type(None)) else True


def _words(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, args))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (tuple, Sequence):
        return f"several of them, each {_words(args[0])}"
    return _WORDS.get(kind, str(kind))

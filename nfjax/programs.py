"""What was compiled for a model, kept as long as the model is there and its parameters are the same."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any

from nfjax.models.base import ImageModel
from nfjax.params import named_params

_Kept = dict[Hashable, tuple[Callable[..., Any], list[Any]]]  # and the parameters that it was compiled with
_programs: "weakref.WeakKeyDictionary[ImageModel, _Kept]" = weakref.WeakKeyDictionary()


def kept(model: ImageModel, key: Hashable, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """What `make()` has returned for the model and the key, which is called again once parameters have changed.

    What it returns must not refer to the model, which would then stay for ever.
    """
    # Arrays of jax never change: other parameters are other arrays.
    params = [variable.get_value() for variable in named_params(model).values()]
    programs = _programs.setdefault(model, {})
    program, of = programs.get(key, (None, []))
    if program is None or len(of) != len(params) or any(a is not b for a, b in zip(of, params, strict=True)):
        program = make()
        programs[key] = program, params
    return program

"""Packages that import their modules when a name of them is first used (PEP 562), so that commands answer at once."""

import importlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_LOCK = threading.RLock()  # imports of modules that import each other, by several threads at once, wait for each other


def lazy(package: str, names: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that offers `names`, given by the module that has them.

    Modules of the package are found as well, as they are after they were imported.
    """
    homes = {name: module for module, members in names.items() for name in members}

    def get(name: str) -> Any:
        if name in homes:
            with _LOCK:
                value = getattr(importlib.import_module(homes[name]), name)
            setattr(sys.modules[package], name, value)  # from now on without this function
            return value
        if not name.startswith("_"):
            try:
                with _LOCK:
                    return importlib.import_module(f"{package}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{package}.{name}":
                    raise
        hidden = vars(sys.modules[package]).get("_hides")  # see nfjax.siblings
        if hidden and not name.startswith("_"):
            raise ImportError(
                f"{package!r} is a package of nfjax and has no {name!r}. Did you mean that of {hidden}? Rename this "
                "file: both have the same name."
            )
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted({*vars(sys.modules[package]), *homes})

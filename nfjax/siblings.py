"""`port` and `train`, the packages that are installed beside nfjax, where a user's file has the same name.

Python imports the first `port` that it finds; in a folder with a `port.py`, that is the user's. `import nfjax` then
imports its own `port` from beside itself. If no other file has the name, nothing is changed. Only the command `nfjax`
needs `train`: it searches its own folder first.
"""

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

PARENT = str(Path(__file__).parent.parent)
NAMES = ("port", "train")


def claim(name: str) -> None:
    """Make `import name` find the package beside nfjax, in this process.

    Raises:
        ImportError: another module of this name was imported before.
    """
    _refuse_train_module()
    other, ours = _in_the_way(name, _found(name)), PathFinder.find_spec(name, [PARENT])
    if other is None or ours is None or ours.loader is None:
        return
    if name in sys.modules:
        raise ImportError(
            f"{other} was imported as {name!r}, which is also the name of a package of nfjax: rename this file."
        )
    module = importlib.util.module_from_spec(ours)
    vars(module)["_hides"] = other  # for a message, if the other one's contents are looked for
    sys.modules[name] = module
    ours.loader.exec_module(module)


def search_our_folder_first() -> None:
    """For a command: search nfjax's folder first if another module is in the way, in child processes too."""
    if any(_in_the_way(name, _search(name)) for name in NAMES):
        sys.path.insert(0, PARENT)
    for name in NAMES:
        claim(name)


def _refuse_train_module() -> None:
    """`python -m train.main` beside a `train.py` that imports nfjax: say so. One that does not is out of our reach."""
    module = sys.modules.get("train")
    if sys.argv[:1] == ["-m"] and module is not None and not hasattr(module, "__path__"):
        print(
            f"error: {module.__file__} is in the way of nfjax's package train; `nfjax train ...` is the same command "
            "as `python -m train.main ...` and works here.",
            file=sys.stderr,
        )
        raise SystemExit(2)


def _found(name: str) -> ModuleSpec | None:
    """What `import name` gives."""
    if name in sys.modules:
        module = sys.modules[name]
        return module.__spec__ or ModuleSpec(name, None, origin=getattr(module, "__file__", None))
    return _search(name)


def _search(name: str) -> ModuleSpec | None:
    """What `import name` would give if it was not imported yet."""
    return next(filter(None, (finder.find_spec(name, None) for finder in sys.meta_path)), None)


def _in_the_way(name: str, spec: ModuleSpec | None) -> str | None:
    """The file or folder of a module that is not the package beside nfjax; None if it is that."""
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [])
    if any(os.path.realpath(place) == os.path.join(os.path.realpath(PARENT), name) for place in places):
        return None
    return spec.origin if spec.has_location and spec.origin else next(iter(places), name)

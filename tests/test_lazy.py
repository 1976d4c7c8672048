"""Packages whose names are imported on use: their three lists of names agree, and nothing is lost by it."""

import ast
import importlib
from pathlib import Path

import pytest

import nfjax

ROOT = Path(__file__).parent.parent
LAZY = ["nfjax", "nfjax.augment", "port", "train.data"]


def listed(package):
    """What the source imports for type checkers, and what it imports on use: names by module."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    checked = {node.module: tuple(alias.name for alias in node.names) for node in block.body}
    (call,) = (n for node in block.orelse for n in ast.walk(node) if isinstance(n, ast.Call))
    return checked, ast.literal_eval(call.args[1])


@pytest.mark.parametrize("package", LAZY)
def test_the_lists_of_names_agree(package):
    checked, used = listed(package)
    assert checked == used
    module = importlib.import_module(package)
    assert sorted(name for names in used.values() for name in names) == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    for place, names in used.items():
        for name in names:
            assert getattr(module, name) is getattr(importlib.import_module(place), name)


def test_star_modules_and_what_there_is_not():
    names = {}
    exec("from nfjax import *", names)
    assert names["load"] is nfjax.load
    assert set(nfjax.__all__) <= set(names)
    assert nfjax.params is importlib.import_module("nfjax.params")
    assert not hasattr(nfjax, "lode")
    with pytest.raises(AttributeError, match=r"module 'nfjax' has no attribute 'lode'"):
        _ = nfjax.lode
    with pytest.raises(ImportError, match="cannot import name 'lode' from 'nfjax'"):
        exec("from nfjax import lode")

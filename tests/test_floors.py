"""The floors of docs/design.md: imports point to the same floor or down, and never in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ["port", "nfjax", "train"]  # from the ground up
ORACLE = {"torch", "timm", "torchvision", "sklearn"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for floor in FLOORS
    for path in (ROOT / floor).rglob("*.py")
}


def imports(name, *, top_level):
    """Modules that a module imports: anywhere, or at import time only."""
    tree = ast.parse(MODULES[name].read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: relative imports hide the floor"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    if name.endswith("__main__"):
        return  # an entry point stands above the floors
    floor = name.split(".")[0]
    above = FLOORS[FLOORS.index(floor) + 1 :]
    assert not [m for m in imports(name, top_level=False) if m.split(".")[0] in above]


@pytest.mark.parametrize("name", MODULES)
def test_no_oracle_at_import_time(name):
    assert not {m.split(".")[0] for m in imports(name, top_level=True)} & ORACLE


def test_no_circles():
    graph = {}
    for name in MODULES:
        # A package's __init__ gathers its modules; inside the package they import each other directly.
        graph[name] = {m for m in imports(name, top_level=True) if m in MODULES and m != name.split(".")[0]}
    list(TopologicalSorter(graph).static_order())


def test_files_stay_readable():
    long = {name: n for name, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 400}
    assert not long

"""The rules of docs/design.md: imports point down and never in a circle, and what each folder must not hold."""

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


def folder(name):
    """The folder that a module belongs to: itself, if it stands at the top of its floor."""
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("of", [str, folder], ids=["files", "folders"])
def test_no_circles(of):
    graph = {}
    for name in MODULES:
        # A package's __init__ gathers its modules; inside the package they import each other directly.
        if of is folder and MODULES[name].stem in ("__init__", "__main__"):
            continue
        found = {of(m) for m in imports(name, top_level=True) if m in MODULES and m != name.split(".")[0]}
        graph.setdefault(of(name), set()).update(found - {of(name)})
    list(TopologicalSorter(graph).static_order())


FORMULAS = [name for name in MODULES if name.startswith(("nfjax.models.", "nfjax.nn."))]
SPEED = {
    *("backend", "traced_for", "default_backend", "compiler_options"),
    *("optimization_barrier", "custom_jvp", "custom_vjp", "defjvp", "defjvps", "defvjp"),
}


def of_speed(code):
    """What a formula must not hold: a question for the backend, a barrier, a derivative by hand, an option of XLA."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        words = [getattr(node, word, None) for word in ("id", "attr", "arg", "name")]
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words += [node.value] if node.value.startswith("xla_") else []
        found |= {word for word in words if word in SPEED or str(word).startswith("xla_")}
    return found


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_are_formulas(name):
    assert not of_speed(MODULES[name].read_text())


@pytest.mark.parametrize(
    "code",
    [
        "from nfjax.fast.backend import backend",
        "jax.default_backend()",
        "jax.lax.optimization_barrier(x)",
        "@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))\ndef f(x, n): ...",
        "f.defjvp(g)",
        "jax.jit(f, compiler_options={})",
        "options = {'xla_cpu_multi_thread_eigen': False}",
    ],
)
def test_that_rule_sees_what_is_no_formula(code):
    assert of_speed(code)


def test_what_is_fast_knows_no_formula():
    for name in MODULES:
        if name.startswith("nfjax.fast"):
            assert not {m for m in imports(name, top_level=False) if m.startswith(("nfjax.nn", "nfjax.models"))}, name


def test_train_opens_with_its_doors():
    doors = {"main", "evaluate", "average", "curves", "probe", "to_timm"}
    files = {path.name for path in (ROOT / "train").iterdir() if path.is_file()}
    rooms = {"config", "experiment", "step", "loop"}
    assert files == {f"{name}.py" for name in {"__init__"} | doors | rooms} | {"py.typed"}
    assert not [door for door in doors if len(MODULES[f"train.{door}"].read_text().splitlines()) >= 40]


def test_files_stay_readable():
    long = {name: n for name, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 350}
    assert not long

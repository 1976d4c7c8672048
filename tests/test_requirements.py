"""requirements.txt, with hashes, names the versions of constraints.txt, and everything that users' extras ask for."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def versions(file):
    """Versions by the package's normalised name."""
    found = re.findall(r"^([\w.\-]+)==([\w.+!]+)", (ROOT / file).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_versions_are_those_of_the_constraints():
    required, constrained = versions("requirements.txt"), versions("constraints.txt")
    del required["setuptools"]  # which `pip freeze` leaves out
    assert {name: constrained.get(name) for name in required} == required
    assert len(required) > 50


def test_everything_that_users_install_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [
        line for name in ("train", "cli", "data", "export", "onnx") for line in extras[name]
    ]
    names = {re.sub(r"[-_.]+", "-", re.match(r"[\w.\-]+", line)[0]).lower() for line in wanted}
    assert names <= versions("requirements.txt").keys()


def test_everything_has_hashes():
    blocks = re.split(r"^(?=[\w.\-]+==)", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)[1:]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)

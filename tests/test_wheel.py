"""What users get: the wheel, installed beside nothing of the checkout, in folders with files of the same names."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import nfjax

ROOT = Path(__file__).parent.parent
PACKAGES = ("nfjax", "port", "train")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def call(*command, cwd, **environment):
    """A command that does not know of the checkout."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=kept | {"JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
    )


def done(*command, cwd, **environment):
    """The output of a command that succeeds, and says nothing on the other stream."""
    result = call(*command, cwd=cwd, **environment)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The checkout without what builds and tests leave in it."""
    root = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*PACKAGES, "tests", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root)
    return root


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    done(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ".", cwd=source)
    (file,) = folder.iterdir()
    return file


def environment(folder, *install):
    """A new environment with nfjax; all else is borrowed from this one. Returns the folder of its programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    place = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=place))
    # The line is only searched: an editable nfjax, which has a file of this kind itself, is not found there.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    programs = Path(sysconfig.get_path("scripts", "venv", vars=place))
    python = ["--python", programs / "python", "install", "--no-deps", "--no-build-isolation"]
    done(*PIP, *python, *install, cwd=folder)
    return programs


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("venv"), wheel)


@pytest.fixture
def crowded(tmp_path):
    """A folder whose files have the names of our packages."""
    for name in ("port", "train"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the {name}.py of the user ran')\n")
    return tmp_path


def test_what_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (info,) = {name.partition("/")[0] for name in archive.namelist()} - set(PACKAGES)
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        scripts = archive.read(f"{info}/entry_points.txt").decode()
    kinds = {".py", ".typed", ".csv", ".gz", ".html", ".mjs", ""}  # all that there are; "" is a NOTICE
    ours = {path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file() and path.suffix in kinds}
    assert names == {path.relative_to(ROOT).as_posix() for path in ours}
    assert {f"{name}/py.typed" for name in PACKAGES} < names
    assert {"nfjax/data/results.csv", "nfjax/data/synsets.tsv.gz", "train/configs/digits.py"} < names
    assert metadata["Version"] == nfjax.__version__
    assert scripts.split() == ["[console_scripts]", "nfjax", "=", "nfjax.__main__:main"]


def test_the_command_in_an_empty_folder(programs, tmp_path):
    assert done(programs / "nfjax", "--version", cwd=tmp_path) == f"nfjax {nfjax.__version__}\n"
    rows = json.loads(done(programs / "nfjax", "list", "--json", cwd=tmp_path))
    names = [row["architecture"] for row in rows]
    assert names == nfjax.list_models()
    result = call(programs / "nfjax", "curves", "nowhere", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: there is no folder nowhere")
    assert list(tmp_path.iterdir()) == []


LOADS = """
import nfjax
print(len(nfjax.state_dict(nfjax.load("test_nfnet", weights=None))), len(nfjax.class_names(1000)))
"""


def test_files_of_the_same_names_are_no_obstacle(programs, crowded):
    """With the folder first on the path: by `python -m`, as a script's own, and by an environment variable."""
    expected = call(programs / "nfjax", "train", "--config=x.py", cwd=crowded)
    assert expected.returncode == 2
    assert "x.py: there is no such file" in expected.stderr
    for command in ([programs / "nfjax"], [programs / "python", "-m", "nfjax"]):
        result = call(*command, "train", "--config=x.py", cwd=crowded, PYTHONPATH=".")
        assert (result.returncode, result.stderr) == (expected.returncode, expected.stderr)
    assert done(programs / "python", "-m", "nfjax", "info", "test_nfnet", "--json", cwd=crowded)
    (crowded / "script.py").write_text(LOADS)
    tensors, classes = done(programs / "python", "script.py", cwd=crowded).split()
    assert (int(tensors) > 50, classes) == (True, "1000")


def test_folders_of_the_same_names_are_no_obstacle(programs, tmp_path):
    """`train` is what folders of training images are called."""
    for name in PACKAGES[1:]:
        (tmp_path / name / "cats").mkdir(parents=True)
    assert "usage: python -m train.average" in done(programs / "python", "-m", "train.average", "-h", cwd=tmp_path)
    assert "usage: nfjax convert" in done(programs / "nfjax", "convert", "-h", cwd=tmp_path, PYTHONPATH=".")


def test_one_line_says_which_file_is_in_the_way(programs, tmp_path):
    (tmp_path / "port.py").write_text("mine = 1")
    first = call(programs / "python", "-c", "import port, nfjax", cwd=tmp_path)
    last = first.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {tmp_path / 'port.py'} was imported as 'port', which is also the name of")
    then = call(programs / "python", "-c", "import nfjax; from port import mine", cwd=tmp_path)
    assert f"Did you mean that of {tmp_path / 'port.py'}? Rename this file" in then.stderr.splitlines()[-1]

    (tmp_path / "train.py").write_text("import nfjax")
    door = call(programs / "python", "-m", "train.main", "--config=digits", cwd=tmp_path)
    assert (door.returncode, door.stdout) == (2, "")
    (line,) = door.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'train.py'} is in the way of nfjax's package train; `nfjax train ...`")


def test_an_editable_install(source, crowded, tmp_path_factory):
    """Its packages are found last of all, behind any file or folder of the same name."""
    programs = environment(tmp_path_factory.mktemp("venv"), "--editable", source)
    for name in PACKAGES[1:]:
        (crowded / "folders" / name / "cats").mkdir(parents=True)
    for place in (crowded, crowded / "folders"):
        for command in ([programs / "nfjax"], [programs / "python", "-m", "nfjax"]):
            for asked in ("average", "convert"):
                assert f"{asked} [-h]" in done(*command, asked, "--help", cwd=place, PYTHONPATH=".")
    (crowded / "script.py").write_text("import nfjax, port; print(port.to_flax.__module__)")
    assert done(programs / "python", "script.py", cwd=crowded) == "port.rules\n"


WORKER = """
from nfjax.__main__ import main
main(["--version"])
import concurrent.futures, multiprocessing
from train.config import Config
with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
    print(pool.submit(Config).result().epochs)
"""


def test_processes_that_a_command_starts_find_the_same(programs, crowded):
    """Those that read images are new ones: they know the path of the process that started them, and no more."""
    assert done(programs / "python", "-c", WORKER, cwd=crowded).splitlines()[-1] == "30"

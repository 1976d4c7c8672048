"""Every code block of the README and the docs runs, in order, page by page."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import nfjax
import port
import port.__main__
from tests.helpers import documented, pages
from tests.helpers.hub_server import HubServer
from tests.helpers.shallow import DOCUMENTED, shallow

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
AS_USERS = {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}  # programs, not as tests/conftest.py wants them
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page):
    return BLOCK.findall((ROOT / page).read_text())


@pytest.fixture(scope="session")
def hubs():
    """Hubs with fresh weights under the names that the pages use: with few blocks, and as users have them."""
    servers = {}

    def hub(full):
        if full not in servers:
            servers[full] = HubServer()
            fill(servers[full], contextlib.nullcontext() if full else shallow())
        return servers[full]

    yield hub
    for server in servers.values():
        server.stop()


def fill(server, sizes):
    with sizes, tempfile.TemporaryDirectory() as folder:
        for name in DOCUMENTED:
            saved = nfjax.save(nfjax.load(name, weights=None), Path(folder) / name)
            server.commit(nfjax.data_config(name).hf_hub_id, {f.name: f.read_bytes() for f in saved.iterdir()})
        repository = documented.dinov2_repository(Path(folder) / "dinov2")
        server.commit("facebook/dinov2-with-registers-small", repository)


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "page",
    # A whole comparison at full size: two minutes. The test below runs its command at a small size.
    [pytest.param(page, marks=pytest.mark.slow) if page == "docs/parity.md" else page for page in PAGES],
)
def test_page(page, full, hubs, tmp_path):
    found = blocks(page)
    if page == "README.md":
        found = found[1:]  # installs and tests; checked below
    with contextlib.nullcontext() if full else shallow():
        nfjax.save(nfjax.load("test_nfnet", weights=None), tmp_path / "saved")
        if page == "docs/weights.md":
            documented.write(tmp_path)
    (tmp_path / "train").symlink_to(ROOT / "train")
    (tmp_path / "photos").mkdir()
    for name, photo in zip(("a.png", "b.jpg"), load_sample_images().images, strict=True):
        Image.fromarray(photo).save(tmp_path / "photos" / name)
    # What pip makes of pyproject.toml, for this checkout, whatever is installed.
    script = tmp_path / "bin" / "nfjax"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom nfjax.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    environment = os.environ | {
        "HF_ENDPOINT": hubs(full).url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join(map(str, [script.parent, Path(sys.executable).parent, os.environ["PATH"]])),
        "JAX_PLATFORMS": "cpu",
    }
    if page == "docs/loading.md":
        environment["JAX_NUM_CPU_DEVICES"] = "2"  # it shows how several are used
    if page == "docs/parity.md":
        environment |= AS_USERS
    failed = pages.run(found, tmp_path, environment, full)
    assert failed is None, failed


def test_the_command_of_the_parity_page(capsys):
    """As it stands there, but for the size."""
    (_, code), *_ = blocks("docs/parity.md")
    line = code.splitlines()[-1].replace("97x113", "33x47")
    assert line.startswith("nfjax verify ")
    assert line.endswith(" --img-size 33x47")
    assert port.__main__.main(shlex.split(line)[1:]) == 0
    assert "33x47 float64" in capsys.readouterr().out


@pytest.mark.parametrize("notebook", sorted((ROOT / "docs" / "notebooks").glob("*.py")), ids=lambda p: p.stem)
def test_notebook(notebook, tmp_path):
    """The executed notebook has the cells of its text and outputs without errors; the text runs."""
    import jupytext

    text, executed = jupytext.read(notebook), jupytext.read(notebook.with_suffix(".ipynb"))
    assert [(c.cell_type, c.source) for c in executed.cells] == [(c.cell_type, c.source) for c in text.cells]
    assert "site-packages" not in notebook.with_suffix(".ipynb").read_text()  # of whose machine?
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg"}
    if notebook.stem == "fine_tuning":
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"  # it trains for a dozen epochs
    command = [sys.executable, str(notebook)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


# All of its epochs take a minute of both cores; a fifth of them shows all but the last per cents.
@pytest.mark.parametrize(
    ("options", "least"), [(["--config.epochs=6"], 0.8), pytest.param([], 0.98, marks=pytest.mark.slow)]
)
def test_the_readme_starts_with_two_lines_that_do_everything(options, least, tmp_path):
    """One installs and trains, one installs and tests; the training reaches 98 %."""
    language, code = blocks("README.md")[0]
    train, test = code.splitlines()
    assert language == "sh"
    for line in (train, test):
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ")
    assert test.endswith("&& .venv/bin/python -m pytest")
    arguments = shlex.split(train.rpartition("&& .venv/bin/nfjax ")[2])
    command = [sys.executable, "-m", "nfjax", *arguments, *options, f"--workdir={tmp_path}"]
    environment = os.environ | AS_USERS
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    last = result.stdout.splitlines()[-1]
    match = re.fullmatch(rf"top1=(0\.\d{{4}}|1\.0000) top5=\d\.\d{{4}} steps=\d+ workdir={tmp_path}", last)
    assert match, last
    assert float(match[1]) >= least
    assert result.stderr == ""  # nothing that a first-time user would wonder about


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "benchmarks/README.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_every_page_is_reachable_from_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [p for p in PAGES[1:] if f"({p})" not in text] == []


def test_the_api_page_has_every_public_name():
    text = (ROOT / "docs/api.md").read_text()
    public = [f"nfjax.{name}" for name in nfjax.__all__] + [f"port.{name}" for name in port.__all__]
    assert [name for name in public if f"::: {name}\n" not in text] == []

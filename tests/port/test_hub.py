"""The hub, with the real huggingface_hub client and a server of our own in place of the hub."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import HubServer
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

import nfjax
from port import WeightsFileError, hub

REPO = "timm/test_nfnet.r160_in1k"
CONFIG, WEIGHTS, INDEX, PICKLE = "config.json", *hub.WEIGHT_FILES
Restart = Callable[..., None]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a repository: a fresh test_nfnet, 1.5 MB."""
    folder = nfjax.save(nfjax.load("test_nfnet", weights=None, seed=1), tmp_path_factory.mktemp("published"))
    return {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}


@pytest.fixture
def server(published: dict[str, bytes]) -> Iterator[HubServer]:
    server = HubServer()
    server.commit(REPO, published)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def restart(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Restart]:
    """Imports huggingface_hub anew, because it reads its environment only then; the cache stays."""
    ours = dict(vars(hub))
    theirs = {name: module for name, module in sys.modules.items() if _is_client(name)}

    def restart(**environment: str) -> None:
        _forget_client()
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
            monkeypatch.delenv(name)
        for name, value in (_environment(server, tmp_path) | environment).items():
            monkeypatch.setenv(name, value)
        importlib.reload(hub)

    for name in theirs:
        del sys.modules[name]
    restart()
    yield restart
    _forget_client()
    sys.modules.update(theirs)
    vars(hub).update(ours)


def _is_client(module: str) -> bool:
    return module.partition(".")[0] == "huggingface_hub"


def _forget_client() -> None:
    for name in [name for name in sys.modules if _is_client(name)]:
        module = sys.modules.pop(name)
        if name == "huggingface_hub.utils._http":
            module.close_session()


def _environment(server: HubServer, folder: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",  # else a daily request that has nothing to do with files
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "*",
    }


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client would have waited between attempts, in seconds; it does not wait."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    return waits


def assert_same_weights(model: nfjax.ImageModel, content: bytes) -> None:
    expected, found = load_safetensors(content), nfjax.state_dict(model)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes(), name


def other_weights(content: bytes) -> bytes:
    """The same names with other numbers."""
    return save_safetensors({name: array + 1 for name, array in load_safetensors(content).items()}, {"format": "pt"})


def partial_files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.incomplete"))


# Downloads and the cache.


@pytest.mark.parametrize(
    ("name", "files"),
    [
        (f"hf-hub:{REPO}", [CONFIG, WEIGHTS]),
        (f"hf_hub:{REPO}", [CONFIG, WEIGHTS]),
        ("test_nfnet", [WEIGHTS]),
        ("test_nfnet.r160_in1k", [WEIGHTS]),
    ],
)
def test_every_name_of_a_model_downloads_its_weights(name, files, server, published):
    assert_same_weights(nfjax.load(name), published[WEIGHTS])
    assert server.files("GET") == files


def test_second_load_makes_no_request(server, published, restart):
    nfjax.load(f"hf-hub:{REPO}")
    server.requests.clear()
    restart()
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}"), published[WEIGHTS])
    assert_same_weights(nfjax.load("test_nfnet"), published[WEIGHTS])
    assert server.requests == []


def test_processes_share_the_cache(server, published, tmp_path):
    """A plain process, with nothing of these fixtures in it."""
    script = "import nfjax, sys; nfjax.save(nfjax.load(sys.argv[1]), sys.argv[2])"
    for number, offline in enumerate("01"):
        copy = tmp_path / f"copy{number}"
        environment = os.environ | _environment(server, tmp_path) | {"HF_HUB_OFFLINE": offline, "JAX_PLATFORMS": "cpu"}
        subprocess.run([sys.executable, "-c", script, f"hf-hub:{REPO}", copy], env=environment, check=True)
        assert load_safetensors((copy / WEIGHTS).read_bytes()).keys() == load_safetensors(published[WEIGHTS]).keys()
        assert (copy / WEIGHTS).read_bytes()[-1000:] == published[WEIGHTS][-1000:]
    assert server.files("GET") == [CONFIG, WEIGHTS]


# Revisions.


def test_commit_is_fetched_as_it_was_and_never_asked_for_again(server, published, restart):
    old = next(iter(server.commits[REPO]))
    server.commit(REPO, published | {WEIGHTS: other_weights(published[WEIGHTS])})
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}@{old}"), published[WEIGHTS])
    assert all(f"/resolve/{old}/" in request.path for request in server.requests)
    server.requests.clear()
    restart()
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}@{old}"), published[WEIGHTS])
    assert server.requests == []


def test_branch_is_asked_for_again_and_followed(server, published):
    nfjax.load(f"hf-hub:{REPO}@main")
    server.requests.clear()
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}@main"), published[WEIGHTS])
    assert {request.method for request in server.requests} == {"HEAD"}
    new = other_weights(published[WEIGHTS])
    server.commit(REPO, published | {WEIGHTS: new})
    # Without a revision, what is in the cache is good enough.
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}"), published[WEIGHTS])
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}@main"), new)
    # The config is the same file as before, so only the weights are downloaded. They are the cache's from now on.
    assert server.files("GET") == [WEIGHTS]
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}"), new)


def test_tag(server, published):
    new = other_weights(published[WEIGHTS])
    server.refs[REPO]["v1"] = server.refs[REPO]["main"]
    server.commit(REPO, published | {WEIGHTS: new})
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}@v1"), published[WEIGHTS])
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}@main"), new)


def test_branch_of_a_hub_that_is_down_is_the_cached_one(server, published, waits):
    nfjax.load(f"hf-hub:{REPO}@main")
    server.stop()
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}@main"), published[WEIGHTS])
    assert waits == []


@pytest.mark.parametrize("name", ["test_nfnet", "a/b/c", "/b", "a/", "a/b@"])
def test_malformed_id_is_refused(name, server):
    with pytest.raises(ValueError, match="expected organisation/name"):
        nfjax.load(f"hf-hub:{name}")
    assert server.requests == []


# Interrupted downloads.


def test_broken_download_goes_on_where_it_broke(server, waits):
    # The client keeps what it has in steps of 10 MiB, so the file has two of them and a half.
    content = np.random.default_rng(0).bytes(25 * 2**20)
    server.commit("org/big", {WEIGHTS: content})
    server.cuts[WEIGHTS] = [23 * 2**20]
    assert hub.fetch_weights("org/big").read_bytes() == content
    gets = [request for request in server.requests if request.method == "GET"]
    assert [request.range for request in gets] == [None, f"bytes={20 * 2**20}-"]


def test_broken_download_of_a_small_file_starts_over(server, published, waits):
    server.cuts[WEIGHTS] = [700_000, 1_000_000]
    assert_same_weights(nfjax.load("test_nfnet"), published[WEIGHTS])
    gets = [request for request in server.requests if request.method == "GET"]
    assert [request.range for request in gets] == [None, None, None]


@pytest.mark.parametrize("reset", [False, True], ids=["cut", "reset"])
def test_failed_download_leaves_nothing_and_the_next_one_is_whole(reset, server, published, waits, tmp_path):
    server.cuts[WEIGHTS], server.reset = [700_000] * 20, reset
    with pytest.raises(hub.HubError, match=rf"cannot fetch {WEIGHTS} of {REPO}"):
        nfjax.load("test_nfnet")
    assert sum(waits) < 30
    assert partial_files(tmp_path) == []
    server.cuts.clear()
    server.requests.clear()
    assert_same_weights(nfjax.load("test_nfnet"), published[WEIGHTS])
    gets = [request for request in server.requests if request.method == "GET"]
    assert [request.range for request in gets] == [None]

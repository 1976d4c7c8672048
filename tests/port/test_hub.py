"""The hub, with the real huggingface_hub client and a server of our own in place of the hub."""

import importlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

import nfjax
from nfjax.__main__ import main
from port import WeightsError, WeightsFileError, hub
from tests.helpers.hub_server import PAGE, HubServer
from train.main import main as train

REPO = "timm/test_nfnet.r160_in1k"
CONFIG, WEIGHTS, INDEX, PICKLE = "config.json", *hub.WEIGHT_FILES
LOGGER = logging.getLogger("huggingface_hub")
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
    handlers = list(LOGGER.handlers)  # every import adds one

    def restart(**environment: str) -> None:
        _forget_client()
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_OFFLINE"))]:
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
    LOGGER.handlers[:] = handlers
    vars(hub).update(ours)


def _is_client(module: str) -> bool:
    return module.partition(".")[0] == "huggingface_hub"


def _forget_client() -> None:
    LOGGER.handlers.clear()
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
    ("options", "message"),
    [
        ({"depth": 3}, "has no option depth; did you mean depths"),
        ({"global_pool": "median"}, "global_pool='median' is not known"),
        ({"output_stride": 4}, "output_stride=4"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"in_chans": 0}, "in_chans=0"),
        ({"in_chans_mode": "x"}, "in_chans_mode='x'"),
        ({"dtype": "int8"}, "dtype='int8'; expected floating point"),
        ({"dtype": "float99"}, "dtype='float99'; expected floating point"),
        ({"features_only": True, "out_indices": (9,)}, r"feature indices \[9\] asked for"),
    ],
)
def test_wrong_options_are_told_before_anything_is_fetched(options, message, server):
    with pytest.raises(ValueError, match=message):
        nfjax.load("test_nfnet", **options)
    with pytest.raises(ValueError, match=r"img_size=\(4, 4\) has no room"):
        nfjax.load("test_vit2", img_size=4)
    assert not server.requests
    with pytest.raises(ValueError, match=message):
        nfjax.load(f"hf-hub:{REPO}", **options)
    needs_no_architecture = {"in_chans_mode", "dtype"} & options.keys()
    assert server.files("GET") == ([] if needs_no_architecture else [CONFIG])


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
        subprocess.run(
            [sys.executable, "-W", "error", "-c", script, f"hf-hub:{REPO}", copy], env=environment, check=True
        )
        assert (copy / WEIGHTS).read_bytes() == published[WEIGHTS]
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


@pytest.mark.parametrize("name", ["test_nfnet", "a/b/c", "/b", "a/", "a/b@", "a/b c"])
def test_malformed_id_is_refused(name, server):
    with pytest.raises(ValueError, match=f"'{name}'"):
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


def test_cache_that_cannot_be_written(restart):
    restart(HF_HOME="/proc/nowhere")
    with pytest.raises(hub.HubError, match=rf"cannot keep .* of {REPO}: .*/proc/nowhere.* HF_HOME names another"):
        nfjax.load("test_nfnet")


def test_failed_xet_download(server, published, restart):
    """Some versions of the client, such as 1.31, then take plain HTTP by themselves; the others say what to do."""
    server.xet = True
    told = ""
    try:
        model = nfjax.load("test_nfnet")
    except hub.HubError as error:
        told = str(error)
    if told:
        assert re.search(rf"cannot fetch {WEIGHTS} of {REPO}: .* HF_HUB_DISABLE_XET=1", told)
        restart(HF_HUB_DISABLE_XET="1")
        model = nfjax.load("test_nfnet")
    assert_same_weights(model, published[WEIGHTS])


@pytest.mark.parametrize("kind", [RuntimeError, ConnectionError])
def test_what_hf_xet_raises(kind, monkeypatch):
    def fail(*args, **kwargs):
        raise kind("404 Not Found")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(hub.HubError, match=rf"cannot fetch {WEIGHTS} of {REPO}: 404.* HF_HUB_DISABLE_XET=1"):
        hub.fetch(REPO, WEIGHTS)


# Files that are not what their names say.


def test_page_in_place_of_weights(server, published, tmp_path):
    server.commit(REPO, published | {WEIGHTS: PAGE})
    with pytest.raises(
        WeightsFileError, match=r"model\.safetensors is not a valid safetensors file \(\d+ bytes\)"
    ) as e:
        nfjax.load(f"hf-hub:{REPO}")
    assert str(tmp_path) in str(e.value)  # the path, so that it can be removed


def test_page_in_place_of_config(server, published, tmp_path):
    server.commit(REPO, published | {CONFIG: PAGE})
    with pytest.raises(WeightsFileError, match=r"config\.json is not JSON .* remove it and fetch") as e:
        nfjax.load(f"hf-hub:{REPO}")
    assert str(tmp_path) in str(e.value)
    assert server.files("GET") == [CONFIG]


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"architecture": 3}', b'"test_nfnet"'])
def test_json_that_is_no_config(content, server, published):
    server.commit(REPO, published | {CONFIG: content})
    with pytest.raises(WeightsFileError, match=r"config\.json names no architecture"):
        nfjax.load(f"hf-hub:{REPO}")


def test_config_of_another_architecture(server, published):
    server.commit(REPO, published | {CONFIG: b'{"architecture": "swin_tiny_patch4_window7_224"}'})
    with pytest.raises(nfjax.UnknownModelError, match=f"hf-hub:{REPO} holds a 'swin_tiny_patch4_window7_224'"):
        nfjax.load(f"hf-hub:{REPO}")
    assert server.files("GET") == [CONFIG]


def test_weights_of_another_model(server, published):
    server.commit(REPO, published | {WEIGHTS: save_safetensors({"conv.weight": np.zeros(3, np.float32)})})
    with pytest.raises(WeightsError, match="No name matches"):
        nfjax.load(f"hf-hub:{REPO}")


def test_content_that_is_not_the_announced_one_is_not_kept(server, published, tmp_path):
    server.damaged[WEIGHTS] = PAGE
    with pytest.raises(hub.HubError, match=f"cannot fetch {WEIGHTS} of {REPO} .*should be of size"):
        nfjax.load(f"hf-hub:{REPO}")
    assert partial_files(tmp_path) == []
    server.damaged.clear()
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}"), published[WEIGHTS])


def test_page_of_a_network_that_wants_a_login(server, published):
    server.portal = True
    with pytest.raises(hub.HubError, match=f"{CONFIG} of {REPO} is not in the cache .*Check the network"):
        nfjax.load(f"hf-hub:{REPO}")
    server.portal = False
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}"), published[WEIGHTS])


# Without a network.


def test_offline_with_the_files_in_the_cache(server, published, restart):
    commit = server.refs[REPO]["main"]
    nfjax.load(f"hf-hub:{REPO}")
    server.requests.clear()
    restart(HF_HUB_OFFLINE="1")
    for name in (f"hf-hub:{REPO}", f"hf-hub:{REPO}@main", f"hf-hub:{REPO}@{commit}", "test_nfnet"):
        assert_same_weights(nfjax.load(name), published[WEIGHTS])
    assert server.requests == []


@pytest.mark.parametrize(("name", "file"), [(f"hf-hub:{REPO}", CONFIG), ("test_nfnet", WEIGHTS)])
def test_offline_with_an_empty_cache(name, file, server, restart, waits):
    restart(HF_HUB_OFFLINE="1")
    with pytest.raises(hub.HubError, match=f"{file} of {REPO} is not in the cache .*HF_HUB_OFFLINE") as e:
        nfjax.load(name)
    assert isinstance(e.value, FileNotFoundError)
    assert server.requests == []
    assert waits == []


def test_hub_that_is_down_with_an_empty_cache(server, waits):
    server.stop()
    with pytest.raises(hub.HubError, match=f"{CONFIG} of {REPO} is not in the cache .*refused.*HF_ENDPOINT"):
        nfjax.load(f"hf-hub:{REPO}")
    assert sum(waits) <= 1


def test_the_way_out_is_spelt_as_the_caller_would(server, waits, capsys):
    server.stop()
    arguments = ["classify", "README.md", "--model", "test_nfnet"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith("or give a file: --weights FILE.\n")
    assert train(["--config=digits", "--config.model.weights=pretrained"]) == 2
    assert capsys.readouterr().err.endswith("or give a file: --config.model.weights=FILE.\n")
    with pytest.raises(hub.HubError, match=r"or give a file: weights=FILE\.$"):
        nfjax.load("test_nfnet")


# What the hub does not have.


def test_unknown_repository(server):
    with pytest.raises(hub.HubError, match="no repository 'timm/test_nfnet2', or it is private"):
        nfjax.load("hf-hub:timm/test_nfnet2")


def test_gated_repository(server):
    server.gated.add(REPO)
    with pytest.raises(hub.HubError, match=f"{REPO} is gated"):
        nfjax.load(f"hf-hub:{REPO}")


@pytest.mark.parametrize("revision", ["v7", "0123456789abcdef0123456789abcdef01234567"])
def test_unknown_revision(revision, server):
    with pytest.raises(hub.HubError, match=f"{REPO} has no revision '{revision}'"):
        nfjax.load(f"hf-hub:{REPO}@{revision}")


def test_repository_without_config(server, published):
    server.commit("org/weights", {WEIGHTS: published[WEIGHTS]})
    with pytest.raises(hub.HubError, match=r"org/weights has no config\.json"):
        nfjax.load("hf-hub:org/weights")


def test_repository_without_weights(server, published):
    server.commit("org/config", {CONFIG: published[CONFIG]})
    for name in ("org/config", "org/config@main"):
        with pytest.raises(hub.HubError, match=rf"org/config at \w{{40}} holds no weights; expected .*{PICKLE}"):
            nfjax.load(f"hf-hub:{name}")
    # Once it has some, asking for the newest commit finds them.
    server.commit("org/config", published)
    assert_same_weights(nfjax.load("hf-hub:org/config@main"), published[WEIGHTS])


# Other files of weights.


def in_shards(content: bytes) -> dict[str, bytes]:
    """Weights as two shards and their index."""
    state = load_safetensors(content)
    shards = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    for number, (name, array) in enumerate(state.items()):
        list(shards.values())[number % 2][name] = array
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    index = {"metadata": {"total_size": len(content)}, "weight_map": weight_map}
    return {INDEX: json.dumps(index).encode()} | {shard: save_safetensors(part) for shard, part in shards.items()}


def pickled(content: bytes) -> dict[str, bytes]:
    file = io.BytesIO()
    torch.save({name: torch.from_numpy(array.copy()) for name, array in load_safetensors(content).items()}, file)
    return {PICKLE: file.getvalue()}


@pytest.mark.parametrize("kind", [in_shards, pickled])
def test_other_kinds_of_weights(kind, server, published, restart, waits):
    files = kind(published[WEIGHTS])
    commit = server.commit(REPO, {CONFIG: published[CONFIG]} | files)
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}"), published[WEIGHTS])
    assert server.files("GET") == [CONFIG, *files]
    # From now on the cache is enough, though it lacks the file that is preferred.
    server.requests.clear()
    restart()
    for name in (f"hf-hub:{REPO}", f"hf-hub:{REPO}@{commit}", "test_nfnet"):
        assert_same_weights(nfjax.load(name), published[WEIGHTS])
    assert server.requests == []
    restart(HF_HUB_OFFLINE="1")
    for name in (f"hf-hub:{REPO}", f"hf-hub:{REPO}@main", f"hf-hub:{REPO}@{commit}", "test_nfnet"):
        assert_same_weights(nfjax.load(name), published[WEIGHTS])
    assert waits == []


def test_shards_are_of_the_commit_of_their_index(server, published, waits):
    """Also if the hub moves on between two attempts."""
    old, new = (in_shards(content) for content in (published[WEIGHTS], other_weights(published[WEIGHTS])))
    commit = server.commit(REPO, {CONFIG: published[CONFIG]} | old)
    *_, last = old
    server.cuts[last] = [1000] * 20
    with pytest.raises(hub.HubError, match=f"cannot fetch {last} of {REPO}"):
        nfjax.load(f"hf-hub:{REPO}")
    server.cuts.clear()
    server.commit(REPO, {CONFIG: published[CONFIG]} | new)
    server.requests.clear()
    assert_same_weights(nfjax.load(f"hf-hub:{REPO}"), published[WEIGHTS])
    assert server.files("GET") == [last]
    assert all(f"/resolve/{commit}/" in request.path for request in server.requests)


def test_shard_that_the_hub_lacks(server, published):
    files = in_shards(published[WEIGHTS])
    *_, lost = files
    del files[lost]
    server.commit(REPO, {CONFIG: published[CONFIG]} | files)
    with pytest.raises(hub.HubError, match=f"{REPO} has no file '{lost}', which its {INDEX} names"):
        nfjax.load(f"hf-hub:{REPO}")


@pytest.mark.parametrize("content", [PAGE, b"[]", b'{"weight_map": 3}'])
def test_index_that_is_none(content, server, published):
    server.commit(REPO, {CONFIG: published[CONFIG], INDEX: content})
    with pytest.raises(WeightsFileError, match=rf"{INDEX} is not an index of shards"):
        nfjax.load(f"hf-hub:{REPO}")


def test_index_that_leaves_its_folder(server, published):
    index = json.dumps({"weight_map": {"a": "../../refs/main.safetensors"}}).encode()
    server.commit(REPO, {CONFIG: published[CONFIG], INDEX: index})
    with pytest.raises(WeightsFileError, match=r"names '\.\./\.\./refs/main\.safetensors'; expected plain names"):
        nfjax.load(f"hf-hub:{REPO}")
    assert server.files("GET") == [CONFIG, INDEX]

"""`nfjax.push_to_hub` and `nfjax push`, with the real client and a hub on this machine; and the model card."""

import dataclasses
import json

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from safetensors.numpy import load as load_safetensors

import nfjax
from nfjax.__main__ import main
from nfjax.weights.card import MARK, PLACE, About, Score
from port.hub import HubError
from tests.helpers.hub_server import HubServer

REPO = "user/my_nfnet"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of httpx, in its client


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = HubServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", "hf_writes")
    monkeypatch.setenv("NO_PROXY", "*")
    yield server
    huggingface_hub.close_session()
    server.stop()


@pytest.fixture(scope="module")
def model():
    """With names of classes, one of which a terminal, YAML and Markdown would obey."""
    model = nfjax.load("test_nfnet", weights=None, num_classes=2)
    names = ("a cat", "[red]\x1b # `dog`\n---")
    model.data_config = dataclasses.replace(model.data_config, label_names=names, license="mit")
    return model


def content(server, branch="main", repo=REPO):
    return server.commits[repo][server.refs[repo][branch]]


def test_what_is_pushed_is_what_is_loaded(server, model, tmp_path, capsys):
    url = nfjax.push_to_hub(model, REPO, private=True, commit_message="the first")
    files = content(server)
    assert url == f"{server.url}/{REPO}/commit/{server.refs[REPO]['main']}"
    assert set(files) == {"config.json", "model.safetensors", "README.md"}
    assert (server.private, server.messages) == ({REPO: True}, ["the first"])
    assert server.stored  # the weights went the way of large files
    state = nfjax.state_dict(model)
    found = load_safetensors(files["model.safetensors"])
    assert all(np.array_equal(found[name], array) for name, array in state.items())
    assert json.loads(files["config.json"])["label_names"] == list(model.data_config.label_names)

    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit"
    assert card.data.to_dict()["library_name"] == "timm"
    assert card.data.pipeline_tag == "image-classification"
    assert f'nfjax.classify("cat.jpg", model="hf-hub:{REPO}")' in card.text
    assert f'timm.create_model("hf-hub:{REPO}", pretrained=True)' in card.text
    assert "\x1b" not in card.content
    assert "160x160" in card.text

    # A branch, from a folder whose card is somebody's own; a second time the weights are not sent again.
    folder = nfjax.save(model, tmp_path / "saved")
    (folder / "README.md").write_text("mine")
    nfjax.save(model, folder)
    (folder / "secret.txt").write_text("stays here")
    sent = len([request for request in server.requests if request.method == "PUT"])
    assert main(["push", str(folder), REPO, "--revision", "next"]) == 0
    assert f"{server.url}/{REPO}/commit/" in capsys.readouterr().out
    assert content(server, "next")["README.md"] == b"mine"
    assert "secret.txt" not in content(server, "next")
    assert content(server)["README.md"] != b"mine"
    assert len([request for request in server.requests if request.method == "PUT"]) == sent


def test_a_hub_without_xet(server, model, monkeypatch, tmp_path):
    """The client's own way of sending large files, where the hub does not have what it asks for."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path))
    nfjax.push_to_hub(model, REPO)
    assert constants.HF_HUB_DISABLE_XET is False
    found = load_safetensors(content(server)["model.safetensors"])
    assert all(np.array_equal(found[name], array) for name, array in nfjax.state_dict(model).items())


def test_the_card_has_the_numbers_of_an_evaluation(server, model, tmp_path):
    folder = nfjax.save(model, tmp_path / "saved")
    assert PLACE in (folder / "README.md").read_text()
    (tmp_path / "results.csv").write_text(f"model,top1,top5,count,img_size\n{folder},87.5,100.0,16,160\n")
    options = ["--evaluation", str(tmp_path), "--base-model", "timm/test_nfnet.r160_in1k"]
    assert main(["push", str(folder), REPO, *options]) == 0
    card = ModelCard(content(server)["README.md"].decode())
    assert card.data.base_model == "timm/test_nfnet.r160_in1k"
    assert [(r.metric_name, r.metric_value) for r in card.data.eval_results] == [("top-1", 87.5), ("top-5", 100.0)]
    assert "| 16 images, 160 px | top-1 | 87.50 % |" in card.text
    about = About(datasets=["imagenet-1k"], scores=[Score("top-1", 50.0, "a | b")], sections=["## More"])
    nfjax.save(model, folder, about=about)
    text = (folder / "README.md").read_text()
    assert ModelCard(text).data.datasets == ["imagenet-1k"]
    assert text.endswith(f"{MARK}\n")
    assert "## More" in text


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("token", "no token: log in with `hf auth login`"),
        ("wrong", r"Invalid user token\.? \(401\)"),
        ("forbidden", r"You don't have the rights.*\(403\). The token may not write there"),
        ("conflict", r"A commit has happened since.*\(412\). Somebody else has changed it meanwhile"),
        ("network", r"the hub, http://127.0.0.1:1, cannot be reached"),
        ("offline", "HF_HUB_OFFLINE is set"),
        ("name", "hub id 'my_nfnet'; expected organisation/name"),
        ("branch", "give the branch apart, as revision='next'"),
    ],
)
def test_a_mistake_is_one_sentence(case, said, server, model, tmp_path, monkeypatch, capsys):
    folder = nfjax.save(model, tmp_path / "saved")
    repo = {"name": "my_nfnet", "branch": f"{REPO}@next"}.get(case, REPO)
    monkeypatch.setattr("port.hub.PAUSE", 0)
    if case == "token":
        monkeypatch.delenv("HF_TOKEN")
    elif case == "wrong":
        monkeypatch.setenv("HF_TOKEN", "hf_other")
    elif case == "forbidden":
        server.forbidden.add("user")
    elif case == "conflict":
        server.conflict = True
    elif case == "network":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    elif case == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises((HubError, ValueError), match=said) as caught:
        nfjax.push_to_hub(folder, repo)
    assert len(str(caught.value).splitlines()) == 1
    assert "hf_writes" not in str(caught.value)
    assert main(["push", str(folder), repo]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # after the client's bar, where it got so far
    assert line.startswith("error: ")


def test_mistakes_before_the_model_is_loaded(tmp_path, capsys):
    assert main(["push", "test_nfmet", REPO]) == 2
    assert "did you mean test_nfnet" in capsys.readouterr().err
    assert main(["push", "test_nfnet", REPO, "--evaluation", str(tmp_path)]) == 2
    assert "there is no file" in capsys.readouterr().err

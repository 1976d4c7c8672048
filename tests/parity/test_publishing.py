"""What is pushed to a hub, timm loads from it; and the model that a probe saves."""

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

import nfjax
from nfjax.__main__ import main
from nfjax.parity import oracle
from nfjax.parity.verify import relative
from tests.helpers.both import logits, torch_logits
from tests.helpers.hub_server import HubServer
from tests.helpers.photos import make_folder

timm = oracle.timm()
REPO, SIZE = "user/probed", 64
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of httpx, in its client


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = HubServer()
    # As HF_ENDPOINT would, had it been set before the import.
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_writes")
    monkeypatch.setenv("NO_PROXY", "*")
    yield server
    huggingface_hub.close_session()
    server.stop()


def test_timm_loads_what_a_probe_saved_and_push_published(server, tmp_path, monkeypatch):
    monkeypatch.setenv("NFJAX_CACHE", str(tmp_path / "cache"))
    photos = make_folder(tmp_path / "photos", train=5, val=2, size=40, classes=("flower", "brick"))
    backbone = nfjax.load("test_vit2", weights=None, img_size=SIZE)
    nfjax.save(backbone, tmp_path / "backbone")
    saved = tmp_path / "saved"
    options = ["--data", str(photos), "--model", str(tmp_path / "backbone"), "-o", str(tmp_path / "out")]
    assert main(["probe", *options, "--save", str(saved)]) == 0
    assert main(["push", str(saved), REPO]) == 0

    x = np.random.default_rng(0).standard_normal((2, SIZE, SIZE, 3)).astype("f4")
    expected = logits(nfjax.load(saved), x)
    assert expected.shape == (2, 2)
    for name in (f"local-dir:{saved}", f"hf-hub:{REPO}"):
        theirs = timm.create_model(name, pretrained=True)
        assert relative(expected, torch_logits(theirs, x)) <= 1e-5
        assert tuple(theirs.pretrained_cfg["label_names"]) == ("brick", "flower")
    assert any(f"/{REPO}/resolve/" in request.path for request in server.requests)

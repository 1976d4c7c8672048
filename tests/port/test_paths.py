"""Paths as text, as `pathlib.Path`, and with ~ for a home folder, wherever one is given."""

from pathlib import Path

import numpy as np
import pytest

import nfjax
import port
from port.paths import user_path
from train.cli.flags import parse
from train.cli.mistakes import check
from train.config import Config, Data, Model


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_home_folders(home):
    assert user_path("~/x") == user_path(Path("~/x")) == home / "x"
    assert user_path("a~b") == Path("a~b")
    assert user_path("~no-such-user/x") == Path("~no-such-user/x")


def test_a_model_in_a_home_folder(home):
    model = nfjax.load("test_nfnet", weights=None)
    nfjax.save(model, "~/model")
    assert (home / "model" / "config.json").exists()
    for name in ("~/model", "local-dir:~/model", Path("~/model"), home / "model"):
        assert nfjax.load(name).name == model.name
    for weights in ("~/model", Path("~/model/model.safetensors")):
        found = nfjax.state_dict(nfjax.load("test_nfnet", weights))
        assert found.keys() == nfjax.state_dict(model).keys()
    port.write_safetensors({"a": np.ones(2, np.float32)}, "~/a.safetensors")
    assert list(port.read_weights("~/a.safetensors")) == ["a"]
    assert not Path("~").exists()


def test_a_run_in_a_home_folder(home):
    _, workdir, _ = parse(["main", "--config=digits", "--workdir=~/runs/1"])
    assert workdir == home / "runs" / "1"


def test_paths_in_a_config(tmp_path):
    config = Config(data=Data(name="folder", root=tmp_path), model=Model(weights=tmp_path / "w.safetensors"))
    check(config)
    assert (config.data.root, config.model.weights) == (str(tmp_path), str(tmp_path / "w.safetensors"))

"""`nfjax.save`: a folder is of one save, or refused. What it holds is in tests/parity/test_exchange.py."""

import dataclasses
import json
import os

import numpy as np
import pytest

import nfjax
import port


@pytest.fixture(scope="module")
def models():
    """Two of one architecture, with other weights and other labels."""
    models = [nfjax.load("test_nfnet", weights=None, seed=seed, num_classes=2) for seed in (0, 1)]
    for model, names in zip(models, (("cat", "dog"), ("ant", "bee")), strict=True):
        model.data_config = dataclasses.replace(model.data_config, label_names=names)
    return models


def same(model, other):
    mine, theirs = nfjax.state_dict(model), nfjax.state_dict(other)
    labels = model.data_config.label_names == other.data_config.label_names
    return labels and all(np.array_equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("older", [False, True], ids=["ours", "timm's"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_interrupted_between_two_files(after, older, models, tmp_path, monkeypatch):
    """Whichever files were replaced: old labels with old weights, or none. Also over a config.json of timm's."""
    first, second = models
    config = nfjax.save(first, tmp_path) / "config.json"
    if older:
        entries = json.loads(config.read_text())
        del entries["weights_crc32"]
        config.write_text(json.dumps(entries))
    replace, done = os.replace, []

    def killed(source, target):
        if os.path.basename(target) in ("config.json", "model.safetensors"):
            if len(done) == after:
                raise KeyboardInterrupt
            done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    if after < 2:
        with pytest.raises(KeyboardInterrupt):
            nfjax.save(second, tmp_path)
    else:
        nfjax.save(second, tmp_path)
    if after == 1:
        with pytest.raises(
            port.WeightsError, match=r"are not those that its config\.json was saved with.*Save it again"
        ):
            nfjax.load(tmp_path)
    else:
        assert same(nfjax.load(tmp_path), [first, None, second][after])
    assert sorted(os.listdir(tmp_path)) == ["README.md", "config.json", "model.safetensors"]


def test_weights_of_another_save(models, tmp_path):
    first, second = (nfjax.save(model, tmp_path / f"{i}") for i, model in enumerate(models))
    os.replace(second / "model.safetensors", first / "model.safetensors")
    with pytest.raises(port.WeightsError, match=r"'weights_crc32' out of config\.json"):
        nfjax.load(first)
    # By its own path a file is any file; and a config.json without the entry promises nothing.
    assert nfjax.load("test_nfnet", first / "model.safetensors").num_classes == 2
    config = json.loads((first / "config.json").read_text())
    del config["weights_crc32"]
    (first / "config.json").write_text(json.dumps(config))
    assert nfjax.load(first).data_config.label_names == ("cat", "dog")


def test_the_same_model_is_the_same_files(models, tmp_path):
    first, second = (nfjax.save(models[0], tmp_path / name) for name in ("a", "b"))
    for name in ("config.json", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_file_that_is_cut_short_after_loading(models, tmp_path):
    folder = nfjax.save(models[0], tmp_path)
    loaded = nfjax.load(folder)
    os.truncate(folder / "model.safetensors", 0)
    assert same(loaded, models[0])


def test_where_no_folder_can_be(models, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError, match="file is no folder"):
        nfjax.save(models[0], file)

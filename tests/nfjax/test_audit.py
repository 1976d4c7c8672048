"""Loading what strangers made opens no socket, starts no process and writes no file, as Python's audit hook sees it."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

import nfjax
import port
from tests.helpers.audit import watched


def seen(call):
    with watched() as done:
        call()
    return done


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One of each kind of file, which were all read once, so that libraries have loaded what they load once."""
    folder = tmp_path_factory.mktemp("files")
    nfjax.save(nfjax.load("test_vit2", weights=None), folder / "saved")
    torch.save({"state_dict": {"a": torch.ones(3)}, "epoch": 3}, folder / "model.pth")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.png")
    calls = {
        "a saved folder": lambda: nfjax.load(f"local-dir:{folder / 'saved'}"),
        "safetensors": lambda: port.read_weights(folder / "saved" / "model.safetensors"),
        "a pickle": lambda: port.read_weights(folder / "model.pth"),
        "a picture": lambda: nfjax.load_image(folder / "a.png"),
    }
    for call in calls.values():
        call()
    return folder, calls


@pytest.mark.parametrize("kind", ["a saved folder", "safetensors", "a pickle", "a picture"])
def test_loading_only_reads(kind, files):
    assert seen(files[1][kind]) == []


def test_the_hook_sees_what_it_should(files):
    folder = files[0]
    assert len(seen(lambda: (folder / "b").write_text("x"))) == 1
    assert len(seen(lambda: (folder / "b").unlink())) == 1
    assert seen(lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0))

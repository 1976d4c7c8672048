"""`python -m nfjax classify` on real photos: timm's classes in timm's order."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

import nfjax
from nfjax.__main__ import main
from nfjax.parity import oracle

timm = oracle.timm()


def photos(folder, count):
    """Photos cut from ten real ones, of many sizes and formats, as files."""
    names = ("astronaut", "chelsea", "coffee", "rocket")
    sources = [getattr(data, name)() for name in names] + list(load_sample_images().images)
    rng = np.random.default_rng(0)
    files = []
    for i in range(count):
        source = Image.fromarray(sources[i % len(sources)])
        width, height = (int(rng.integers(60, side)) for side in source.size)
        left, top = (int(rng.integers(0, a - b + 1)) for a, b in zip(source.size, (width, height), strict=True))
        file = folder / f"{i:03d}.{('jpg', 'png')[i % 2]}"
        source.crop((left, top, left + width, top + height)).save(file)
        files.append(file)
    return files


@pytest.mark.parametrize(("name", "count"), [("test_nfnet", 30), ("test_vit2", 30)])
def test_the_same_top_5(name, count, tmp_path, capsys):
    check(name, count, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eca_nfnet_l0", "vit_medium_patch16_reg4_gap_256"])
def test_the_same_top_5_of_the_cards(name, tmp_path, capsys):
    check(name, 200, tmp_path, capsys)


def check(name, count, folder, capsys):
    state = oracle.random_state(oracle.shapes(name))
    theirs = oracle.build(name, state)
    nfjax.save(nfjax.load(name, weights=state), folder / "model")
    (folder / "photos").mkdir()
    files = photos(folder / "photos", count)
    assert main(["classify", str(folder / "photos"), "--model", f"local-dir:{folder}/model", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    found = {str(file): [row["index"] for row in rows if row["file"] == str(file)] for file in files}

    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs), is_training=False)
    with torch.inference_mode():
        for file in files:
            logits = theirs(transform(Image.open(file).convert("RGB")).unsqueeze(0))
            assert found[str(file)] == logits[0].topk(5).indices.tolist(), file.name

"""The snippets of the four model cards, in JAX: the shapes that the cards print, and timm's numbers.

A test is named after its snippet. Weights are random, the same in both libraries; the picture is a real one.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import nfjax
from nfjax.parity import oracle
from nfjax.parity.verify import relative
from tests.helpers.hub_server import HubServer

timm = oracle.timm()
ROOT = Path(__file__).parents[2]
IMG = Image.fromarray(load_sample_image("china.jpg"))

# The feature maps that each card prints, in NHWC, and what forward_features returns.
CARDS = {
    "nfnet_l0.ra2_in1k": (
        [(1, 112, 112, 64), (1, 56, 56, 256), (1, 28, 28, 512), (1, 14, 14, 1536), (1, 7, 7, 2304)],
        (1, 7, 7, 2304),
    ),
    "eca_nfnet_l2.ra3_in1k": (
        [(1, 160, 160, 64), (1, 80, 80, 256), (1, 40, 40, 512), (1, 20, 20, 1536), (1, 10, 10, 3072)],
        (1, 10, 10, 3072),
    ),
    "vit_medium_patch16_reg4_gap_256.sbb_in12k_ft_in1k": ([(1, 16, 16, 512)] * 3, (1, 260, 512)),
}


# The convolutional ones take minutes to compile.
PARAMS = [pytest.param(name, marks=[] if name.startswith("vit") else [pytest.mark.slow]) for name in CARDS]


@pytest.fixture(scope="module", params=PARAMS)
def card(request):
    """The name, the weights, and timm's model with them."""
    name = request.param
    state = oracle.random_state(oracle.shapes(name))
    return name, state, oracle.build(name, state)


def torch_transforms(model):
    data_config = timm.data.resolve_model_data_config(model)
    return timm.data.create_transform(**data_config, is_training=False)


def test_image_classification(card):
    name, weights, theirs = card
    with torch.inference_mode():
        expected = theirs(torch_transforms(theirs)(IMG).unsqueeze(0))
    expected_top5 = torch.topk(expected.softmax(dim=1) * 100, k=5)

    model = nfjax.load(name, weights)
    transforms = nfjax.create_transform(model)
    output = model(transforms(IMG)[None])
    (top5,) = nfjax.top_k(output, 5, model)

    assert output.shape == (1, 1000)
    assert relative(output, expected.numpy()) <= 1e-5
    assert [index for _, _, index in top5] == expected_top5.indices[0].tolist()
    np.testing.assert_allclose([100 * p for _, p, _ in top5], expected_top5.values[0].numpy(), rtol=1e-4)


def test_feature_map_extraction(card):
    name, weights, theirs = card
    shapes, _ = CARDS[name]
    with torch.inference_mode():
        x = torch_transforms(theirs)(IMG).unsqueeze(0)
        expected = theirs.forward_intermediates(x, indices=len(shapes), intermediates_only=True)

    model = nfjax.load(name, weights, features_only=True)
    transforms = nfjax.create_transform(model)
    output = model(transforms(IMG)[None])

    assert [o.shape for o in output] == shapes
    for o, other in zip(output, expected, strict=True):
        assert relative(o, other.permute(0, 2, 3, 1).numpy()) <= 1e-5


def test_image_embeddings(card):
    name, weights, theirs = card
    _, unpooled = CARDS[name]
    with torch.inference_mode():
        features = theirs.forward_features(torch_transforms(theirs)(IMG).unsqueeze(0))
        expected = theirs.forward_head(features, pre_logits=True)

    model = nfjax.load(name, weights, num_classes=0)
    x = nfjax.create_transform(model)(IMG)[None]
    output = model(x)
    assert output.shape == (1, model.num_features)
    assert relative(output, expected.numpy()) <= 1e-5

    # or equivalently, without num_classes=0
    model = nfjax.load(name, weights)
    output = model.forward_features(x)
    assert output.shape == unpooled
    output = model.forward_head(output, pre_logits=True)
    assert output.shape == (1, model.num_features)
    assert relative(output, expected.numpy()) <= 1e-5


HOW_TO_USE = """
import sys
import jax, numpy as np, nfjax
from PIL import Image

model = nfjax.load("hf_hub:timm/eca_nfnet_l0")
transform = nfjax.create_transform(model, use_test_size=True)
img = Image.open(sys.argv[1])
input_tensor = transform(img)[None]
output = model(input_tensor)
probs = jax.nn.softmax(output[0])

np.savez(sys.argv[2], input_tensor=input_tensor, probs=probs)
"""


def test_how_to_use(tmp_path):
    """eca_nfnet_l0's card: a name on the hub, the test size, and probabilities. A process of its own for the hub."""
    state = oracle.random_state(oracle.shapes("eca_nfnet_l0"))
    folder = nfjax.save(nfjax.load("eca_nfnet_l0", weights=state), tmp_path / "repo")
    IMG.save(tmp_path / "img.png")
    server = HubServer()
    server.commit("timm/eca_nfnet_l0", {f.name: f.read_bytes() for f in folder.iterdir()})
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*"}
    environment |= {"JAX_PLATFORMS": "cpu", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", HOW_TO_USE, str(tmp_path / "img.png"), str(tmp_path / "out.npz")]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    server.stop()
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "out.npz") as file:
        out = dict(file)

    theirs = oracle.build("eca_nfnet_l0", state)
    config = theirs.default_cfg
    transform = timm.data.transforms_factory.transforms_imagenet_eval(
        img_size=config["test_input_size"][-1],
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["test_crop_pct"],
    )
    x = transform(IMG)
    assert out["input_tensor"].shape == (1, 288, 288, 3)
    assert np.array_equal(out["input_tensor"][0], x.permute(1, 2, 0).numpy())
    with torch.inference_mode():
        expected = theirs(x.unsqueeze(0)).squeeze(0).softmax(dim=0)
    assert relative(out["probs"], expected.numpy()) <= 1e-5

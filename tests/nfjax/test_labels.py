"""Class names against timm's `ImageNetInfo`; the most probable classes against torch."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import nfjax
from nfjax.labels import CLASS_COUNTS, label_names, problem_type, synsets
from nfjax.models.data_config import MULTI_LABEL, DataConfig
from nfjax.parity import oracle

timm = oracle.timm()


def info(num_classes):
    from timm.data import ImageNetInfo, infer_imagenet_subset

    return ImageNetInfo(infer_imagenet_subset({"num_classes": num_classes}))


def test_the_class_counts_are_timms():
    from timm.data.imagenet_info import _NUM_CLASSES_TO_SUBSET

    assert set(CLASS_COUNTS) == set(_NUM_CLASSES_TO_SUBSET)


@pytest.mark.parametrize("num_classes", CLASS_COUNTS)
def test_names_are_timms(num_classes):
    theirs = info(num_classes)
    assert list(synsets(num_classes)) == theirs.label_names()
    assert list(nfjax.class_names(num_classes)) == theirs.label_descriptions()
    assert len(nfjax.class_names(num_classes)) == num_classes


def test_an_unknown_number_of_classes():
    with pytest.raises(ValueError, match="no subset of ImageNet with 10 classes is known; expected one of 1000, 11221"):
        nfjax.class_names(10)


@pytest.mark.parametrize("num_classes", [1000, 11821])
def test_top_k_is_torchs(num_classes):
    logits = np.random.default_rng(0).standard_normal((3, num_classes)).astype("float32") * 5
    probs, indices = torch.from_numpy(logits).double().softmax(-1).topk(5)
    names = info(num_classes).label_descriptions()
    found = nfjax.top_k(jnp.asarray(logits))
    assert len(found) == 3
    for image, p, i in zip(found, probs.tolist(), indices.tolist(), strict=True):
        assert [index for _, _, index in image] == i
        assert [name for name, _, _ in image] == [names[index] for index in i]
        np.testing.assert_allclose([value for _, value, _ in image], p, rtol=1e-12)


def test_label_names_win():
    logits = [[0.0, 2.0, 1.0]]
    config = DataConfig(num_classes=3, label_names=("ant", "bee", "cat"))
    assert [name for name, _, _ in nfjax.top_k(logits, 2, config)[0]] == ["bee", "cat"]
    assert [name for name, _, _ in nfjax.top_k(logits, 9)[0]] == ["1", "2", "0"]  # three classes without names
    own = DataConfig(label_names=tuple(map(str, range(1000))))
    assert label_names(own) == own.label_names
    with pytest.raises(ValueError, match="logits for 4 classes, but 3 label names"):
        nfjax.top_k(np.zeros((1, 4)), model_or_data_config=config)


def test_a_models_labels_follow_its_classifier():
    model = nfjax.load("test_nfnet", weights=None)
    assert label_names(model) == nfjax.class_names(1000)
    model.reset_classifier(3)
    assert label_names(model) is None
    assert [index for _, _, index in nfjax.top_k([[1.0, 3.0, 2.0]], 1, model)[0]] == [1]


def test_classes_of_several_labels_have_probabilities_of_their_own(tmp_path):
    """By the `problem_type` of a saved model, which another classifier does not have."""
    config = DataConfig(num_classes=3, problem_type=MULTI_LABEL)
    found = {index: p for _, p, index in nfjax.top_k([[2.0, -800.0, 800.0]], 3, config)[0]}
    assert found == {0: pytest.approx(1 / (1 + np.exp(-2))), 1: 0.0, 2: 1.0}
    model = nfjax.load("test_vit2", weights=None, num_classes=3)
    model.data_config = dataclasses.replace(model.data_config, label_names=("a", "b", "c"), problem_type=MULTI_LABEL)
    for layout in ("timm", "transformers"):
        nfjax.save(model, tmp_path / layout, layout=layout)
        assert json.loads((tmp_path / layout / "config.json").read_text())["problem_type"] == MULTI_LABEL
        assert problem_type(nfjax.load(tmp_path / layout)) == MULTI_LABEL
    assert oracle.timm().create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).num_classes == 3
    assert problem_type(nfjax.load(tmp_path / "timm", num_classes=2)) is None
    model.reset_classifier(4)
    assert problem_type(model) is None


def test_half_precision_and_large_logits():
    ((name, p, index),) = nfjax.top_k(jnp.asarray([[3e4, 0.0]], jnp.bfloat16), 1)[0]
    assert (name, p, index) == ("0", 1.0, 0)


@pytest.mark.parametrize(
    ("logits", "k", "message"),
    [
        (np.zeros(1000), 5, r"Add a batch axis: logits\[None\]"),
        (np.zeros((1, 1000)), 0, "k=0; expected a whole number, at least 1"),
        (np.zeros((1, 1000)), "5", "k='5'; expected a whole number"),
        (np.full((1, 1000), np.nan), 5, "not a number"),
    ],
)
def test_refusals(logits, k, message):
    with pytest.raises(ValueError, match=message):
        nfjax.top_k(logits, k)

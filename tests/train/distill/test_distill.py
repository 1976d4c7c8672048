"""A teacher's losses, images and answers, against timm's tasks; and teachers that cannot be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import nfjax
from nfjax.parity import oracle
from train import config as c
from train import data
from train.distill.losses import make_distill_loss
from train.distill.teacher import Seen, make_teacher
from train.experiment import build

oracle.timm()
RNG = np.random.default_rng(0)
OWN, TOLD = 3 * RNG.standard_normal((2, 6, 11))


def by_torch(kind, own, told, t):
    f = torch.nn.functional
    if kind == "kl":
        found = f.kl_div((own / t).log_softmax(-1), (told / t).log_softmax(-1), reduction="batchmean", log_target=True)
        return found * t**2
    if kind == "hard":
        return f.cross_entropy(own, told.argmax(-1))
    if kind == "bce":
        return f.binary_cross_entropy_with_logits(own / t, (told / t).sigmoid()) * t**2
    return f.mse_loss(own, told)


@pytest.mark.parametrize("kind", ["kl", "hard", "bce", "features"])
@pytest.mark.parametrize("t", [1.0, 3.5])
def test_losses_are_timms(kind, t, x64):
    own = torch.from_numpy(OWN.copy()).requires_grad_()
    expected = by_torch(kind, own, torch.from_numpy(TOLD), t)
    expected.backward()
    loss = make_distill_loss(c.Distill(kind=kind, temperature=t))
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(OWN), jnp.asarray(TOLD))
    assert float(value) == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(gradient, own.grad, rtol=1e-11, atol=1e-15)


def test_images_are_seen_as_timm_normalises_them(x64):
    from timm.task import DistillationTeacher

    teacher = DistillationTeacher(oracle.build("test_nfnet"), dtype=torch.float64)
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    x = RNG.standard_normal((2, 4, 4, 3))
    theirs = teacher.normalize_input(
        torch.from_numpy(x.transpose(0, 3, 1, 2)),
        *(torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (mean, std)),
    )
    own = teacher.model.pretrained_cfg
    seen = Seen(mean, std, tuple(own["mean"]), tuple(own["std"]), None)(jnp.asarray(x))
    np.testing.assert_allclose(seen, theirs.permute(0, 2, 3, 1), rtol=1e-12)
    same = Seen(mean, std, mean, std, None)
    assert same(x) is x
    assert Seen(mean, std, mean, std, (8, 6))(jnp.asarray(x)).shape == (2, 8, 6, 3)


def pictures(classes=("ant", "bee", "cat"), count=8, labels=None):
    images = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)
    source = data.ArraySource(images, np.arange(count) % len(classes) if labels is None else labels, classes)
    return c.Data(batch_size=count, image_size=16, multi_label=source.several), (source, source)


def model_of(names, name="test_vit2", size=32, problem=None, **options):
    model = nfjax.load(name, weights=None, num_classes=len(names), img_size=size, seed=3, **options)
    model.data_config = dataclasses.replace(model.data_config, label_names=tuple(names), problem_type=problem)
    return model


def dataset(**options):
    config, images = pictures(**options)
    return data.load_dataset(config, nfjax.data_config("test_vit2"), images=images)


def test_classes_are_found_by_name_and_images_resized():
    """The teacher's own preprocessing and its order of classes; folding changes nothing."""
    model = model_of(("cat", "dog", "ant", "bee"), "test_nfnet")
    teacher = make_teacher(c.Distill("T"), dataset(), model)
    assert teacher.places.tolist() == [2, 3, 0]
    assert teacher.seen.size == (32, 32)
    x = jnp.asarray(RNG.standard_normal((2, 16, 16, 3)), jnp.float32)
    np.testing.assert_allclose(teacher(teacher.params, x), model(teacher.seen(x))[:, [2, 3, 0]], atol=1e-5)
    assert not [path for path in teacher.params if "gain" in path and "skipinit" not in path]
    other = make_teacher(c.Distill("T"), dataset(), model_of(("cat", "ant", "dog", "bee"), "test_nfnet"))
    assert other.identity != teacher.identity
    features = make_teacher(c.Distill("T", "features"), dataset(), model)
    assert features(features.params, x).shape == (2, features.width) == (2, model.head_hidden_size)


SEVERAL = np.eye(8, 3, dtype=np.int8)


@pytest.mark.parametrize(
    ("distill", "model", "options", "message"),
    [
        (c.Distill("T"), ("ant", "bee"), {}, r"distill\.teacher=T: 1 of the data set's 3 classes are not among those"),
        (c.Distill("T"), ("ant", "bee", "cat"), {"labels": SEVERAL}, r"'kl': images have several labels each; .*'bce'"),
        (c.Distill("T"), (), {}, r"T has no classifier; its features remain"),
    ],
)
def test_teachers_that_cannot_be(distill, model, options, message):
    with pytest.raises(ValueError, match=message):
        make_teacher(distill, dataset(**options), model_of(model))


def test_mistakes_of_a_config():
    with pytest.raises(ValueError, match=r"trained on images with several labels"):
        make_teacher(c.Distill("T"), dataset(), model_of(("ant", "bee", "cat"), problem="multi_label_classification"))
    config = c.Config(model=c.Model("test_vit2"), data=c.Data(image_size=16), distill=c.Distill(temperature=2.0))
    with pytest.raises(ValueError, match=r"not from which: distill\.teacher=NAME"):
        build(config)
    config.distill.teacher = "test_vit2"
    with pytest.raises(ValueError, match=r"distill\.teacher=test_vit2: it takes images of 3 channels"):
        build(config)
    config.distill.teacher = "test_vot2"
    with pytest.raises(ValueError, match="test_vot2"):
        build(config)

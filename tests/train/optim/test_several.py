"""Losses and scores of several labels an image, against timm's, torch's and scikit-learn's in float64."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from nfjax.parity import oracle
from train.config import Loss, Mix
from train.device.mix import Mixing, apply_mixing, make_mix, make_targets
from train.optim.losses import make_loss
from train.optim.scores import average_precisions, best_thresholds, counts, f1_of, scores_of_several

oracle.timm()
BATCH, CLASSES = 6, 11
RNG = np.random.default_rng(0)
LOGITS = 4 * RNG.standard_normal((BATCH, CLASSES))
LABELS = RNG.integers(-1, 2, (BATCH, CLASSES)).astype(np.int8)
WEIGHTS = tuple(RNG.uniform(0.2, 5, CLASSES))


def theirs(loss):
    from timm.loss import AsymmetricLossMultiLabel, BinaryCrossEntropy

    weight = None if loss.pos_weight is None else torch.tensor(loss.pos_weight, dtype=torch.float64)
    if loss.name == "asl":
        gammas = {"gamma_neg": loss.asl_gamma_neg, "gamma_pos": loss.asl_gamma_pos, "clip": loss.asl_clip}
        return AsymmetricLossMultiLabel(**gammas, smoothing=loss.smoothing, reduction="none", pos_weight=weight)
    return BinaryCrossEntropy(
        loss.smoothing, loss.bce_target_thresh, reduction="none", pos_weight=weight, smooth_dense=True
    )


@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown"])
@pytest.mark.parametrize(
    "loss",
    [
        Loss("bce"),
        Loss("bce", smoothing=0.2, pos_weight=WEIGHTS),
        Loss("bce", bce_sum=True, pos_weight=(3.0,)),
        Loss("bce", smoothing=0.4, bce_target_thresh=0.3),
        Loss("asl"),
        Loss("asl", smoothing=0.1, pos_weight=WEIGHTS, asl_gamma_neg=2.0, asl_gamma_pos=0.0, asl_clip=0.0),
    ],
    ids=str,
)
def test_value_and_gradient_are_timms(loss, unknown, x64, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the asymmetric loss rounds to float32
    labels = LABELS if unknown else np.abs(LABELS)
    tensor, known = torch.from_numpy(LOGITS).requires_grad_(), torch.from_numpy(labels >= 0)
    each = theirs(loss)(tensor, torch.from_numpy(labels).clamp(0).double())
    each = torch.where(known, each, 0.0)
    summed = loss.bce_sum or loss.name == "asl"
    expected = each.sum(-1).mean() if summed else each.sum() / known.sum()
    expected.backward()
    targets = make_targets(CLASSES, loss.smoothing, jnp.float64)(jnp.asarray(labels))
    value, gradient = jax.value_and_grad(make_loss(loss, several=True))(LOGITS, targets)
    assert float(value) == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-11, atol=1e-16)


def test_the_weight_of_one_label_an_image_is_torchs(x64):
    labels = np.arange(BATCH)
    tensor, hot = torch.from_numpy(LOGITS), torch.nn.functional.one_hot(torch.from_numpy(labels), CLASSES).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        tensor, hot, pos_weight=torch.tensor(WEIGHTS).double()
    )
    value = make_loss(Loss("bce", pos_weight=WEIGHTS))(jnp.asarray(LOGITS), jnp.asarray(labels))
    assert float(value) == pytest.approx(expected.item(), rel=1e-13)


def test_a_batch_of_which_nothing_is_known_costs_nothing():
    targets = jnp.full((2, 3), jnp.nan)
    for name in ("bce", "asl"):
        value, gradient = jax.value_and_grad(make_loss(Loss(name), several=True))(jnp.ones((2, 3)), targets)
        assert value == 0
        assert not np.any(gradient)


@pytest.mark.parametrize(
    ("loss", "several", "message"),
    [
        (Loss(), True, r"loss\.name='ce': images have several labels each; expected 'bce' or 'asl'"),
        (Loss("asl"), False, r"loss\.name='asl': images have one label each; expected 'bce' or 'ce'"),
        (Loss(pos_weight=(2.0,)), False, r"loss\.pos_weight is for"),
    ],
)
def test_what_does_not_go_together(loss, several, message):
    with pytest.raises(ValueError, match=message):
        make_loss(loss, several=several)


def test_targets_are_mixed_as_timms(x64):
    """And an unknown label stays unknown where it has a share."""
    from timm.data.mixup import mixup_target

    labels = np.abs(LABELS)
    targets = make_targets(CLASSES, 0.1, jnp.float64)
    share = np.array([0.3, 1.0, 0.0, 1.0, 0.6, 0.7])
    mixing = Mixing(jnp.asarray(share), jnp.zeros(BATCH, bool), jnp.zeros((BATCH, 4), jnp.int32))
    images = jnp.zeros((BATCH, 2, 2, 3))
    expected = mixup_target(torch.from_numpy(labels).double(), CLASSES, torch.from_numpy(share)[:, None], 0.1, True)
    _, found = apply_mixing(mixing, images, targets(jnp.asarray(labels)), several=True)
    np.testing.assert_allclose(found, expected, atol=1e-7)  # timm's are float32
    _, found = apply_mixing(mixing, images, targets(jnp.asarray(LABELS)), several=True)
    unknown, other = LABELS < 0, LABELS[::-1] < 0
    lam = share[:, None]
    assert np.array_equal(np.isnan(found), (unknown & (lam > 0)) | (other & (lam < 1)))


def test_classes_that_the_data_lack_are_unknown():
    targets = make_targets(CLASSES + 2, 0.0, jnp.float32)(jnp.asarray(LABELS))
    assert np.isnan(targets[:, CLASSES:]).all()
    mix = make_mix(Mix(mixup=1.0), CLASSES + 2, several=True)
    _, mixed = mix(jnp.zeros((BATCH, 2, 2, 3)), targets, jax.random.key(0), 0)
    assert mixed.shape == targets.shape


def test_scores_are_scikit_learns():
    """With ties, unknown labels, and a class that no image has."""
    rng = np.random.default_rng(1)
    logits = rng.integers(-6, 7, (200, 7)) / 2.0
    labels = rng.choice([-1, 0, 1], (200, 7), p=[0.2, 0.5, 0.3]).astype(np.int8)
    labels[:, 3] = np.minimum(labels[:, 3], 0)
    found = average_precisions(logits, labels)
    for place in range(7):
        known = labels[:, place] >= 0
        if place == 3:
            assert np.isnan(found[place])
            continue
        assert found[place] == pytest.approx(
            average_precision_score(labels[known, place], logits[known, place]), abs=1e-14
        )
    scores = scores_of_several(logits, labels)
    assert scores["map"] == pytest.approx(np.nanmean(found), abs=1e-14)
    known = labels >= 0
    assert scores["f1"] == pytest.approx(f1_score(labels[known], logits[known] >= 0), abs=1e-14)
    each = [f1_score(labels[k, i], logits[k, i] >= 0) for i in (0, 1, 2, 4, 5, 6) for k in [known[:, i]]]
    assert scores["macro_f1"] == pytest.approx(np.mean(each), abs=1e-14)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits)[known], torch.from_numpy(labels)[known].double()
    )
    assert scores["loss"] == pytest.approx(loss.item(), rel=1e-13)
    thresholds, best = best_thresholds(logits, labels)
    for place in (0, 6):
        of = [f1_of(*(c[place] for c in counts(logits >= t, labels))) for t in np.unique(logits)]
        assert best[place] == max(of) == f1_of(*(c[place] for c in counts(logits >= thresholds[place], labels)))


def test_scores_are_timms():
    from timm.task.evaluator import MultiLabelClassificationEvaluator

    evaluator, labels = MultiLabelClassificationEvaluator(), np.abs(LABELS)
    evaluator.update(torch.from_numpy(LOGITS), torch.from_numpy(labels))
    theirs, ours = evaluator.compute(), scores_of_several(LOGITS.astype(np.float32), labels)
    names = {"map": "map", "micro_f1": "f1", "macro_f1": "macro_f1"}
    for name, own in names.items():
        assert theirs[name] / 100 == pytest.approx(ours[own], abs=1e-12)
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-6)  # of float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(scores_of_several(LOGITS, np.zeros_like(LABELS))["map"])

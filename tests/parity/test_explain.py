"""Grad-CAM and attention of timm's own models, by torch's autograd and hooks, in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import nfjax
from nfjax.parity import oracle
from nfjax.tasks.explaining import grad_cam

timm = oracle.timm()


@pytest.mark.parametrize("name", ["test_nfnet", "nf_resnet26"])
def test_grad_cam_equals_torch(name, x64):
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False, num_classes=7).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # all of them, also gains that begin at 0
            parameter.copy_(parameter + 0.1 * torch.randn_like(parameter))
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    ours = nfjax.load(name, state, num_classes=7, dtype=jnp.float64)
    x = np.random.default_rng(0).normal(size=(2, 64, 96, 3))
    features = theirs.forward_features(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    features.retain_grad()
    logits = theirs.forward_head(features)
    for classes in ([1, 4], logits.argmax(1).tolist()):
        features.grad = None
        sum(logits[i, c] for i, c in enumerate(classes)).backward(retain_graph=True)
        weights = features.grad.mean((2, 3), keepdim=True)
        expected = torch.relu((weights * features).sum(1)).detach()
        found = np.asarray(grad_cam(ours, ours.forward_features(jnp.asarray(x)), jnp.asarray(classes)))
        assert np.abs(found - expected.numpy()).max() <= 1e-9 * expected.max()
        large = torch.nn.functional.interpolate(expected[:, None], (64, 96), mode="bilinear")[:, 0]
        large = np.nan_to_num((large / large.amax((1, 2), keepdim=True)).numpy())  # nothing may raise a class
        np.testing.assert_allclose(nfjax.explain(ours, x, target=classes), large, atol=1e-6)

"""What patches have in common."""

import numpy as np
import pytest

from nfjax.dense import principal_colours, similarity

RNG = np.random.default_rng(0)


def test_main_components_become_colours():
    """Three directions of falling strength, in two maps of other sizes: each colour is one of them."""
    base = np.zeros((16, 3))
    base[range(6), [0, 0, 1, 1, 2, 2]] = 0.8, 0.6, 0.8, -0.6, -0.6, 0.8
    weights = [RNG.uniform(-1, 1, (h, w, 3)) * (9, 4, 1) for h, w in ((20, 30), (8, 5))]
    maps = [np.float32(w @ base.T + 7) for w in weights]
    colours = principal_colours(maps)
    assert [c.shape for c in colours] == [(20, 30, 3), (8, 5, 3)]
    told, drawn = (np.concatenate([m.reshape(-1, 3) for m in many]) for many in (weights, colours))
    assert (drawn.min(0), drawn.max(0)) == (pytest.approx(0), pytest.approx(1))
    assert np.diag(np.corrcoef(told.T, drawn.T)[:3, 3:]).min() > 0.98
    for again, colour in zip(principal_colours(maps[::-1])[::-1], colours, strict=True):
        np.testing.assert_allclose(again, colour, atol=1e-6)  # whatever comes first


def test_what_has_no_components():
    np.testing.assert_array_equal(principal_colours([np.ones((2, 3, 4))])[0], np.zeros((2, 3, 3)))
    for maps in ([], [np.ones((2, 2, 2))], [np.ones((2, 2, 4)), np.ones((2, 2, 5))]):
        with pytest.raises(ValueError, match="equally many, at least 3"):
            principal_colours(maps)


def test_similarity():
    features = np.zeros((2, 3, 4), np.float32)
    features[0, 0], features[0, 1], features[1, 2] = (1, 1, 0, 0), (3, 3, 0, 0), (-1, 0, 0, 0)
    np.testing.assert_allclose(similarity(features, 0, 0), [[1, 1, 0], [0, 0, -(0.5**0.5)]], atol=1e-12)
    with pytest.raises(ValueError, match="row=2, column=0; the map has 2 rows and 3 columns"):
        similarity(features, 2, 0)

"""The leaf rules: each parameter has exactly one, and each is inverted to the byte."""

import re

import numpy as np
import pytest

import nfjax
import port
from nfjax.models.registry import MODELS
from nfjax.params import named_params

DONE = set()  # names, whatever their numbers are, and shapes that have made the round trip
# The deep ones repeat the blocks of these at the same widths; `-m slow` has them all.
DEEP = [*(f"nfnet_f{i}" for i in range(2, 8)), "384", "448", "giant", "large", "so400m", "huge", "5b", "7b"]
SHALLOW = [n for n in nfjax.list_models() if not any(part in n for part in DEEP)]


def paths_and_shapes(name):
    return {path: var.get_value().shape for path, var in named_params(MODELS[name].build()).items()}


@pytest.mark.parametrize("name", nfjax.list_models())
def test_names_and_shapes_invert(name):
    shapes = paths_and_shapes(name)
    names = port.timm_shapes(shapes)
    assert len(names) == len(shapes)
    blank = {n: np.broadcast_to(np.float32(0), s) for n, s in names.items()}
    assert {path: a.shape for path, a in port.to_flax(blank).items()} == shapes


def round_trip(name):
    rng = np.random.default_rng(0)
    noise = rng.bytes(1 << 22)
    for key, shape in port.timm_shapes(paths_and_shapes(name)).items():
        block_by_any_number = re.sub(r"\d+", "0", key), shape
        if block_by_any_number in DONE:
            continue
        DONE.add(block_by_any_number)
        size = 4 * int(np.prod(shape))
        raw = (noise * (size // len(noise) + 1))[:size]
        array = np.frombuffer(raw, np.float32).reshape(shape)
        (path, flax), *rest = port.to_flax({key: array}).items()
        ((back_key, back),) = port.to_timm({path: np.ascontiguousarray(flax).reshape(flax.shape)}).items()
        assert not rest
        assert (back_key, back.shape, back.tobytes()) == (key, shape, raw)


@pytest.mark.parametrize("name", SHALLOW)
def test_bytes_survive(name):
    round_trip(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in nfjax.list_models() if n not in SHALLOW])
def test_bytes_survive_deep(name):
    round_trip(name)


def test_no_two_rules_claim_the_same_array():
    for keys in ([(r.timm, r.timm_rank) for r in port.RULES], [(r.flax, r.flax_rank) for r in port.RULES]):
        assert len(set(keys)) == len(keys)


def test_layouts():
    conv = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    flax = port.to_flax({"a.0.weight": conv, "a.fc.weight": conv[:, :, 0, 0], "a.gain": np.ones((4, 1, 1, 1))})
    assert {k: v.shape for k, v in flax.items()} == {
        "a/0/kernel": (5, 7, 3, 2),
        "a/fc/kernel": (3, 2),
        "a/gain": (4,),
    }
    assert flax["a/0/kernel"][4, 6, 2, 1] == conv[1, 2, 4, 6]
    assert all(np.shares_memory(v, conv) for k, v in flax.items() if k != "a/gain")  # views, no copies


def test_names_without_a_rule_are_all_named():
    with pytest.raises(port.WeightsError, match=r"2 arrays: bn\.running_mean of shape \(3,\), x\.weight of shape \(\)"):
        port.to_flax({"bn.running_mean": np.zeros(3), "x.weight": np.zeros(()), "b.bias": np.zeros(1)})
    with pytest.raises(port.WeightsError, match="a/weird of shape"):
        port.to_timm({"a/weird": np.zeros(3)})
    with pytest.raises(port.WeightsError, match=r"expected \(4, 1, 1, 1\)"):
        port.to_flax({"a.gain": np.zeros((4, 2, 1, 1))})

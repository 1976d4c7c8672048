"""Weights in other libraries' layouts: wrong, truncated, mixed and hostile, as .npz, safetensors and pickles."""

import copy
import functools
import io
import os
import pickle
from unittest import mock

import numpy as np
from safetensors.numpy import save

import nfjax
from nfjax.weights.loading import logger
from port import layouts
from tests.fuzz.values import TEXTS, mutate_bytes, mutate_tree, to_json, value
from tests.helpers.layouts import CASES, written
from tests.port.test_layouts import Call

KINDS = ("safetensors", "npz", "npz", "pickle")
CONFIG = {
    "model_type": "dinov2_with_registers",
    "architectures": ["Dinov2WithRegistersForImageClassification"],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "mlp_ratio": 4,
    "qkv_bias": True,
    "num_register_tokens": 4,
    "num_channels": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "use_swiglu_ffn": False,
    "id2label": {"0": "cat", "1": "dog", "2": "eel"},
}


@functools.cache
def sound(case):
    return written(case)


def wrong(rng, state):
    """The state dict with some entries gone, renamed, of other shapes or numbers, or of another layout."""
    state = dict(state)
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        names = list(state)
        name = rng.choice(names)
        array = state[name]
        how = rng.choice(["remove", "rename", "shape", "dtype", "axes", "more", "mixed", "swap"])
        if how == "remove" and len(names) > 1:
            del state[name]
        elif how == "rename":
            state[rng.choice([name[:-1], f"{name}.0", name.replace("0", "00", 1), name.upper(), *TEXTS[:4]])] = array
            state.pop(name, None)
        elif how == "shape":
            state[name] = np.zeros([rng.choice([0, 1, 2, 3, 7]) for _ in range(rng.randrange(6))], np.float32)
        elif how == "dtype":
            state[name] = array.astype(rng.choice(["float16", "float64", "int8", "bool"]))
        elif how == "axes":
            state[name] = array.T if array.ndim > 1 else array[None]
        elif how == "more":
            state[rng.choice(["x", "cls", "norm.weight", "embedding/kernel", "register_tokens", "NFNet/~/a/w"])] = array
        elif how == "mixed":
            other = sound(rng.randrange(len(CASES)))[0]
            state |= {key: other[key] for key in rng.sample(list(other), min(len(other), 5))}
        elif how == "swap":
            other = rng.choice(names)
            if other in state and name in state:
                state[name], state[other] = state[other], state[name]
    return state


def pickled(rng, state):
    """As DeepMind pickles haiku's parameters, now and then with something hostile inside."""
    nested = {}
    for name, array in state.items():
        module, _, leaf = name.rpartition("/")
        nested.setdefault(module, {})[leaf] = array
    if rng.random() < 0.3:
        bad = [Call(os.system, ("touch /tmp/nfjax-fuzz",)), Call(bytearray, (2**40,)), Call(open, ("/tmp/x", "w"))]
        nested[rng.choice(["a", "NFNet/~/linear"])] = rng.choice([*bad, [1], value(rng), {"w": bad[0]}, (1,) * 3])
    return pickle.dumps(nested, protocol=rng.choice([2, 3, 4, 5]))


def mutants(rng):
    """The number of a case, and the contents of files by name; the first is read."""
    case = rng.randrange(len(CASES))
    state = wrong(rng, sound(case)[0])
    if rng.random() < 0.15:  # a folder of transformers
        case = next(i for i, (layout, _, _) in enumerate(CASES) if "classifier" in "".join(sound(i)[0]))
        state = wrong(rng, sound(case)[0]) if rng.random() < 0.5 else sound(case)[0]
        config = copy.deepcopy(CONFIG)
        if rng.random() < 0.8:
            mutate_tree(rng, config)
        return case, {"config.json": to_json(config), "model.safetensors": encoded(rng, state, "safetensors")}
    kind = "pickle" if CASES[case][0].name == "deepmind" and rng.random() < 0.5 else rng.choice(KINDS[:3])
    whole = encoded(rng, state, kind)
    if rng.random() < 0.3:
        whole = mutate_bytes(rng, whole)
    return case, {f"weights.{'safetensors' if kind == 'safetensors' else 'npz'}": whole}


def encoded(rng, state, kind):
    if kind == "pickle":
        return pickled(rng, state)
    if kind == "safetensors":
        return save({name: np.array(array, order="C") for name, array in state.items()})
    file = io.BytesIO()
    rng.choice([np.savez, np.savez_compressed])(file, **{k.replace("\0", "") or "x": a for k, a in state.items()})
    return file.getvalue()


def put(mutant, folder):
    for name, content in mutant[1].items():
        (folder / name).write_bytes(content)


def try_(mutant, folder):
    """What is loaded is what the layout's arrays say, all of it; nothing is half loaded."""
    case, files = mutant
    _, name, options = CASES[case]
    with mock.patch.object(logger, "disabled", True):
        if "config.json" in files:
            model = nfjax.load(folder)
        else:
            model = nfjax.load(name, folder / next(iter(files)), **options)
    state = nfjax.state_dict(model)
    expected = sound(case)[1]
    assert state.keys() == expected.keys()
    # A config.json may ask for another image size, to which the position embedding is resampled.
    shapes = [{n: a.shape for n, a in some.items() if n != "pos_embed"} for some in (state, expected)]
    assert shapes[0] == shapes[1]
    assert layouts.recognise(state) is None

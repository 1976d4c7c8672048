"""config.json of a model folder, as loading, `nfjax info`, `classify` and `evaluate` read it, without weights."""

import contextlib
import copy
import dataclasses
import functools
import io

from PIL import Image

from nfjax.cli.output import print_tables, table_of
from nfjax.models import registry
from nfjax.profile import profile
from nfjax.transforms import create_transform
from nfjax.weights.names import resolve
from nfjax.weights.planning import LoadOptions, make_plan
from port.text import one_line
from tests.fuzz.values import mutate_bytes, mutate_tree, to_json

NAMES = [
    "test_nfnet",
    "test_vit2",
    "test_vit3",
    "vit_medium_patch16_rope_reg1_gap_256",
    "vit_dpwee_patch16_reg1_gap_256",
]
DEEP = [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"architecture":"test_nfnet","label_names":' + b"[" * 900 + b"]" * 900 + b"}",
]


@functools.cache
def valid(name):
    """A config.json that names every field of its architecture."""
    entry = registry.MODELS[name]
    names = entry.family.timm_names
    fields = dataclasses.asdict(entry.config) | {"img_size": 64, "in_chans": 3}
    data = dataclasses.replace(entry.data[0], num_classes=3).to_json()
    return {
        "architecture": name,
        "num_classes": 3,
        "label_names": ["cat", "dog [puppy]", "fish"],
        "model_args": {names.get(field, field): value for field, value in fields.items()},
        "pretrained_cfg": data | {"test_input_size": [3, 96, 96], "test_crop_pct": 1.0, "custom_load": False},
    }


def mutants(rng):
    """The bytes of a file, and whether the model is traced too, which takes a second."""
    if rng.random() < 0.02:
        return rng.choice(DEEP), False
    config = copy.deepcopy(valid(rng.choice(NAMES)))
    if rng.random() < 0.2:
        config |= config.pop("pretrained_cfg")  # the older layout
    if rng.random() < 0.5:
        config["model_args"] = dict(rng.sample(sorted(config["model_args"].items()), 3))
    mutate_tree(rng, config)
    content = to_json(config)
    return (mutate_bytes(rng, content) if rng.random() < 0.1 else content), rng.random() < 0.03


def put(mutant, folder):
    (folder / "config.json").write_bytes(mutant[0])


def try_(mutant, folder):
    source = resolve(folder)
    plan = make_plan(source, LoadOptions())
    model = plan.build()
    assert model.data_config == plan.data
    hash(plan.data)
    for use_test_size in (False, True):
        create_transform(model, use_test_size=use_test_size)(Image.new("RGB", (8, 8)))
    assert_shown(plan.data)
    if mutant[1]:
        profile(source)


def assert_shown(data):
    """Names and licence as a table on the screen has them: every one, and nothing that a terminal would follow."""
    table = table_of(["name"], [])
    names = [str(data.license), *(data.label_names or ())]
    for name in names:
        table.add_row(name)
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        print_tables(table)
    assert screen.getvalue().replace("\n", "").isprintable()
    shown = "".join(screen.getvalue().split())
    assert all("".join(one_line(name).split()) in shown for name in names)

"""Which parameter is treated how, for every network: tables against what timm does."""

import pytest

import nfjax
import port
from nfjax.models.registry import MODELS
from nfjax.params import named_params
from nfjax.parity import oracle
from train.config import Group, Optim
from train.optim.parameters import FSDP_AXES, LAYERS, UNIT_AXES, WEIGHT_DECAY, assign, layers, treatments

oracle.timm()  # before anything of timm is imported


def timm_names(model):
    """Flax paths by timm name, nothing allocated."""
    names = {}
    for path, variable in named_params(model).items():
        (name,) = port.rules.timm_shapes({path: variable.get_value().shape})
        names[name] = path
    return names


def by_name(model, groups, key, default=None):
    """A setting of torch's parameter groups, by parameter name."""
    settings = {id(p): group.get(key, default) for group in groups for p in group["params"]}
    return {name: settings[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", nfjax.list_models())
def test_tables_say_what_timm_does(name):
    from timm.models import model_parameters
    from timm.optim import create_optimizer_v2

    theirs = oracle.shapes(name, num_classes=10)
    paths = timm_names(MODELS[name].build(num_classes=10))
    assert paths.keys() == {key for key, _ in theirs.named_parameters()}
    for table in (UNIT_AXES, FSDP_AXES, LAYERS, *WEIGHT_DECAY.values()):
        assert assign(table, paths.values()).keys() == set(paths.values())

    for layer_decay, least in ((None, 0.0), (0.75, 0.0), (0.75, 0.4)):
        options = {"layer_decay": layer_decay, "layer_decay_min_scale": least}
        optimizer = create_optimizer_v2(theirs, "sgd", lr=1, weight_decay=0.05, **options)
        decay = by_name(theirs, optimizer.param_groups, "weight_decay")
        scale = by_name(theirs, optimizer.param_groups, "lr_scale", 1.0)
        ours = treatments(Optim(weight_decay=0.05, **options), paths.values())
        assert {key: ours[path].weight_decay for key, path in paths.items()} == decay
        assert {key: ours[path].lr_scale for key, path in paths.items()} == pytest.approx(scale, rel=1e-15)
    assert len(set(scale.values())) > 3

    unclipped = {id(p) for p in theirs.parameters()} - {id(p) for p in model_parameters(theirs, exclude_head=True)}
    classifier = {paths[key] for key, p in theirs.named_parameters() if id(p) in unclipped}
    assert classifier == {path for path in paths.values() if not ours[path].clipped}


def test_deepmind_spares_the_gains():
    paths = named_params(MODELS["dm_nfnet_f0"].build())
    rules = {rule: treatments(Optim(decay_rule=rule, weight_decay=1), paths) for rule in WEIGHT_DECAY}
    differ = {path for path in paths if rules["timm"][path] != rules["deepmind"][path]}
    assert differ == {path for path in paths if path.endswith("/gain")}
    assert {path.rsplit("/")[-1] for path in paths if rules["deepmind"][path].weight_decay} == {"kernel"}


def test_layers_of_a_network_without_final_convolution():
    paths = named_params(MODELS["nf_resnet26"].build())
    layer = layers(paths)
    assert sorted(set(layer.values())) == list(range(10))  # stem, 2 + 2 + 2 + 2 blocks, head
    assert (layer["stages/1/0/conv1/kernel"], layer["head/fc/bias"]) == (3, 9)


PATHS = ["stem/conv1/kernel", "stages/0/0/conv1/kernel", "stages/0/0/conv1/bias", "head/fc/kernel", "head/fc/bias"]


def test_groups_override():
    groups = (
        Group("head/.*", lr_scale=10.0),
        Group(".*conv1/kernel", weight_decay=0.5),
        Group(".*conv1/bias", weight_decay=0.25, frozen=True),
    )
    found = treatments(Optim(weight_decay=0.1, layer_decay=0.5, groups=groups, freeze=("stem/.*",)), PATHS)
    assert [found[path][:3] for path in PATHS] == [
        (0.25, 0.5, True), (0.5, 0.5, False), (0.5, 0.25, True), (10.0, 0.1, False), (10.0, 0.0, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        (
            Optim(freeze=("stages/0/conv1/kernel",)),
            r"optim\.freeze: .* matches no parameter; .* stages/0/0/conv1/kernel",
        ),
        (Optim(freeze=("stem/(",)), r"optim\.freeze: 'stem/\(' is not a regular expression"),
        (Optim(freeze=(".*",)), "freeze every parameter"),
        (Optim(groups=(Group("head/.*"),)), r"optim\.groups: .*one row of the table:\n  stem/conv1/kernel: no row"),
        (Optim(groups=(Group(".*"), Group("head/.*"))), r"head/fc/bias: \.\* and head/\.\*"),
        (Optim(groups=(Group(".*"), Group("heads/.*"))), r"optim\.groups: 'heads/\.\*' matches no parameter"),
        (Optim(groups=(Group(".*"), Group(".*", 2.0))), r"a pattern twice"),
    ],
)
def test_patterns_that_do_not_fit(optim, message):
    with pytest.raises(ValueError, match=message):
        treatments(optim, PATHS)


def test_tables_refuse_what_they_do_not_cover():
    with pytest.raises(ValueError, match=r"a/kernel: no row\n  b: \.\*b and \[b\]"):
        assign({"x": 1, ".*b": 2, "[b]": 3}, ["a/kernel", "b"])

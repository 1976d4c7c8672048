"""In which order torch has the parameters of a model, and how timm groups them.

torch knows whose an optimiser's state is by that position alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from flax import nnx

from train.config import Optim
from train.optim.parameters import WEIGHT_DECAY, assign, treatments

# Layers in timm's order, where ours are declared in another one. The others are declared as timm's are.
LAYERS = (
    *("norm1", "attn", "ls1", "norm2", "in_norm", "in_proj", "qkv", "proj", "sub_norm", "norm", "mlp", "ls2"),
    "out_proj",
)


class Group(NamedTuple):
    """A group of parameters that timm's `create_optimizer_v2` makes."""

    paths: list[str]
    lr_scale: float | None  # None where there is no layer decay, and no such setting
    weight_decay: float


def torch_order(model: Any, prefix: str = "") -> list[str]:
    """The paths of a model's parameters, as torch's `named_parameters` orders timm's: a module's own come first."""
    members = dict(enumerate(model)) if isinstance(model, nnx.List) else vars(model)
    own = [f"{prefix}{name}" for name, value in members.items() if isinstance(value, nnx.Param)]
    children = [name for name, value in members.items() if isinstance(value, nnx.Module)]
    known = iter(sorted((name for name in children if name in LAYERS), key=LAYERS.index))
    children = [next(known) if name in LAYERS else name for name in children]
    return own + [path for name in children for path in torch_order(members[name], f"{prefix}{name}/")]


def timm_groups(optim: Optim, order: Sequence[str]) -> list[Group]:
    """The groups of timm's `param_groups_weight_decay` and `param_groups_layer_decay`, in torch's order.

    Args:
        optim: of a config that timm has a counterpart of.
        order: every parameter's path, from `torch_order`.
    """
    due, decays = treatments(optim, order), assign(WEIGHT_DECAY["timm"], order)
    layered = optim.layer_decay is not None
    groups: dict[tuple[int, bool], list[str]] = {}
    if not layered:
        groups = {(0, False): [], (0, True): []}  # what does not decay comes first
    for path in order:
        decaying = decays[path] and (layered or optim.weight_decay > 0)
        groups.setdefault((due[path].layer if layered else 0, decaying), []).append(path)
    return [
        Group(paths, due[paths[0]].lr_scale if layered else None, due[paths[0]].weight_decay)
        for paths in groups.values()
        if paths
    ]

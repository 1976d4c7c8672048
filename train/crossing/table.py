"""What torch and timm call the state and the settings of the optimisers that both sides have: short tables."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from train.config import Config, Optim
from train.optim.optimizer import base_lr, settings
from train.optim.transforms import THIRD

# What an optimiser remembers of a parameter: ours, the field of an optax state, and torch's.
FIELDS = {
    "trace": "momentum_buffer",
    "mean": "momentum_buffer",  # of muon
    "mu": "exp_avg",
    "nu": "exp_avg_sq",
    "square": "square_avg",
    "difference": "exp_avg_diff",
    "negated": "neg_pre_grad",
    "slow": "lookahead_slow_buff",
}
COUNT = "step"  # torch's `count`, of each parameter or of each group
SLOW_COUNT = "lookahead_step"  # likewise that of lookahead, of each group
ROUTE = "use_muon"  # timm's note which half of Muon a parameter belongs to


@dataclasses.dataclass(frozen=True)
class Row:
    """One optimiser.

    Attributes:
        fixed: settings of torch's parameter groups that are built into ours.
        own: those that the config has, of momentum, betas and eps.
        betas: those of torch's that the config has not, after its two.
        marks: settings by which its groups are told from those of others, where nothing names the optimiser.
        count: where torch counts steps: "parameter", "group" or "", nowhere.
        sign: of torch's `momentum_buffer` relative to ours.
        other: settings that torch must find in a file, whatever they are.
    """

    fixed: Mapping[str, Any]
    own: tuple[str, ...]
    marks: tuple[str, ...]
    count: str = ""
    sign: int = 1
    betas: tuple[float, ...] = ()
    other: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_UP = {"maximize": False}
_PLAIN = {"caution": False, "corrected_weight_decay": False}
_SGD = {"dampening": 0} | _UP
_MUON = {
    "ns_steps": 5, "ns_coefficients": "quintic", "safety_factor": 1.0, "adjust_lr_fn": "match_rms_adamw",
    "conv_mode": "flatten", "fallback_lr_scale": 1.0, "algo": "muon", "scale_eps": False, "use_fallback": False,
}  # fmt: skip
_LAMB = {
    "bias_correction": True, "grad_averaging": True, "max_grad_norm": 1.0, "trust_clip": False, "always_adapt": False,
    "decoupled_decay": False,
}  # fmt: skip
_RMS = {"alpha": 0.9, "centered": False, "decoupled_decay": False, "lr_in_momentum": True}
_MUON_OTHER = {"normalize_spatial": True, "verbose": False}  # of another convolution mode, and of the log
_ADAM = ("betas", "eps")

ROWS: dict[str, Row] = {
    "sgd": Row({"nesterov": True} | _SGD, ("momentum",), ("nesterov",)),
    "momentum": Row({"nesterov": False} | _SGD, ("momentum",), ("nesterov",)),
    "adamw": Row(
        {"amsgrad": False, "decoupled_weight_decay": True} | _UP, _ADAM, ("amsgrad", "decoupled_weight_decay"),
        count="parameter",
    ),
    "nadamw": Row({"clipping_threshold": None} | _PLAIN | _UP, _ADAM, ("caution", "eps"), count="parameter"),
    "lamb": Row(_LAMB | _PLAIN, _ADAM, ("trust_clip",), count="group"),
    "rmsproptf": Row(_RMS | _PLAIN, ("momentum", "eps"), ("lr_in_momentum",), count="parameter", sign=-1),
    "adopt": Row(
        {"clip_exp": 0.333, "decoupled": False} | _PLAIN | _UP, _ADAM, ("clip_exp",), count="parameter"
    ),
    "adanw": Row(
        {"no_prox": True, "caution": False}, _ADAM, ("no_prox",), count="group", betas=(THIRD,), other={"foreach": None}
    ),
    "lion": Row(_PLAIN | _UP, ("betas",), ("betas", "caution")),
    "muon": Row({"nesterov": False} | _MUON, ("momentum", *_ADAM), ("ns_steps",), "parameter", other=_MUON_OTHER),
    "nmuon": Row({"nesterov": True} | _MUON, ("momentum", *_ADAM), ("ns_steps",), "parameter", other=_MUON_OTHER),
}  # fmt: skip

# Settings of groups that decide how something is computed, not what; or that are compared by themselves.
FREE = {
    *("params", "lr", "initial_lr", "lr_scale", "weight_decay"),
    *("foreach", "fused", "capturable", "differentiable", "max_lr_snapshot", COUNT, SLOW_COUNT),
}

# Options of timm's train.py, in its `args`, and the fields that mean the same.
ARGS = {
    "epochs": "epochs", "sched": "schedule.name", "sched_on_updates": "schedule.on_updates",
    "warmup_epochs": "schedule.warmup_epochs", "warmup_lr": "schedule.warmup_lr",
    "warmup_prefix": "schedule.warmup_prefix", "min_lr": "schedule.min_lr",
    "cooldown_epochs": "schedule.cooldown_epochs", "decay_epochs": "schedule.decay_epochs",
    "decay_rate": "schedule.decay_rate", "lr_cycle_limit": "schedule.cycle_limit", "lr_cycle_mul": "schedule.cycle_mul",
    "lr_cycle_decay": "schedule.cycle_decay", "model_ema_decay": "ema.decay", "model_ema_warmup": "ema.warmup",
    "clip_grad": "optim.clip_grad", "clip_mode": "optim.clip_mode", "smoothing": "loss.smoothing",
    "drop": "model.drop_rate", "drop_path": "model.drop_path_rate", "mixup": "mix.mixup", "cutmix": "mix.cutmix",
    "reprob": "mix.reprob", "decay_milestones": "schedule.milestones", "lr_k_decay": "schedule.k_decay",
    "train_crop_mode": "augment.train_crop_mode", "gaussian_blur_prob": "augment.gaussian_blur_prob",
}  # fmt: skip
# When those mean something that do not always.
USED: dict[str, Callable[[Config], bool]] = {
    "decay_epochs": lambda config: config.schedule.name in ("step", "wsd"),
    "decay_rate": lambda config: config.schedule.name in ("step", "multistep"),
    "decay_milestones": lambda config: config.schedule.name == "multistep",
    "lr_k_decay": lambda config: config.schedule.name in ("cosine", "poly") and config.schedule.k_decay != 1,
    **dict.fromkeys(
        ("lr_cycle_mul", "lr_cycle_decay", "lr_cycle_limit"), lambda config: config.schedule.cycle_limit > 1
    ),
    **dict.fromkeys(("model_ema_decay", "model_ema_warmup"), lambda config: config.ema.decay > 0),
    **dict.fromkeys(("clip_grad", "clip_mode"), lambda config: config.optim.clip_grad is not None),
    "train_crop_mode": lambda config: config.augment.train_crop_mode != "rrc" and not config.augment.no_aug,
    "gaussian_blur_prob": lambda config: config.augment.gaussian_blur_prob > 0 and not config.augment.no_aug,
}


def require_counterpart(config: Config) -> None:
    """Raise a ValueError, naming the field, for what timm's train.py has no counterpart of."""
    optim = config.optim
    without = {
        "optim.freeze": optim.freeze,
        "optim.groups": optim.groups,
        "optim.decoupled_decay": optim.decoupled_decay,
        "optim.decay_rule='deepmind'": optim.decay_rule != "timm",
        "schedule.name='plateau'": config.schedule.name == "plateau",
        "schedule.milestones between epochs": any(epoch % 1 for epoch in config.schedule.milestones),
    }
    if found := [field for field, value in without.items() if value]:
        raise ValueError(
            f"{', '.join(found)}: timm's train.py has no counterpart, and its checkpoints no place for that. Weights "
            "alone can be carried over: --config.model.weights=FILE here, `nfjax.save` or a run's final/ there."
        )


def own_settings(optim: Optim) -> dict[str, Any]:
    """The settings that the config has, under torch's names."""
    values, row = settings(optim, {}), ROWS[optim.name]
    found = {name: getattr(values, name) for name in row.own}
    if row.betas:
        found["betas"] = (*values.betas, *row.betas)
    slow = {"lookahead_alpha": optim.lookahead, "lookahead_k": optim.lookahead_steps}
    return found | slow if optim.lookahead else found


def timm_name(optim: Optim) -> str:
    """What timm calls an optimiser."""
    return f"lookahead_{optim.name}" if optim.lookahead else optim.name


def options(config: Config) -> dict[str, Any]:
    """`ARGS` as timm's train.py would be given them, those that mean something."""
    used = [name for name in ARGS if name not in USED or USED[name](config)]
    found = {name: _field(config, ARGS[name]) for name in used}
    power = {"linear": 1.0, "poly": config.schedule.power}.get(config.schedule.name)
    return found if power is None else found | {"sched": "poly", "decay_rate": power}


def optimizer_options(config: Config) -> dict[str, Any]:
    """The options of timm's train.py that make the optimiser of the config."""
    optim, own = config.optim, own_settings(config.optim)
    found: dict[str, Any] = {
        "opt": timm_name(optim),
        "lr": base_lr(optim, config.data.batch_size),
        "weight_decay": optim.weight_decay,
    }
    found |= {"momentum": optim.momentum, "layer_decay": optim.layer_decay}
    found |= {"layer_decay_min_scale": optim.layer_decay_min_scale} if optim.layer_decay_min_scale else {}
    found |= {f"opt_{name}": own[name] for name in ("betas", "eps") if name in own}
    return {name: value for name, value in found.items() if value is not None}


def _field(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def leaf(name: str) -> tuple[str, str]:
    """The field of an optax state and the parameter's path, of a name such as "opt_state/2/mu/head/fc/bias"."""
    found = re.fullmatch(r"opt_state/(?:\d+/)*(\w+)(?:/(.+))?", name)
    return (found[1], found[2] or "") if found else ("", "")
